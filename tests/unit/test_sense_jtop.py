"""jtop absent, refusing, hanging, dying, lying: a process of its own, a double of its library, and our real socket."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from edge_sdk.device.sense import board, happenings, jtop_reader, together
from edge_sdk.device.sense.jtop import JtopSensor, Line
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock

DOUBLE = '''
"""Stands in for jtop: what it does is the word in a file."""
import datetime, os, time
from pathlib import Path

MODE = Path(__file__).parent / "mode"

class JtopException(Exception):
    pass

class nvpmodel:
    name = "MODE_30W"

class jtop:
    def __init__(self, interval):
        assert interval == 0.5
        self.calls = 0

    def __enter__(self):
        if MODE.read_text() == "refuse":
            raise JtopException("The jtop.service is not active. Please run: sudo systemctl restart jtop.service")
        return self

    def __exit__(self, *_):
        return False

    def ok(self):
        time.sleep(0.02)
        mode = MODE.read_text()
        if mode == "hang":
            time.sleep(3600)
        if mode == "die":
            os._exit(139)
        if mode == "raise":
            raise EOFError()
        self.calls += mode != "lie"
        return mode != "refuse"

    @property
    def stats(self):
        return {"time": datetime.datetime.now(), "uptime": time.monotonic(), "RAM": self.calls}

    gpu = {"gpu": {"type": "integrated", "status": {"load": 42.5}, "freq": {"cur": 612000}}}
    memory = {"RAM": {"shared": 1000}, "EMC": {"cur": 3199000, "val": 12}}
    engine = {"DLA0": {"DLA0_CORE": {"online": True, "cur": 1600000}, "DLA0_FALCON": {"online": True, "cur": 700}},
              "DLA1": {"DLA1_CORE": {"online": False, "cur": 0}}, "NVDEC": {"NVDEC": {"online": False, "cur": 0}}}
    fan = {"pwmfan": {"speed": [33.3], "rpm": [1000]}}
    nvpmodel = nvpmodel
'''


class Rig:
    """A reader process on the double, and an AGX Orin whose daemon reads it on a fake clock."""

    def __init__(self, folder):
        self.double = folder / "double"
        self.double.mkdir()
        (self.double / "jtop.py").write_text(DOUBLE)
        self.set("work")
        self.root = folder / "board"
        self.root.mkdir()
        FakeBoard(self.root).become("agx_orin")
        self.path = self.root / board.JTOP_SOCKET
        self.path.parent.mkdir(parents=True)
        self.clock = FakeClock()
        self.sensors = together.Sensors(board.sensors_of(self.root, clocks=self.clock, state_folder=folder))
        self.process = None

    def set(self, mode):
        file = self.double / "mode"
        file.with_suffix(".new").write_text(mode)
        file.with_suffix(".new").rename(file)

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_sdk.device.sense.jtop_reader", str(self.path), "0.05"],
            env={**os.environ, "PYTHONPATH": str(self.double)},
            stderr=subprocess.DEVNULL,
        )
        return self

    def stop(self):
        self.sensors.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def period(self):
        """What the daemon reads a second later; each reading must take no time, whatever the other side does."""
        self.clock.advance(1.0)
        start_s = time.monotonic()
        found = {reading.metric: reading for reading in self.sensors.collect()}
        assert time.monotonic() - start_s < 1.0
        return found

    def until(self, condition):
        """Periods until one fulfils the condition."""
        deadline_s = time.monotonic() + 20
        while not condition(found := self.period()):
            assert time.monotonic() < deadline_s, {k: v for k, v in found.items() if "emc" in k}
            time.sleep(0.05)
        return found

    def events(self):
        return [one.kind for one in self.sensors.take_happenings()]


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    made.stop()


def has_emc(found):
    return found["emc_frequency_hz"].value is not None


def is_stale(found):
    return found["emc_frequency_hz"].reason.startswith(happenings.STALE)


def test_what_only_root_and_jtop_can_read_comes_over_and_nothing_else(rig):
    found = rig.start().until(has_emc)
    assert found["emc_frequency_hz"].value == 3_199_000_000
    assert found["emc_utilization_ratio"].value == pytest.approx(0.12)
    assert found["dla_frequency_hz.dla0"].value == 1_600_000_000
    assert found["dla_frequency_hz.dla1"].value is None
    assert "dla_frequency_hz.dla0_falcon" not in found
    assert found["gpu_utilization_ratio"].value == 0.128  # the board's own file comes first
    assert found["power_mode"].value == "MODE_30W"


def test_absent_it_costs_nothing_and_the_gap_says_what_would_fill_it(rig):
    found = rig.period()
    assert found["emc_frequency_hz"].value is None
    assert "edge-sdk-jtop.service can read it" in found["emc_frequency_hz"].reason
    assert rig.events() == []


def test_a_service_that_is_not_active_is_told_in_jtops_words_and_comes_back_by_itself(rig):
    rig.set("refuse")
    found = rig.start().until(lambda found: "not active" in found["emc_frequency_hz"].reason)
    assert found["emc_frequency_hz"].reason.startswith("jtop: JtopException: The jtop.service")
    assert found["gpu_utilization_ratio"].value == 0.128
    rig.set("work")
    rig.until(has_emc)


def test_a_library_that_raises_is_told_and_comes_back_by_itself(rig):
    rig.start().until(has_emc)
    rig.set("raise")
    rig.until(lambda found: "EOFError" in found["emc_frequency_hz"].reason)
    rig.set("work")
    rig.until(has_emc)


def test_one_that_hangs_is_null_at_once_and_stale_after_three_periods(rig):
    rig.start().until(has_emc)
    rig.events()
    os.kill(rig.process.pid, signal.SIGSTOP)
    found = rig.period()  # may still hold a line that was on its way
    reasons = []
    for _ in range(4):
        found = rig.period()
        assert found["emc_frequency_hz"].value is None
        reasons.append(found["emc_frequency_hz"].reason)
    assert is_stale(found), reasons
    assert rig.events().count("source_stale") == 1
    os.kill(rig.process.pid, signal.SIGCONT)
    rig.until(has_emc)
    assert "sensor_back" in rig.events()


def test_one_that_dies_is_null_and_is_read_again_when_it_is_back(rig):
    rig.start().until(has_emc)
    rig.set("die")
    rig.process.wait(10)
    rig.events()
    rig.period()
    found = [rig.period() for _ in range(4)][-1]
    assert found["emc_frequency_hz"].value is None
    assert is_stale(found)
    assert "source_stale" in rig.events()
    rig.set("work")
    rig.start().until(has_emc)


def test_one_that_says_the_same_for_ever_is_not_believed(rig):
    rig.start().until(has_emc)
    rig.events()
    rig.set("lie")
    found = rig.until(is_stale)
    assert "repeats itself" in found["emc_frequency_hz"].reason
    assert found["gpu_utilization_ratio"].value == 0.128
    rig.set("work")
    rig.until(has_emc)
    assert rig.events().count("source_stale") == 1


def test_without_jtop_the_reader_ends_and_says_what_to_install(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "edge_sdk.device.sense.jtop_reader", str(tmp_path / "jtop.sock")],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "pip install 'edge_sdk[jetson]'" in done.stderr
    assert not (tmp_path / "jtop.sock").exists()


def test_the_socket_is_for_its_group_only_and_is_gone_after_the_end(rig):
    rig.start().until(has_emc)
    assert stat.S_IMODE(rig.path.stat().st_mode) == 0o660
    rig.process.terminate()
    assert rig.process.wait(10) == 0
    assert not rig.path.exists()


class Speaker:
    """The other end of the socket, for lines that no reader of ours would write."""

    def __init__(self, path):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(4)
        self.link = None

    def say(self, raw):
        if self.link is None:
            self.link = self.server.accept()[0]
        self.link.sendall(raw)

    def close(self):
        for one in (self.link, self.server):
            if one is not None:
                one.close()


@pytest.fixture
def speaker(tmp_path):
    made = Speaker(tmp_path / "s")
    yield made
    made.close()


@pytest.fixture
def sensor(tmp_path, speaker):
    clock = FakeClock()
    made = JtopSensor(tmp_path / "s", clock)
    made.clock = clock
    made.collect()
    yield made
    made.close()


def said(sensor):
    sensor.clock.advance(1.0)
    return {reading.metric: reading for reading in sensor.collect()}


def line(pulse=1, **readings):
    return json.dumps({"readings": readings, "pulse": pulse}).encode() + b"\n"


@pytest.mark.parametrize(
    "raw",
    [b"{}}\n", b"\xff\xfe\n", b"[" * 10_000 + b"\n", b'{"readings": {"fan_ratio": "' + b"x" * 100 + b'"}}\n', b"7\n"],
)
def test_garbage_is_a_reason_and_never_a_fault(sensor, speaker, raw):
    speaker.say(raw)
    found = said(sensor)
    assert found["fan_ratio"].value is None
    assert found["fan_ratio"].reason.startswith("jtop: ")


def test_a_line_without_an_end_is_bounded_and_forgotten(sensor, speaker):
    for _ in range(40):
        speaker.say(b"x" * 4096)
        said(sensor)
    assert len(sensor._pending) <= 32 * 1024
    speaker.say(b"\n" + line(fan_ratio=0.5))
    assert said(sensor)["fan_ratio"].value == 0.5


def test_the_newest_line_counts_and_half_of_one_waits(sensor, speaker):
    speaker.say(line(1, fan_ratio=0.1) + line(2, fan_ratio=0.2) + line(3, fan_ratio=0.3)[:10])
    assert said(sensor)["fan_ratio"].value == 0.2
    speaker.say(line(3, fan_ratio=0.3)[10:])
    assert said(sensor)["fan_ratio"].value == 0.3


@pytest.mark.parametrize(("metric", "value"), [("fan_ratio", 1.5), ("emc_frequency_hz", -1.0), ("fan_ratio", -0.1)])
def test_a_number_that_cannot_be_true_is_null(sensor, speaker, metric, value):
    speaker.say(line(**{metric: value}))
    assert "cannot be true" in said(sensor)[metric].reason


def test_metrics_that_it_has_no_say_in_are_ignored(sensor, speaker):
    speaker.say(line(power_w=1.0, simulated=1.0, fan_ratio=0.5))
    assert said(sensor).keys() == {"fan_ratio"}


class Board:
    """What jtop gives for a board with nothing of what we ask for."""

    gpu = memory = fan = engine = None
    nvpmodel = None


def test_a_board_of_which_jtop_knows_nothing_gives_no_value():
    assert set(jtop_reader.readings_of(Board()).values()) == {None}


def test_jtops_placeholder_for_an_unknown_memory_clock_is_no_clock():
    one = Board()
    one.memory = {"EMC": {"cur": 1, "val": 0}, "RAM": {"shared": True}}
    found = jtop_reader.readings_of(one)
    assert (found["emc_frequency_hz"], found["emc_utilization_ratio"], found["gpu_memory_used_bytes"]) == (None,) * 3


def test_a_client_that_does_not_read_is_let_go_and_the_others_go_on(tmp_path):
    with jtop_reader.Lines(tmp_path / "s") as lines:
        slow, quick = (socket.socket(socket.AF_UNIX) for _ in range(2))
        slow.connect(str(tmp_path / "s"))
        quick.connect(str(tmp_path / "s"))
        got = 0
        for number in range(2000):
            lines.write(Line(readings={"fan_ratio": 0.5}, pulse=number))
            got += quick.recv(65536).count(b"\n")
        assert got == 2000
        assert len(lines._clients) == 1
        slow.close()
        quick.close()
