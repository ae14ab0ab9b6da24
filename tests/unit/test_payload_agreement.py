"""In which form Samples travel: JSON until a collector asks for the compact one, and only where the device may choose."""

import contextlib
import time

import pytest

from edge_sdk.collector.service import Collector
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.device.daemon import Daemon
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec, compact, topics


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


class Plant:
    """A daemon, a listener, and collectors that come and go."""

    def __init__(self, folder, payload):
        self.broker, self.clock, self.database = MemoryBroker(), FakeClock(), folder / "t.db"
        self.heard = []
        self.ear = MemoryLink(self.broker)
        self.ear.subscribe(topics.up("plant", "cam-7", "telemetry"), lambda message: self.heard.append(message.payload))
        self.ear.open()
        settings = DaemonSettings(device="cam-7", site="plant", http_port=0, payload=payload)
        self.daemon = Daemon(
            settings, lambda will: MemoryLink(self.broker, will=will), clocks=self.clock, sensors=[], root=folder
        )
        self.daemon.start()
        until(lambda: "birth" in str(list(self.broker.retained)))

    @contextlib.contextmanager
    def collector(self, payload):
        link = MemoryLink(self.broker)
        settings = CollectorSettings(database=str(self.database), payload=payload, batch_wait_s=0)
        made = Collector(settings, link, self.clock)
        made.start()
        assert link.wait_for_connected(20)
        yield made
        made.close()

    def beat(self):
        """Takes one Sample and waits for its receipt; gives what was sent."""
        count = len(self.heard)
        self.clock.advance(1.0)
        self.daemon.beat()
        until(lambda: len(self.heard) > count and self.daemon.snapshot().spool.held == 0)
        return self.heard[-1]

    def birth(self):
        return codec.from_bytes(self.broker.retained[topics.up("plant", "cam-7", "birth")], telemetry.Birth)

    def close(self):
        self.daemon.stop()
        self.ear.close()


@pytest.fixture
def plant(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(payload):
            made = Plant(tmp_path, payload)
            stack.callback(made.close)
            return made

        yield make


def test_a_device_that_may_choose_follows_its_collector_there_and_back(plant):
    one = plant("auto")
    assert (one.birth().payload, one.birth().payloads) == ("json", ("json", "compact"))
    with one.collector("compact") as collector:
        assert not compact.is_compact(one.beat())  # nobody had asked yet
        until(lambda: one.birth().payload == "compact")
        assert compact.is_compact(one.beat())
        until(lambda: collector.snapshot().stored == 2)
        assert collector.snapshot().refused == 0
    with one.collector("json"):
        assert compact.is_compact(one.beat())
        until(lambda: one.birth().payload == "json")
        assert not compact.is_compact(one.beat())


@pytest.mark.parametrize(("own", "asked"), [("json", "compact"), ("compact", "json")])
def test_a_device_whose_form_is_set_keeps_it(plant, own, asked):
    one = plant(own)
    with one.collector(asked):
        assert [compact.is_compact(one.beat()) for _ in range(3)] == [own == "compact"] * 3
    assert one.birth().payload == own


def test_a_form_that_this_version_does_not_know_is_not_followed_and_the_receipt_counts(plant):
    one = plant("auto")
    one.clock.advance(1.0)
    one.daemon.beat()
    boot = one.daemon.snapshot().boot
    receipt = codec.to_bytes(telemetry.Receipt(boot, 0, payload="cbor"))
    one.ear.publish(topics.receipt("plant", "cam-7"), receipt)
    until(lambda: one.daemon.snapshot().spool.held == 0)
    assert one.birth().payload == "json"
