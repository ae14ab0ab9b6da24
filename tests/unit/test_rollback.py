"""A new version that is slower than its model may be gives way to the one before, and the fleet hears why."""

import json

import msgspec
import numpy as np
import pytest
from test_serve_gate import wait_until

from edge_sdk.device.daemon import Daemon
from edge_sdk.device.serve import gate
from edge_sdk.device.settings import DaemonSettings, ModelSettings
from edge_sdk.device.slots import pace, proving
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

X = {"x": np.array([[1, 2, 3]], np.float32)}
LIMIT_MS = 50.0


class Device:
    """A daemon whose requests wait as long as the test says, on a clock of the test's."""

    def __init__(self, folder, state, **settings):
        values = {"device": "cam", "model_repository": str(folder), "state_folder": str(state), "http_port": 0}
        values |= {"model_control": True, "threads": 1, "models": {"a": ModelSettings(p99_limit_ms=LIMIT_MS)}}
        self.clock, self.events, self.births, self.takes_s = FakeClock(), [], [], 0.001
        broker = MemoryBroker()
        listener = MemoryLink(broker)
        listener.subscribe("edge/v1/default/cam/up/event", lambda message: self.take(json.loads(message.payload)))
        listener.subscribe("edge/v1/default/cam/up/birth", lambda message: self.births.append(message.payload))
        listener.open()
        self.daemon = Daemon(
            DaemonSettings(**{**values, **settings}), lambda will: MemoryLink(broker, will=will), clocks=self.clock, sensors=()
        )  # fmt: skip
        self.daemon.start()

    def take(self, event):
        self.events.append(event)

    def infer(self, count, takes_s):
        """Asks, so that each answer takes so long, and ends the interval."""
        self.takes_s = takes_s
        for _ in range(count):
            self.daemon.infer("a", X)
        self.clock.advance(1.0)
        self.daemon.beat()

    @property
    def version(self):
        return self.daemon._models.find("a").version

    @property
    def kinds(self):
        return [event["kind"] for event in self.events]


@pytest.fixture
def device(tmp_path, write_bundle, tiny_onnx, monkeypatch):
    repository, devices = tmp_path / "models", []
    repository.mkdir()

    def add(version):
        write_bundle(repository / f"a{version}", tiny_onnx, name="a", version=str(version), counter=version)

    take = gate.Gate.take

    def late(self, *turn):
        devices[-1].clock.advance(devices[-1].takes_s)
        return take(self, *turn)

    monkeypatch.setattr(gate.Gate, "take", late)

    def make(**settings):
        devices.append(Device(repository, tmp_path / "state", **settings))
        devices[-1].add, devices[-1].state = add, tmp_path / "state"
        return devices[-1]

    add(1)
    yield make
    for one in devices:
        one.daemon.stop()


def upgraded(device, **settings):
    """Gives a device whose first version is confirmed, and whose second has just been loaded."""
    one = device(**settings)
    one.infer(1, 0.001)
    one.clock.advance(61)
    one.infer(1, 0.001)
    one.add(2)
    one.daemon._deployment.load("a")
    assert one.version == "2"
    return one


def test_a_version_over_its_limit_gives_way_with_the_reason_and_is_not_tried_again(device):
    one = upgraded(device)
    one.infer(pace.ENOUGH, 0.08)
    wait_until(lambda: one.version == "1")
    wait_until(lambda: one.daemon.beat() or "rolled_back" in one.kinds)
    (event,) = (event for event in one.events if event["kind"] == "rolled_back")
    assert (event["details"]["old"], event["details"]["new"]) == ("2", "1")
    assert event["details"]["reason"].startswith("99 % of 100 requests took up to ")
    assert "50 ms are allowed" in event["message"]
    born = codec.from_bytes(one.births[-1], telemetry.Birth)
    assert [(each.name, each.version, each.reason) for each in born.withdrawn] == [
        ("a", "2", event["details"]["reason"])
    ]
    assert [model.version for model in born.models] == ["1"]
    one.infer(3, 0.001)
    one.daemon.stop()
    again = device()  # nor does the next start take it
    assert (again.version, again.daemon._deployment.refused) == ("1", {})


@pytest.mark.parametrize(
    ("counts", "takes_s", "settings"),
    [
        ([pace.ENOUGH] * 3, 0.03, {}),  # it is fast enough
        ([pace.ENOUGH - 1], 0.08, {}),  # too few to tell
        ([pace.ENOUGH], 0.08, {"models": {}}),  # no limit is set, as by default
    ],
)
def test_what_keeps_its_limit_or_has_none_or_was_hardly_asked_stays(device, counts, takes_s, settings):
    """The controls."""
    one = upgraded(device, **settings)
    for count in counts:
        one.infer(count, takes_s)
    one.daemon.beat()
    assert (one.version, one.kinds) == ("2", [])
    assert codec.from_bytes(one.births[-1], telemetry.Birth).withdrawn is msgspec.UNSET


def test_requests_of_several_intervals_count_together(device):
    one = upgraded(device)
    for _ in range(4):
        one.infer(pace.ENOUGH // 4, 0.08)
    wait_until(lambda: one.version == "1")


def test_after_its_trial_a_version_is_not_taken_back(device):
    one = upgraded(device)
    one.infer(1, 0.001)
    one.clock.advance(61)
    one.infer(1, 0.001)
    one.infer(pace.ENOUGH * 2, 0.08)
    one.daemon.beat()
    assert (one.version, one.kinds) == ("2", [])


def test_the_only_version_stays_however_slow_it_is(device):
    one = device()
    for _ in range(3):
        one.infer(pace.ENOUGH, 0.5)
    assert (one.version, one.kinds) == ("1", [])
    kept = json.loads((one.state / proving.FILE).read_text())["versions"]
    assert [each["bad"] for each in kept] == [""]


def test_a_model_that_is_being_loaded_is_taken_back_when_that_is_over(device):
    one = upgraded(device)
    with one.daemon._deployment._exchanges.alone("a"):
        one.infer(pace.ENOUGH, 0.08)
        one.daemon.beat()
        assert one.version == "2"
    wait_until(lambda: one.daemon.beat() or one.version == "1")
