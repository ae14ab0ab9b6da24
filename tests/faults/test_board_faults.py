"""Faults of the board and of the service: memory, jtop, heat, sensors, a stop under load, a storm of restarts."""

import contextlib
import json
import math
import os
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from edge_sdk.device import reports
from edge_sdk.device.sense import board, together
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

for folder in ("systemd", "unit"):
    sys.path.append(str(Path(__file__).parents[1] / folder))
import namespace  # noqa: E402 - of the suite beside this one
import test_sense_jtop as jtop_tests  # noqa: E402

real_systemd = pytest.mark.skipif(bool(namespace.why_not()), reason=namespace.why_not() or "it can be run")
MEMORY = Path("/sys/fs/cgroup/memory")
WHO = reports.Identity("plant", "cam-7", "0123456789abcdef")
START_S = 60
"""Python and its imports on a machine that others use as well."""


@pytest.fixture
def run(tmp_path, tiny_bundle):
    """Starts systemd with our units; what is changed about it is named by the test."""
    opened = []

    def start(part="", **changes):
        made = namespace.Namespace(tmp_path / f"stage{part}", tiny_bundle.path, **{"watchdog_s": 30, **changes})
        opened.append(made.__enter__())
        return made

    yield start
    for one in opened:
        one.__exit__()


def started(one):
    one.systemctl("start", "--no-block", "edge-sdk-device.service")
    pid = one.wait_until_ready(timeout_s=START_S)
    one.wait_for(lambda: one.infer(1.0) == (0, "200"), START_S)
    return pid


@contextlib.contextmanager
def memory_limit(pid, spare_bytes):
    """Lets a process have so much memory beyond what it has."""
    group = MEMORY / f"edge-sdk-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        # What it had before is charged to its old group, so the limit is what it may take from now on.
        (group / "memory.limit_in_bytes").write_text(str(spare_bytes))
        yield
    finally:
        deadline_s = time.monotonic() + 30
        while group.exists() and time.monotonic() < deadline_s:
            for pid in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (MEMORY / "cgroup.procs").write_text(pid)
            with contextlib.suppress(OSError):
                group.rmdir()


@real_systemd
@pytest.mark.skipif(not (MEMORY / "memory.limit_in_bytes").exists(), reason="no memory controller of cgroup 1 here")
@pytest.mark.timeout(300)
@pytest.mark.fault("D10")
def test_out_of_memory(run, fault):
    one = run()
    one.broker()
    one.systemctl("start", "edge-sdk-collector.service")
    pid = started(one)
    one.wait_for(lambda: len(one.samples()) >= 3, START_S)
    # The control first: the same request without a limit is answered, and nothing is told.
    assert one.infer(300.0, timeout_s=30) == (0, "200")
    assert (one.show()["MainPID"], "oom_killed" in one.events()) == (pid, False)
    before = one.samples()[-1]
    with memory_limit(namespace.outer_pid(one, pid), 64 * 2**20):
        start_s = time.monotonic()
        one.infer(300.0, timeout_s=30)
        one.wait_for(lambda: one.show()["MainPID"] not in ("0", pid), 30)
        again_s = time.monotonic() - start_s
    one.wait_until_ready(unlike=pid, timeout_s=START_S)
    one.wait_for(lambda: one.events().count("oom_killed") == 1, START_S)
    one.wait_for(lambda: one.samples()[-1]["boot"] != before["boot"], START_S)
    first_boot = [sample["seq"] for sample in one.samples() if sample["boot"] == before["boot"]]
    stored, lost = stored_of(one, before["boot"])
    assert (sorted(set(first_boot)), lost) == (list(range(max(first_boot) + 1)), 0)
    assert stored >= before["seq"] + 1
    assert again_s <= 0.3 + 5
    fault(
        what="the kernel kills the daemon for want of memory",
        injected="a request that takes 256 MiB, in a memory cgroup with 64 MiB to spare, under the real systemd",
        bar="signal 9 seen, started again within RestartSec + 5 s, event oom_killed, 0 published records lost",
        measured=f"started again after {again_s:.1f} s (RestartSec 0.3), 1 event oom_killed, "
        f"{stored} of {max(first_boot) + 1} stored, {lost} lost",
        control="the same request without the limit: answered, same process, no event",
    )


def stored_of(one, boot, timeout_s=30):
    """Gives how many records of a boot the collector has from 0 without a gap, and how many it counts as lost."""
    file = one.stage / "var_lib/private/edge-sdk-collector/telemetry.db"
    newest = max(sample["seq"] for sample in one.samples() if sample["boot"] == boot)

    def look():
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT upto, lost FROM sources WHERE boot = ?", (boot,)).fetchone()
        return row and row[0] is not None and row[0] >= newest and (row[0] + 1, row[1])

    return one.wait_for(look, timeout_s)


@real_systemd
@pytest.mark.timeout(400)
@pytest.mark.fault("D15")
def test_a_stop_under_load(run, fault):
    one = run()
    one.broker()
    one.systemctl("start", "edge-sdk-collector.service")
    told, answered, stop_s = loaded(one, ["stop", "edge-sdk-device.service"])
    state, closing = one.show(), one.closing()
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success"), one.words()
    assert one.last_end().split()[0] == "success"
    stored, lost = stored_of(one, closing["boot"])
    assert (stored, lost, closing["spool"]["held"]) == (closing["samples"], 0, 0)
    assert told == answered > 100
    assert stop_s <= 20
    control_told, control_answered, _ = loaded(one, ["kill", "-s", "KILL", "edge-sdk-device.service"])
    assert control_told < control_answered
    fault(
        what="SIGTERM while four clients ask without a pause",
        injected="systemctl stop under the real systemd, with a live broker and collector",
        bar="ended within TimeoutStopSec (20 s), result success, spool empty, every answer told of",
        measured=f"{stop_s:.1f} s, success, {stored} of {closing['samples']} Samples stored, {told} of {answered} "
        "answers in them",
        control=f"SIGKILL instead: {control_told} of {control_answered} answers told of",
    )


def loaded(one, order):
    """Asks from four threads, gives the order after a few Samples, and counts what was told and what was answered."""
    seen = len(one.samples())
    boots = {sample["boot"] for sample in one.samples()}
    if one.show()["ActiveState"] != "active":
        started(one)
    loader = one.python("/srv/loader.py", log="loader")
    one.wait_for(lambda: len(one.samples()) >= seen + 4, START_S)
    start_s = time.monotonic()
    one.systemctl(*order)
    spent_s = time.monotonic() - start_s
    loader.wait(60)
    (one.srv / "crash_at_load").write_text("")  # what systemd starts again is no part of this
    answered = int((one.srv / "log/loader").read_text().split()[-1])
    if order[0] == "stop":  # the last Sample may still be on its way to the listener
        one.wait_for(lambda: one.closing() and one.samples()[-1]["seq"] + 1 == one.closing()["samples"], START_S)
    else:
        time.sleep(1.5)
    mine = {sample["boot"] for sample in one.samples()[seen:]} - boots
    told = sum(window["count"] for sample in one.samples() if sample["boot"] in mine for window in sample["models"])
    (one.srv / "crash_at_load").unlink()
    one.forget_trials()
    return told - 1, answered, spent_s  # `started` asked once


@pytest.fixture
def rig(tmp_path):
    made = jtop_tests.Rig(tmp_path)
    yield made
    made.stop()


@pytest.mark.fault("D12")
@pytest.mark.parametrize("way", ["refuse", "raise", "hang", "die", "lie"])
def test_jtop_misbehaves(rig, way, fault):
    """The reader is a real process over a double of jtop's library; the daemon's side is the real one."""
    rig.start().until(jtop_tests.has_emc)
    rig.events()
    rig.set(way)
    # A jtop that repeats itself is believed until the same numbers have come a fourth time.
    rig.until(jtop_tests.is_stale if way == "lie" else lambda found: found["emc_frequency_hz"].value is None)
    longest_s, periods, kinds = 0.0, 0, []
    deadline_s = time.monotonic() + 30
    wanted = "source_stale" if way in ("hang", "die", "lie") else "sensor_lost"
    while wanted not in kinds:
        assert time.monotonic() < deadline_s, kinds
        start_s = time.perf_counter()
        found = rig.period()
        longest_s, periods = max(longest_s, time.perf_counter() - start_s), periods + 1
        assert found["emc_frequency_hz"].value is None
        assert found["gpu_utilization_ratio"].value == 0.128  # what does not come from jtop goes on
        news = rig.sensors.take_happenings()
        kinds += [one.kind for one in news if one.details.get("metric", "emc_frequency_hz") == "emc_frequency_hz"]
        time.sleep(0.1)
    reason = found["emc_frequency_hz"].reason
    if way == "hang":
        rig.process.kill()  # as systemd does after the reader's own alarm
    rig.set("work")
    if way in ("hang", "die"):
        rig.process.wait(10)
        rig.start()
    rig.until(jtop_tests.has_emc)
    assert kinds.count(wanted) == 1
    fault(
        part=way,
        what=f"jtop: {way}",
        injected="a double of its library behind the real reader process",
        bar="null at once and never repeated, told once, read again when it is back; nothing else affected",
        measured=f"null with {reason!r}; {wanted} once after {periods} periods; slowest reading of all sensors "
        f"{longest_s * 1e3:.1f} ms; back",
        control="before the fault and after it the metric has its value, and no event is told",
    )


class Board:
    """A fake board, and the Samples that a daemon would publish of it."""

    def __init__(self, root, name="orin_nano"):
        self.fake, self.clock, self.seq = FakeBoard(root), FakeClock(), -1
        self.fake.become(name)
        self.root = root
        self.sensors = together.Sensors(board.sensors_of(root, clocks=self.clock, state_folder=root))
        self.sensors.collect()
        self.sensors.take_happenings()

    def sample(self):
        self.clock.advance(1.0)
        self.seq += 1
        moment = reports.Moment(seq=self.seq, wall_s=1.75e9, boot_s=1.0, interval_s=1.0, oldest_seq=0, dropped=0)
        return reports.sample(WHO, moment, self.sensors.collect(), [])

    def events(self):
        return [one.kind for one in self.sensors.take_happenings()]


@pytest.mark.fault("D13")
def test_throttling(tmp_path, fault):
    one = Board(tmp_path)
    counter = next(tmp_path.glob("sys/class/hwmon/*/oc1_event_cnt")).relative_to(tmp_path)
    for _ in range(5):
        assert one.sample().throttled is False  # the control: counters that stand still
    assert one.events() == []
    samples, wrapped = 0, 0
    one.fake.write(str(counter), 2**32 - 1)
    while "throttled" not in one.events():
        assert one.sample().throttled
        samples += 1
    one.fake.write(str(counter), 1)
    wrapped = one.sample().overcurrent_events
    assert (samples <= 2, wrapped) == (True, 2)
    calm = [one.sample().throttled for _ in range(12)]
    assert not any(calm)
    assert one.events() == ["throttling_ended"]
    fault(
        what="over-current and thermal limits slow the machine down",
        injected="a rising event counter of a fake board, then one that wraps",
        bar="told within 2 Samples, a wrap counted right, Samples marked throttled",
        measured=f"told after {samples} Sample, the wrap counted as {wrapped} events, every Sample of it marked",
        control="5 Samples with a counter that stands still: not marked, nothing told",
    )


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.fault("D14")
def test_sensors_that_say_nonsense(tmp_path, fault):
    files = ("curr1_input", "in1_input", "temp", "oc1_event_cnt", "load", "cur_freq", "pwm1")
    nonsense = ("nan", "inf", "-inf", "-99999999", "1e999", "", "garbage", "\0", None)
    published = wrong = events = nulls = 0
    for number, content in enumerate(nonsense):
        one = Board(tmp_path / str(number))
        whole = one.sample()
        for file in (found for name in files for found in (tmp_path / str(number)).rglob(name)):
            file.unlink() if content is None else file.write_text(content)
        for _ in range(4):
            sample = one.sample()
            document = json.loads(codec.to_bytes(sample))
            published += 1
            wrong += not all(map(finite, document.values()))
            wrong += sum(
                (getattr(sample, name) or 0) < 0
                for name in ("power_w", "energy_j", "throttle_events", "overcurrent_events", "gpu_utilization_ratio")
            )
            nulls += sample.power_w is None and bool(sample.missing["power_w"])
        events += "sensor_lost" in one.events()
        assert whole.power_w is not None  # the control: before it, there was a value
    assert (wrong, nulls, events) == (0, published, len(nonsense))
    fault(
        what="sensors unplugged, not a number, negative, reset",
        injected=f"{len(nonsense)} kinds of nonsense in the files of {len(files)} kinds of sensors of a fake board",
        bar="0 non-finite values published, no rate negative",
        measured=f"{wrong} wrong values in {published} Samples; power null with its reason in {nulls}; "
        f"sensor_lost told for {events} of {len(nonsense)}",
        control="the Sample before each has its power",
    )
