"""An engine built on another machine comes back into the bundle; whatever goes wrong, both sides stay as they were."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sshd

from edge_sdk.cli import main
from edge_sdk.engines import plans
from edge_sdk.wire import bundles

TOKEN = "p3767-0000-sm87x8-trt10.3.0.26"
MADE = [f"engine.{TOKEN}.json", f"engine.{TOKEN}.plan", f"timing.{TOKEN}.cache"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if sshd.SSHD is None:
        pytest.skip("no sshd here: apt install openssh-server (nothing of `--on user@host` was tested)")
    running = sshd.Ssh(tmp_path_factory.mktemp("sshd"))
    try:
        running.wait_until_it_answers()
        yield running
    finally:
        running.stop()


@pytest.fixture
def board(tmp_path):
    return sshd.Board(tmp_path / "board")


def words(server, board, bundle, *more, there=None, ssh=None):
    command = ["compile", str(bundle.path), "--on", sshd.target(), "--ssh", ssh or server.command()]
    return [*command, "--there", there or board.edge_sdk, *more]


def refused(capsys, bundle, board, argv, code, *said):
    """The command ends with `code` and these words, and nothing changed anywhere."""
    assert main.run(argv) == code
    shown = capsys.readouterr().err
    assert all(word in shown for word in said), shown
    assert bundles.read_bundle(bundle.path).digest == bundle.digest
    assert [path.name for path in bundle.path.parent.iterdir() if path.name.startswith(".")] == []
    assert board.left() == []


def test_engine_passport_and_timing_cache_come_back(server, board, tiny_bundle, capsys):
    assert main.run(words(server, board, tiny_bundle, "--json")) == 0
    document = msgspec.json.decode(capsys.readouterr().out)
    after = bundles.read_bundle(tiny_bundle.path)
    assert (document["digest"], document["on"]) == (after.digest, sshd.target())
    assert after.digest != tiny_bundle.digest
    assert sorted(set(after.manifest.files) - set(tiny_bundle.manifest.files)) == MADE
    passport = plans.read_engine_passport(after.path / document["plan"])
    assert passport.sha256 == after.manifest.files[document["plan"]].sha256
    assert passport.model == after.manifest.files[bundles.FLOAT_MODEL].sha256
    assert board.left() == []


def test_only_what_is_compiled_goes_there_and_a_timing_cache_goes_with_the_next(server, board, tiny_bundle):
    assert main.run(words(server, board, tiny_bundle, "--shape", "x=1x3:2x3:4x3", "--dla", "1")) == 0
    given = json.loads((board.folder / "given").read_text())
    assert given["files"] == ["manifest.json", "model.float.onnx"]
    assert (given["shapes"], given["dla"]) == ({"x": [[1, 3], [2, 3], [4, 3]]}, 1)
    first = bundles.read_bundle(tiny_bundle.path).digest
    assert main.run(words(server, board, tiny_bundle)) == 0
    assert json.loads((board.folder / "given").read_text())["files"] == sorted(
        ["manifest.json", "model.float.onnx", MADE[0], MADE[2]]
    )
    assert bundles.read_bundle(tiny_bundle.path).digest == first, "the same engine, the same bundle"


def test_a_login_that_greets_is_no_trouble(server, board, tiny_bundle):
    board.will("greets")
    assert main.run(words(server, board, tiny_bundle)) == 0


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="pip install 'edge_sdk[rtx]' for NVIDIA's compiler",
)
def test_nvidias_own_compiler_over_there(server, board, tiny_bundle):
    assert main.run(words(server, board, tiny_bundle, "--backend", "tensorrt-rtx")) == 0
    made = set(bundles.read_bundle(tiny_bundle.path).manifest.files) - set(tiny_bundle.manifest.files)
    assert len(made) == 1
    assert made.pop().startswith("engine.rtx-")


def test_the_cpu_over_there_loads_and_nothing_comes_back(server, board, tiny_bundle, capsys):
    assert main.run(words(server, board, tiny_bundle, "--backend", "onnxruntime", "--json")) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["engine"] == "onnxruntime"
    assert bundles.read_bundle(tiny_bundle.path).digest == tiny_bundle.digest
    assert board.left() == []


def test_a_machine_that_is_not_there(server, board, tiny_bundle, capsys):
    argv = words(server, board, tiny_bundle, ssh=server.command("-p", str(sshd.free_port())))
    refused(capsys, tiny_bundle, board, argv, 5, "can't be reached", "refused", "true`")


def test_a_key_that_it_does_not_know(server, board, tiny_bundle, tmp_path, capsys):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    ssh = server.command().replace(str(server.folder / "client"), str(tmp_path / "other"))
    refused(capsys, tiny_bundle, board, words(server, board, tiny_bundle, ssh=ssh), 5, "Permission denied")


def test_no_edge_sdk_there(server, board, tiny_bundle, capsys):
    argv = words(server, board, tiny_bundle, there="/opt/none/edge-sdk")
    refused(capsys, tiny_bundle, board, argv, 2, "has no '/opt/none/edge-sdk'", "install edge_sdk there", "--there")


def test_something_else_there(server, board, tiny_bundle, capsys):
    there = board.script("other", "printf 'usage: \\033[31mother\\n'; exit 2")
    argv = words(server, board, tiny_bundle, there=there)
    refused(capsys, tiny_bundle, board, argv, 4, "ended with code 2", "usage: [31mother", "same edge_sdk")


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("full", 1, ("can't build this bundle", "room in", "are free", "TMPDIR")),
        ("old", 1, ("can't build this bundle", "bundle schema", "update edge_sdk there")),
        ("nano", 1, ("can't build this bundle", "TensorRT: 8.2.1.9 is there", "from 8.6 on")),
        ("no gpu", 4, ("127.0.0.1: no GPU answers",)),
        ("refuses", 4, ("refused the model", "no layer like that")),
        ("lies", 3, ("not the engine of its passport",)),
        ("strays", 4, ("127.0.0.1",)),
    ],
)
def test_what_is_wrong_there_is_told_here(server, board, tiny_bundle, capsys, mode, code, said):
    board.will(mode)
    refused(capsys, tiny_bundle, board, words(server, board, tiny_bundle), code, *said)


def test_an_int8_bundle_for_a_module_without_int8(server, board, tmp_path, tiny_onnx, write_bundle, capsys):
    made = write_bundle(tmp_path / "int8.edge", tiny_onnx, name="int8")
    files = {bundles.INT8_MODEL: tiny_onnx, **{name: made.file(name) for name in made.manifest.files}}
    entries = {name: bundles.file_entry(content) for name, content in files.items()}
    manifest = msgspec.structs.replace(made.manifest, precision="int8", files=entries)
    int8 = bundles.write_bundle(made.path, manifest, files, replace=True)
    board.will("nano")
    argv = words(server, board, int8)
    refused(capsys, int8, board, argv, 1, "no INT8 for Jetson Nano (p3448-0000)", "--precision fp16", "TensorRT: 8.2")
    board.will("")
    assert main.run(argv) == 0


def test_a_compiler_that_is_not_there_says_how_to_get_it_there(server, board, tiny_bundle, capsys):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    there = board.script("plain", f'exec {sys.executable} -m edge_sdk "$@"')
    argv = words(server, board, tiny_bundle, there=there)
    refused(capsys, tiny_bundle, board, argv, 2, "127.0.0.1: tensorrt is not installed", "python3-libnvinfer")


@pytest.mark.parametrize("blocks", [0, 1], ids=["from the start", "in the middle"])
def test_a_disk_that_fills_up_there(server, board, tiny_bundle, capsys, blocks):
    # A limit on the size of files, in blocks of 512 bytes: the nearest to a full disk that needs no root.
    there = board.script("small", f'ulimit -f {blocks}; exec {board.folder}/edge-sdk "$@"')
    argv = words(server, board, tiny_bundle, there=there)
    refused(capsys, tiny_bundle, board, argv, 4, "can't be kept there", "free some room")


@pytest.mark.parametrize("target", ["-oProxyCommand=false", "", " "])
def test_a_name_that_is_an_option_is_no_machine(server, board, tiny_bundle, capsys, target):
    argv = words(server, board, tiny_bundle)
    argv[argv.index("--on") + 1] = target
    argv[argv.index("--on") : argv.index("--on") + 2] = [f"--on={target}"]
    refused(capsys, tiny_bundle, board, argv, 2, "expected user@host")


def test_a_signed_bundle_goes_nowhere(server, board, tiny_bundle, capsys):
    (tiny_bundle.path / bundles.SIGNATURE).write_bytes(b"signature")
    assert main.run(words(server, board, tiny_bundle)) == 3
    assert "signed" in capsys.readouterr().err
    assert not (board.folder / "given").exists()


@pytest.fixture
def slow(server, board, tiny_bundle, until):
    """A command whose compiler over there is at work, and the process that it is in."""
    board.will("slow")
    command = [sys.executable, "-m", "edge_sdk", *words(server, board, tiny_bundle)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            until(lambda: (board.folder / "pid").exists() and (board.folder / "pid").read_text(), "the compiler")
            yield running, int((board.folder / "pid").read_text())
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_on_either_side(slow, board, tiny_bundle, until, number):
    running, there = slow
    os.killpg(running.pid, number)  # as a terminal does: ssh gets it too
    running.communicate(timeout=sshd.WAIT_S)
    assert running.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until(lambda: is_gone(there), "the end of the compiler over there")
    assert board.left() == []
    assert bundles.read_bundle(tiny_bundle.path).digest == tiny_bundle.digest
    assert [path.name for path in tiny_bundle.path.parent.iterdir() if path.name.startswith(".")] == []


def test_a_machine_that_goes_away_in_the_middle(slow, board, tiny_bundle):
    running, there = slow
    os.kill(there, signal.SIGTERM)
    _, said = running.communicate(timeout=sshd.WAIT_S)
    assert running.returncode == 4
    assert "no answer" in said
    assert board.left() == []
    assert bundles.read_bundle(tiny_bundle.path).digest == tiny_bundle.digest


def build_words(server, board, tmp_path, model):
    rng = np.random.default_rng(0)
    for name, count in (("calibration", 40), ("evaluation", 40)):
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(count, 3)).astype(np.float32))
    (tmp_path / "m.onnx").write_bytes(model)
    data = ["--calibration", str(tmp_path / "calibration.npz"), "--evaluate", str(tmp_path / "evaluation.npz")]
    away = ["--on", sshd.target(), "--ssh", server.command(), "--there", board.edge_sdk]
    return ["build", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.edge"), *data, *away, "--precision", "float"]


def test_a_build_is_finished_there(server, board, tmp_path, tiny_onnx, capsys):
    assert main.run([*build_words(server, board, tmp_path, tiny_onnx), "--json"]) == 0
    document = msgspec.json.decode(capsys.readouterr().out)
    made = bundles.read_bundle(tmp_path / "m.edge")
    assert document["digest"] == document["engine"]["digest"] == made.digest
    assert set(MADE) <= set(made.manifest.files)


def test_a_build_hands_on_what_the_engine_is_for(server, board, tmp_path, tiny_onnx):
    argv = build_words(server, board, tmp_path, tiny_onnx)
    assert main.run([*argv, "--shape", "x=1x3:2x3:4x3", "--dla", "1"]) == 0
    given = json.loads((board.folder / "given").read_text())
    assert (given["shapes"], given["dla"]) == ({"x": [[1, 3], [2, 3], [4, 3]]}, 1)


def test_a_build_asks_before_the_long_work(server, board, tmp_path, tiny_onnx, capsys):
    board.will("no gpu")
    assert main.run(build_words(server, board, tmp_path, tiny_onnx)) == 4
    assert "no GPU answers" in capsys.readouterr().err
    assert not (tmp_path / "m.edge").exists()


def test_a_build_that_can_t_be_finished_is_kept_and_says_how(server, board, tmp_path, tiny_onnx, capsys):
    board.will("refuses")
    assert main.run(build_words(server, board, tmp_path, tiny_onnx)) == 4
    said = capsys.readouterr().err
    assert "no layer like that" in said
    assert "edge-sdk compile" in said
    assert bundles.read_bundle(tmp_path / "m.edge").manifest.precision == "float"
