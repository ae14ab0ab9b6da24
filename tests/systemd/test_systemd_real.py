"""The device unit under the real systemd: it hangs, it crashes early and late, it storms, it is stopped."""

import json
import os
import sys
import time
from pathlib import Path

import namespace
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))
import test_sense_jtop  # noqa: E402 - the double of jtop's library

pytestmark = [
    pytest.mark.skipif(bool(namespace.why_not()), reason=namespace.why_not() or "it can be run"),
    pytest.mark.timeout(300),
]

WATCHDOG_S, RESTART_S, GRACE_S = 2, 0.3, 2
START_S = 30
"""Python and its imports on a machine that others use as well; systemd's part is measured beside it."""


@pytest.fixture
def run(tmp_path, tiny_bundle):
    """Starts the unit; what is changed about it is named by the test."""
    opened = []

    def start(**changes):
        made = namespace.Namespace(tmp_path / "stage", tiny_bundle.path, watchdog_s=WATCHDOG_S, **changes).__enter__()
        opened.append(made)
        return made

    yield start
    for one in opened:
        one.__exit__()


def started(one):
    one.systemctl("start", "--no-block", "edge-sdk-device.service")
    pid = one.wait_until_ready()
    assert one.infer(1.0) == (0, "200"), one.words()
    return pid


def seconds_until(one, condition, timeout_s):
    start_s = time.monotonic()
    one.wait_for(condition, timeout_s)
    return time.monotonic() - start_s


def test_a_hang_in_the_engine_is_ended_by_the_watchdog_and_it_serves_again(run, capsys):
    one = run()
    pid = started(one)
    one.infer(100.0, timeout_s=1)  # never answers
    ended_s = 1 + seconds_until(one, lambda: one.show()["MainPID"] != pid, WATCHDOG_S + GRACE_S + 3)
    one.wait_until_ready(unlike=pid, timeout_s=START_S)
    assert one.show()["NRestarts"] == "1"
    assert one.infer(1.0) == (0, "200")
    assert one.last_end() == ""  # the new process has read and told it
    with capsys.disabled():
        print(f"\nhang: ended {ended_s:.1f} s after the request, WatchdogSec={WATCHDOG_S}")
    # The watchdog was fed by the beat before, up to one interval of 1 s ago.
    assert ended_s <= WATCHDOG_S + RESTART_S + GRACE_S


def test_without_a_watchdog_the_hang_lasts(run):
    """The control: what ends the hang is the watchdog, and nothing else."""
    one = run()
    drop_in = one.srv / "units/edge-sdk-device.service.d/without.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nWatchdogSec=0\n")
    one.systemctl("daemon-reload")
    pid = started(one)
    one.infer(100.0, timeout_s=1)
    deadline_s = time.monotonic() + 3 * WATCHDOG_S
    while time.monotonic() < deadline_s:
        assert one.show()["MainPID"] == pid
        time.sleep(0.5)


def test_a_process_that_stands_still_is_ended_as_well(run):
    one = run()
    pid = started(one)
    namespace.stop(namespace.outer_pid(one, pid))
    one.wait_until_ready(unlike=pid, timeout_s=WATCHDOG_S + GRACE_S + START_S)
    assert one.infer(1.0) == (0, "200")


def test_an_idle_daemon_is_left_alone(run):
    one = run()
    pid = started(one)
    deadline_s = time.monotonic() + 3 * WATCHDOG_S
    while time.monotonic() < deadline_s:
        assert one.show()["MainPID"] == pid, one.words()
        time.sleep(0.5)


def test_a_crash_while_it_serves_is_restarted(run, capsys):
    one = run()
    pid = started(one)
    start_s = time.monotonic()
    one.infer(200.0)
    one.wait_until_ready(unlike=pid, timeout_s=START_S)
    with capsys.disabled():
        print(f"\ncrash: ready again after {time.monotonic() - start_s:.1f} s")
    assert one.infer(1.0) == (0, "200")
    assert one.show()["NRestarts"] == "1"


def test_a_storm_of_crashes_stops_and_is_told_once(run):
    one = run(burst=3)
    one.crash_at_load()
    one.systemctl("start", "--no-block", "edge-sdk-device.service")
    one.wait_for(lambda: one.show()["ActiveState"] == "failed" and one.fired(), 90)
    assert one.show()["NRestarts"] == "3"  # the third restart was asked for and refused
    time.sleep(2)
    assert one.show()["ActiveState"] == "failed"
    assert one.fired() == ["edge-sdk-device.service"]
    assert one.last_end().split()[0] in ("signal", "core-dump")


def test_a_bundle_that_crashes_at_each_start_is_left_out_and_the_daemon_stays(run):
    one = run(burst=10)
    one.crash_at_load()
    one.systemctl("start", "--no-block", "edge-sdk-device.service")
    one.wait_until_ready(timeout_s=90)
    one.wait_for(lambda: one.ask("/v2").get("name"), START_S)
    assert "error" in one.ask()
    assert (one.show()["NRestarts"], one.fired()) == ("3", [])


def test_without_a_limit_the_storm_goes_on(run):
    """The control: what stops the storm is the limit, where no version gives way to another."""
    one = run(burst=1000)
    one.drop_in(namespace.FORGETFUL)
    one.crash_at_load()
    one.systemctl("start", "--no-block", "edge-sdk-device.service")
    one.wait_for(lambda: int(one.show().get("NRestarts", 0)) >= 5, 120)
    assert one.fired() == []


def test_a_stop_under_load_ends_well_and_in_time(run):
    one = run()
    started(one)
    one.run("sh", "-c", "for i in 1 2 3; do (curl -s -m 5 http://127.0.0.1:8000/v2 >/dev/null &) ; done")
    start_s = time.monotonic()
    one.systemctl("stop", "edge-sdk-device.service")
    assert time.monotonic() - start_s <= 20
    state = one.show()
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success"), one.words()
    assert one.last_end().split()[0] == "success"


def test_the_sandbox_is_really_there(run):
    one = run()
    pid = namespace.outer_pid(one, started(one))
    status = namespace.status_of(pid)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split()[0] != "0"
    root = f"/proc/{pid}/root"
    look = one.run("sh", "-c", f"grep edge-sdk /etc/passwd; ls -ld {root}/var/lib/edge-sdk; ls /var/lib/edge-sdk")
    assert "edge-sdk" in look.stdout


def test_the_collectors_unit_stores_what_comes_and_keeps_its_secrets(run):
    one = run()
    one.broker()
    one.systemctl("start", "edge-sdk-collector.service")
    started(one)
    database = one.stage / "var_lib/private/edge-sdk-collector/telemetry.db"
    one.wait_for(lambda: len(one.samples()) >= 2 and database.exists(), START_S)
    state = one.show("edge-sdk-collector.service")
    status = namespace.status_of(namespace.outer_pid(one, state["MainPID"]))
    assert (state["ActiveState"], state["NRestarts"]) == ("active", "0")
    assert int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split()[0] != "0"
    assert oct(database.parent.stat().st_mode)[-3:] == "700"
    start_s = time.monotonic()
    one.systemctl("stop", "edge-sdk-collector.service")
    assert time.monotonic() - start_s <= 20
    assert one.show("edge-sdk-collector.service")["Result"] == "success", one.words()


def test_the_reader_of_jtop_is_apart_and_the_daemon_reads_it(run):
    one = run()
    (one.srv / "jtop.py").write_text(test_sense_jtop.DOUBLE)
    (one.srv / "mode").write_text("work")
    one.systemctl("start", "edge-sdk-jtop.service")
    started(one)

    def reads():
        answer = one.run("curl", "-s", "http://127.0.0.1:8000/telemetry").stdout
        return answer and json.loads(answer).get("emc_frequency_hz")

    assert one.wait_for(reads, START_S) == 3_199_000_000
    reader = namespace.outer_pid(one, one.show("edge-sdk-jtop.service")["MainPID"])
    daemon = namespace.outer_pid(one, one.show()["MainPID"])
    group = one.run("sh", "-c", "grep ^jtop: /etc/group").stdout.split(":")[2]
    assert group in namespace.status_of(reader)["Groups"].split()
    assert group not in namespace.status_of(daemon)["Groups"].split()  # that group is close to root
    assert os.readlink(f"/proc/{reader}/ns/net") != os.readlink(f"/proc/{daemon}/ns/net")
    assert int(namespace.status_of(reader)["CapEff"], 16) == 0
    one.systemctl("stop", "edge-sdk-jtop.service")

    def reason():
        answer = json.loads(one.run("curl", "-s", "http://127.0.0.1:8000/telemetry").stdout)
        return answer.get("missing", {}).get("emc_frequency_hz")

    assert one.wait_for(reason, START_S)
    assert one.infer(1.0) == (0, "200")
