"""What `edge-sdk doctor` says of machines with and without what is needed."""

import json
import subprocess
import sys

import msgspec
import pytest

from edge_sdk.cli import diagnosis, main
from edge_sdk.device.sense import boards
from edge_sdk.device.slots import proving, trials
from edge_sdk.testing.board import FakeBoard


def doctor(capsys, *arguments):
    code = main.run(["doctor", "--broker", "mqtt://127.0.0.1:1", *arguments])
    return code, capsys.readouterr().out


def found(document, name):
    return next(one for one in document["software"] if one["name"] == name)


def test_this_machine_can_run_bundles_and_every_gap_is_explained(capsys):
    code, text = doctor(capsys, "--json")
    document = json.loads(text)
    assert (code, document["ok"], document["missing"]) == (0, True, [])
    assert found(document, "onnxruntime")["status"] == "ok"
    gaps = {metric for metric, value in document["sensors"].items() if value is None}
    assert document["missing_sensors"].keys() == gaps
    assert all(document["missing_sensors"].values())


def test_for_people_it_is_a_page_with_a_verdict(capsys):
    code, text = doctor(capsys)
    assert code == 0
    for words in ("machine", "software", "broker", "sensors:", "This machine can run bundles."):
        assert words in text
    assert "nobody answers" in text
    assert "-> edge-sdk broker" in text


def test_a_jetson_without_tensorrt_is_told_how_to_mend_it(capsys, tmp_path):
    FakeBoard(tmp_path).become("orin_nano")
    code, text = doctor(capsys, "--json", "--root", str(tmp_path))
    document = json.loads(text)
    assert (code, document["ok"]) == (1, False)
    assert [one["name"] for one in document["missing"]] == ["tensorrt", "pycuda"]
    assert "python3-libnvinfer" in document["missing"][0]["remedy"]
    assert document["machine"]["module"] == "Jetson Orin Nano"
    assert document["machine"]["simulated"] == "yes"
    assert found(document, "JetPack")["words"] == "6.2 (L4T 36.4.3), brings TensorRT 10.3.0"
    assert "has no DLA" in found(document, "DLA")["words"]
    assert document["sensors"]["power_w"] == 6.0
    code, text = doctor(capsys, "--root", str(tmp_path))
    assert code == 1
    assert "This machine can't run bundles yet:" in text


def test_a_version_that_is_not_loaded_any_more_is_named_with_what_to_do(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert json.loads(doctor(capsys, "--json")[1])["versions"] == []
    folder = tmp_path / "edge-sdk" / "default.cam"
    folder.mkdir(parents=True)
    (tmp_path / "edge-sdk" / "default.damaged").mkdir()
    (tmp_path / "edge-sdk" / "default.damaged" / proving.FILE).write_text("{")
    good, bad = (trials.Trial(model="a", version=version, digest=version * 64) for version in "12")
    bad = msgspec.structs.replace(bad, bad="3 starts ended with it")
    (folder / proving.FILE).write_bytes(msgspec.json.encode(trials.Trials(versions=(good, bad))))
    code, text = doctor(capsys, "--json")
    (one,) = json.loads(text)["versions"]
    assert (code, one["name"], one["words"]) == (0, "a 2", "is not loaded any more: 3 starts ended with it")
    assert str(folder / proving.FILE) in one["remedy"]
    assert "BROKEN   a 2 " in doctor(capsys)[1]


def test_a_package_that_crashes_on_import_takes_nobody_along(monkeypatch, tmp_path):
    (tmp_path / "crashing.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (tmp_path / "raising.py").write_text("raise RuntimeError('no GPU driver')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    crashing = diagnosis.look_at_package("crashing", remedy="mend it", is_needed=True, code="import crashing")
    assert (crashing.status, "crashed with signal 11" in crashing.words) == ("broken", True)
    raising = diagnosis.look_at_package("raising", remedy="mend it", code="import raising")
    assert (raising.status, "no GPU driver" in raising.words) == ("broken", True)


def test_what_runs_without_pips_knowledge_is_there(monkeypatch, tmp_path):
    """JetPack's packages come from apt."""
    (tmp_path / "from_apt.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert diagnosis.look_at_package("from_apt", remedy="", is_needed=True, code="import from_apt").status == "ok"


@pytest.mark.parametrize(("is_needed", "status"), [(True, "missing"), (False, "absent")])
@pytest.mark.parametrize("code", ["", "import surely_not_there"])
def test_what_is_not_there_is_missing_only_where_it_is_needed(is_needed, status, code):
    found = diagnosis.look_at_package("surely_not_there", remedy="get it", is_needed=is_needed, code=code)
    assert (found.status, found.words) == (status, "not installed")


def test_cudas_version_is_read_from_its_own_file(tmp_path):
    file = tmp_path / "usr/local/cuda/version.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}, "nvcc": {"version": "12.6.68"}}')
    software = diagnosis.look_at_software(tmp_path, is_jetson=False)
    assert next(one for one in software if one.name == "CUDA toolkit").words == "12.6.11"


def test_a_card_without_its_reader_is_told(tmp_path):
    driver = tmp_path / "proc/driver/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("NVRM version: 580.00")
    names = [one.name for one in diagnosis.look_at_software(tmp_path, is_jetson=False)]
    assert "nvidia-ml-py" in names


def test_no_gpu_library_is_loaded_into_the_doctor_itself():
    code = (
        "import sys\nfrom edge_sdk.cli import main\nmain.run(['doctor', '--json'])\n"
        "heavy = {'tensorrt', 'tensorrt_rtx_bindings', 'pycuda', 'onnxruntime', 'onnx'} & sys.modules.keys()\n"
        "print('loaded:', *heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.split() == ["loaded:"]


def test_the_table_of_rails_names_every_rail_with_its_role_and_source_and_this_machine(tmp_path, capsys):
    FakeBoard(tmp_path).become("agx_orin")
    assert main.run(["doctor", "--rails", "--root", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for one in boards.BOARDS:
        assert all(f"{rail.label:<18} {rail.role:<6} {rail.source}" in text for rail in one.rails)
    (here,) = [line for line in text.splitlines() if "<- this machine" in line]
    assert here.startswith("AGX Orin (p3701")
    assert main.run(["doctor", "--rails", "--json", "--root", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["here"], len(found["boards"])) == ("p3701", len(boards.BOARDS))
