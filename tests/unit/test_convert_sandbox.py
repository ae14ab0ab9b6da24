"""The child that opens models: whatever happens to it, the parent gets an answer in words and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_sdk import errors
from edge_sdk.host.convert import sandbox
from edge_sdk.host.convert.jobs import Job
from edge_sdk.host.convert.limits import Limits

MIB = 2**20


def run(folder, task, *, limits=None, **options):
    job = Job(source="model.onnx", target=str(folder / "out"))
    return sandbox.made_in_child(f"convert_tasks:{task}", job, folder=folder, limits=limits or Limits(), **options)


def refusal(folder, task, kind=errors.ModelError, **options):
    with pytest.raises(kind) as caught:
        run(folder, task, **options)
    return str(caught.value)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_result_comes_back_with_its_file(tmp_path):
    made = run(tmp_path, "gives")
    assert (made.origin, made.notes) == ("model.onnx", ("done",))
    assert (tmp_path / "out").read_bytes() == b"result"


def test_a_refusal_keeps_its_words_and_kind(tmp_path):
    assert refusal(tmp_path, "refuses") == "model.onnx is not to my taste"
    message = refusal(tmp_path, "finds_fault_with_the_call", errors.UsageError)
    assert message == "the data is wrong"


@pytest.mark.parametrize(("task", "name"), [("crashes", "SIGSEGV"), ("aborts", "SIGABRT")])
def test_a_crash_is_named(tmp_path, task, name):
    message = refusal(tmp_path, task)
    assert name in message
    assert "model.onnx" in message
    assert not list(tmp_path.glob("core*"))


def test_an_early_end_gives_the_last_words(tmp_path):
    assert "I had enough" in refusal(tmp_path, "ends_early")
    assert "a library's own words" in refusal(tmp_path, "raises")


@pytest.mark.parametrize("task", ["ends_as_if_done", "answers_nonsense", "answers_too_much", "answers_over_a_link"])
def test_an_answer_that_is_none_is_a_refusal(tmp_path, task):
    assert "answer" in refusal(tmp_path, task)


def test_time_is_limited_and_the_child_is_gone(tmp_path):
    message = refusal(tmp_path, "hangs", limits=Limits(wall_s=3))
    assert "3 s" in message
    assert "Limits.wall_s" in message
    assert not is_running((tmp_path / "out").read_text())


def test_processor_time_is_limited(tmp_path):
    message = refusal(tmp_path, "computes_for_ever", limits=Limits(cpu_s=1))
    assert "1 s of processor time" in message
    assert "Limits.cpu_s" in message


def test_memory_is_limited(tmp_path):
    assert "Limits.memory_bytes" in refusal(tmp_path, "takes_memory", limits=Limits(memory_bytes=2048 * MIB))


def test_the_size_of_files_is_limited(tmp_path):
    assert "Limits.file_bytes" in refusal(tmp_path, "writes_much", limits=Limits(file_bytes=8 * MIB))
    assert (tmp_path / "out").stat().st_size <= 8 * MIB


def test_what_the_child_started_ends_with_it(tmp_path):
    pid = run(tmp_path, "leaves_a_process").origin
    wait_until(lambda: not is_running(pid))


def test_the_child_ends_when_its_parent_is_killed(tmp_path):
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\nimport test_convert_sandbox as t\n"
        f"t.run(Path({str(tmp_path)!r}), 'hangs')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    )
    wait_until(lambda: (tmp_path / "out").is_file() and (tmp_path / "out").read_text())
    child = (tmp_path / "out").read_text()
    assert is_running(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_running(child))


def test_ctrl_c_takes_the_child_with_it(tmp_path):
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\nimport test_convert_sandbox as t\n"
        f"t.run(Path({str(tmp_path)!r}), 'hangs')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: (tmp_path / "out").is_file() and (tmp_path / "out").read_text())
    parent.send_signal(signal.SIGINT)
    assert parent.wait(20) != 0
    assert not is_running((tmp_path / "out").read_text())


def test_no_descriptor_of_ours_reaches_the_child(tmp_path):
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        assert "secret" not in run(tmp_path, "tells_its_descriptors").origin


def test_the_working_folder_does_not_decide_what_is_imported(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "msgspec.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(work)
    made = run(tmp_path, "tells_its_surroundings", environment=("EDGE_TEST=told",))
    assert made.origin == "told"
    assert made.notes[0] == str(tmp_path)
    assert str(work) not in made.notes


def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "door.py").write_text("import no_such_framework")
    monkeypatch.syspath_prepend(tmp_path)
    job = Job(source="model.onnx", target="out")
    with pytest.raises(errors.UsageError, match=r"'no_such_framework'.*pip install it"):
        sandbox.made_in_child("door:task", job, folder=tmp_path, limits=Limits(), remedy="pip install it")
