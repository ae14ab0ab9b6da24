"""How far a command is: a bar on a terminal, plain lines in a log, and stdout left to the answer."""

import json
import os
import re
import select
import subprocess
import sys

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.cli import main, show

BUILD = ["build", "net.onnx", "-o", "net.edge", "--calibration", "calibration.npz", "--evaluate", "evaluation.npz",
         "--max-drop", "50"]  # fmt: skip


class Clock:
    """Stands until it is told otherwise."""

    def __init__(self):
        self.now_s = 100.0

    def boot_s(self):
        return self.now_s


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The current folder, with a model and its data."""
    monkeypatch.chdir(tmp_path)
    hg.save(hg.residual(), tmp_path / "net.onnx")
    np.savez("calibration.npz", image=hg.pixels(40, 1) / np.float32(255))
    np.savez("evaluation.npz", image=hg.pixels(60, 2) / np.float32(255), labels=np.arange(60) % 10)
    return tmp_path


def on_a_terminal(code):
    """Runs code whose stderr is a terminal, and gives what was shown there."""
    leader, follower = os.openpty()
    try:
        done = subprocess.run([sys.executable, "-c", code], stderr=follower, timeout=60)
        os.close(follower)
        assert done.returncode == 0
        return os.read(leader, 65536).decode()
    finally:
        os.close(leader)


def read_until(descriptor, wanted, deadline_s=60):
    """Gives what comes from a terminal until `wanted` was there."""
    shown = ""
    while wanted not in shown:
        assert select.select([descriptor], [], [], deadline_s)[0], f"{wanted!r} did not come, only {shown!r}"
        shown += os.read(descriptor, 4096).decode()
    return shown


def test_a_log_gets_a_line_as_a_stage_begins_and_one_with_its_seconds_as_it_ends(capsys):
    clock = Clock()
    with show.Progress(clock) as progress:
        progress("calibrate", 0, 1)
        for done in range(1, 1001):
            clock.now_s += 0.01
            progress("calibrate", done, 1000)
        progress("pack", 0, 1)
        clock.now_s += 0.5
        progress("pack", 1, 1)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "edge-sdk: calibrate ...", "edge-sdk: calibrate: done in 10.0 s", "edge-sdk: pack ...", "edge-sdk: pack: done in 0.5 s",
    ]  # fmt: skip


def test_a_log_hears_of_a_long_stage_now_and_then(capsys):
    clock = Clock()
    with show.Progress(clock) as progress:
        for done in range(101):
            progress("calibrate", done, 100)
            clock.now_s += 1
    between = capsys.readouterr().err.splitlines()[1:-1]
    assert between == [f"edge-sdk: calibrate: {done} of 100, {done} s so far" for done in (30, 60, 90)]


def test_a_stage_that_comes_again_right_after_itself_is_one_in_a_log(capsys):
    with show.Progress(Clock()) as progress:
        for _ in range(50):
            progress("pin", 0, 1)
            progress("pin", 8, 8)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_stage_that_failed_is_not_said_to_be_done(capsys):
    clock = Clock()

    def fail():
        with show.Progress(clock) as progress:
            progress("gate", 1, 4)
            clock.now_s += 2
            raise ValueError

    with pytest.raises(ValueError, match="^$"):
        fail()
    assert capsys.readouterr().err.splitlines()[-1] == "edge-sdk: gate: stopped after 2.0 s"


def test_a_terminal_s_line_ends_and_shows_the_time_left():
    shown = on_a_terminal(
        "from edge_sdk.cli import show\np = show.Progress()\np('calibrate', 1, 4)\np('calibrate', 4, 4)\n"
    )
    assert "s left" in shown
    assert shown.rstrip(" ").endswith("\n")


def test_a_terminal_s_seconds_go_on_while_a_stage_tells_nothing():
    """As in a conversion, of which only the child that does it could know how far it is."""
    code = (
        "import sys\nfrom edge_sdk.cli import show\n"
        "with show.Progress() as p:\n p('convert', 0, 1)\n sys.stdin.readline()\n p('convert', 1, 1)\n"
    )
    leader, follower = os.openpty()
    try:
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=follower) as child:
            os.close(follower)
            while_it_runs = read_until(leader, "\rconvert")
            child.communicate(b"\n", timeout=60)
        assert child.returncode == 0
        assert re.search(r"\rconvert .* \d s", while_it_runs + os.read(leader, 65536).decode())
    finally:
        os.close(leader)


def test_brief_stages_that_tell_no_steps_leave_a_terminal_alone():
    shown = on_a_terminal(
        "from edge_sdk.cli import show\n"
        "with show.Progress() as p:\n p('read', 0, 1)\n p('read', 1, 1)\n p('scan', 2, 2)\n p('scan', 2, 2)\n"
    )
    assert "read" not in shown
    assert shown.count("\n") == 1


def test_a_build_s_log_tells_each_stage_on_stderr_and_nothing_but_the_answer_on_stdout(work, capsys):
    assert main.run([*BUILD, "--json"]) == 0
    said = capsys.readouterr()
    built = json.loads(said.out)
    lines = said.err.splitlines()
    for stage in built["seconds"]:
        assert f"edge-sdk: {stage} ..." in lines
        assert any(re.fullmatch(rf"edge-sdk: {stage}: done in \d+\.\d s", line) for line in lines), stage
    assert len(lines) <= 2 * (len(built["seconds"]) + 2)


def test_a_refusal_stands_last_in_the_log(work, capsys):
    np.savez("evaluation.npz", image=hg.pixels(60, 2) * np.float32(np.nan), labels=np.arange(60) % 10)
    assert main.run(BUILD) == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"edge-sdk: \w+: stopped after \d+\.\d s", lines[-2])
    assert "NaN" in lines[-1]
