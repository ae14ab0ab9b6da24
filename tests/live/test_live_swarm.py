"""A simulated fleet with a connection for each device, against a real broker that goes away and comes back."""

import contextlib
import random
import socket
from pathlib import Path

import pytest

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.link import broker as brokers
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.records import telemetry
from edge_sdk.testing.fleet import Fleet, Plan
from edge_sdk.testing.swarm import Swarm
from edge_sdk.wire import codec, topics

pytestmark = pytest.mark.live
DEVICES = 40


@pytest.fixture
def port():
    """One that no connection going out is given: while the broker is away, one would take its place."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    return pytest.fail("no free port")


@pytest.fixture
def swarm(port):
    settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}", client_id="swarm", session_expiry_s=0, reconnect_cap_s=0.2)
    with contextlib.closing(Swarm(settings, None, SystemClock(), random.Random(1))) as swarm:
        yield swarm


@pytest.fixture
def fleet(swarm, tmp_path):
    plan = Plan(devices=DEVICES, interval_s=0.2)
    fleet = Fleet(plan, tmp_path / "boards", swarm.link, SystemClock(), links=DEVICES, rest=swarm.run_for)
    yield fleet
    fleet.close()


@contextlib.contextmanager
def collector(port):
    """Answers each Sample with a receipt, as a collector does after its commit."""
    link = MqttLink(
        MqttSettings(
            url=f"mqtt://127.0.0.1:{port}", client_id="ear", session_expiry_s=0, reconnect_cap_s=0.2, in_flight_max=1000
        )
    )
    seen = set()

    def take(message):
        topic = topics.parse(message.topic)
        sample = codec.from_bytes(message.payload, telemetry.Sample)
        seen.add((sample.device, sample.boot, sample.seq))
        with contextlib.suppress(errors.LinkError):
            receipt = telemetry.Receipt(boot=sample.boot, upto=sample.seq)
            link.publish(topics.receipt(topic.site, topic.device), codec.to_bytes(receipt))

    link.subscribe("edge/v1/+/+/up/telemetry", take)
    link.open()
    try:
        yield link, seen
    finally:
        link.close(0.5)


def connections(port):
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_every_device_has_its_own_connection_and_every_sample_its_receipt(port, swarm, fleet):
    with brokers.open_broker(port=port), collector(port) as (ear, seen):
        assert ear.wait_for_connected(10)
        fleet.open()
        assert connections(port) == DEVICES + 1
        for _ in range(5):
            fleet.step()
        assert fleet.drain(30)
        assert len(seen) == DEVICES * 5
    counts = fleet.snapshot()
    assert (counts.made, counts.receipted, counts.held) == (DEVICES * 5, DEVICES * 5, 0)


def test_a_broker_that_goes_and_comes_back_costs_no_sample(port, swarm, fleet, monkeypatch):
    monkeypatch.setattr("edge_sdk.testing.fleet._RESEND_S", 1.0)
    with collector(port) as (_, seen):
        with brokers.open_broker(port=port):
            fleet.open()
            fleet.step()
        fleet.step()
        assert fleet.snapshot().held > 0
        with brokers.open_broker(port=port):
            fleet.step()
            assert fleet.drain(60), fleet.snapshot()
            assert len(seen) == DEVICES * 3


def test_a_broker_that_is_not_there_is_said(fleet):
    with pytest.raises(errors.LinkError, match="Connect call failed"):
        fleet.open(timeout_s=0.5)
