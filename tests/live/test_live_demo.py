"""The demo, as a user runs it: its summary is believed because each figure is checked, and it leaves nothing behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edge_sdk

ASSETS = Path(edge_sdk.__file__).parent / "cli" / "demo"
PROMISED = {
    "float_top1", "int8_top1", "drop", "latency_p50_ms", "latency_p99_ms", "throughput_hz", "samples_sent", "samples_stored",
    "samples_lost", "compiler", "power", "peak_rss_bytes", "seconds",
}  # fmt: skip

pytestmark = pytest.mark.live


def processes_of(folder: Path) -> list[str]:
    """Gives the command lines of running processes that work in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            works_there = str(folder) in command or str(folder) in os.readlink(entry / "cwd")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it has just ended
        if works_there and state != "Z" and int(entry.name) != os.getpid():
            found.append(command)
    return found


def heed_ctrl_c() -> None:
    """A job started in the background of a shell ignores Ctrl-C; a user's terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "edge_sdk", "demo", "--json", "--seconds", "2", *options]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )


def finish(demo: subprocess.Popen, seconds: float) -> tuple[str, str]:
    """Gives what the demo printed; one that does not end in time is killed, so that no later test meets it."""
    try:
        return demo.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        demo.kill()
        demo.communicate()
        raise


def wait_until_gone(folder: Path, seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


@pytest.mark.timeout(240)
def test_the_demo_tells_the_truth_and_loses_nothing(tmp_path):
    demo = start(tmp_path)
    out, err = finish(demo, 200)
    assert demo.returncode == 0, err
    summary = json.loads(out)
    assert set(summary) >= PROMISED
    assert summary["samples_lost"] == 0
    assert summary["samples_sent"] == summary["samples_stored"] >= 3
    assert summary["drop"] <= 0.5
    assert summary["float_top1"] >= 0.88
    assert abs(summary["served_top1"] - summary["expected_top1"]) <= 0.001 + 1e-9
    assert abs(summary["served_top1"] - summary["int8_top1"]) <= 0.001 + 1e-9
    assert (summary["power"]["value"] is None) == bool(summary["power"]["reason"])
    assert summary["latency_p50_ms"] <= summary["latency_p99_ms"]
    closing = json.loads((tmp_path / "demo-run" / "daemon.json").read_text())
    assert closing["spool"]["held"] == 0, "the last Sample left without its receipt"
    assert all((tmp_path / path).exists() for path in summary["files"].values())
    assert wait_until_gone(tmp_path, 5) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mark", ["$ edge-sdk build", "$ edge-sdk broker", "$ edge-sdk collector", "demo-device 0:"])
def test_ctrl_c_at_any_moment_leaves_no_process_behind(tmp_path, mark):
    demo = start(tmp_path, "--seconds", "60")
    for line in demo.stderr:
        if mark in line:
            break
    demo.send_signal(signal.SIGINT)
    _, err = finish(demo, 60)
    assert demo.returncode == 130, err
    assert "Traceback" not in err
    assert wait_until_gone(tmp_path, 5) == []


def test_ctrl_c_while_a_child_is_being_started_is_not_forgotten(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from edge_sdk.cli.children import Children\n"
        "os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "with Children(Path(sys.argv[1])) as children:\n"
        "    children.start('watch', ['broker', '--port', '0'])\n"
        "    print('went on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        preexec_fn=heed_ctrl_c,
    )
    assert "KeyboardInterrupt" in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "went on" not in done.stdout
    assert wait_until_gone(tmp_path, 5) == []


@pytest.mark.timeout(120)
def test_kill_9_of_the_demo_takes_its_children_along(tmp_path):
    demo = start(tmp_path, "--seconds", "60")
    for line in demo.stderr:
        if "demo-device 0:" in line:
            break
    assert len(processes_of(tmp_path)) >= 4
    demo.kill()
    finish(demo, 60)
    assert wait_until_gone(tmp_path, 10) == []


def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path):
    folder = tmp_path / "demo-run"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    demo = start(tmp_path)
    _, err = finish(demo, 60)
    assert demo.returncode == 2
    assert "--output" in err
    assert [path.name for path in folder.iterdir()] == ["precious"]


def test_the_shipped_files_are_those_of_the_training_log():
    log = json.loads((ASSETS / "training.json").read_text())
    for name, digest in log["sha256"].items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest, name
