"""The collector and watch as a user runs them, on a real broker that comes and goes."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.collector.service import Collector
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.link import broker as brokers
from edge_sdk.link.protocol import Will
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

pytestmark = pytest.mark.live

BOOT = "00c0ffee"
TOPIC = "edge/v1/plant/cam-7/up/telemetry"


def sample(seq):
    return codec.to_bytes(
        telemetry.Sample(v=1, device="cam-7", boot=BOOT, seq=seq, t=1.75e9 + seq, up_s=1.0, interval_s=1.0)
    )


@pytest.fixture
def edge_sdk():
    """Starts commands; a test that fails half-way leaves none of them behind."""
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            command = [sys.executable, "-m", "edge_sdk", *arguments]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.enter_context(child)
            stack.callback(child.kill)
            return child

        yield start


def query(file, text):
    with contextlib.closing(sqlite3.connect(file)) as db:
        return db.execute(text).fetchall()


class Publisher:
    """A device's side: holds what has no receipt, and sends it again on every connect and when told to."""

    def __init__(self, link):
        self.link = link
        self.held = {}
        self.sent = 0
        link.subscribe("edge/v1/plant/cam-7/down/receipt", self.take)
        link.on_connect(self.send_all)

    def put(self, seq):
        self.held[seq] = sample(seq)
        with contextlib.suppress(errors.LinkError):
            self.link.publish(TOPIC, self.held[seq])
            self.sent += 1

    def send_all(self):
        for payload in list(self.held.values()):
            with contextlib.suppress(errors.LinkError):
                self.link.publish(TOPIC, payload)
                self.sent += 1

    def take(self, message):
        upto = codec.from_bytes(message.payload, telemetry.Receipt).upto
        for seq in [seq for seq in list(self.held) if seq <= upto]:
            self.held.pop(seq, None)


@pytest.mark.parametrize("kind", ["auto", "embedded"])
def test_a_broker_that_is_killed_again_and_again_costs_nothing(kind, tmp_path, new_link, until):
    file = tmp_path / "t.db"
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(brokers.open_broker(port=0, kind=kind))
        collector_link = new_link(url=running.url, client_id="edge-collector")
        collector = Collector(CollectorSettings(database=str(file)), collector_link, SystemClock())
        collector.start()
        stack.callback(collector.close)
        publisher = Publisher(new_link(url=running.url, client_id="cam-7"))
        publisher.link.open()
        for seq in range(300):
            publisher.put(seq)
            if seq % 100 == 50:
                assert collector_link.wait_for_connected(10)
                os.kill(running.pid, signal.SIGKILL)
                running.keeper.wait(10)
            if seq % 100 == 80:
                running = stack.enter_context(brokers.open_broker(port=running.port, kind=kind))
                for link in (publisher.link, collector_link):
                    until(lambda link=link: link.snapshot().is_connected, "the way back")
            time.sleep(0.002)

        def all_receipted():
            publisher.send_all()
            time.sleep(0.1)
            return not publisher.held

        until(all_receipted, "all receipts")
        collector.close()
        state = collector.snapshot()
    assert query(file, "SELECT COUNT(*), COUNT(DISTINCT seq), MIN(seq), MAX(seq) FROM samples") == [(300, 300, 0, 299)]
    assert (state.stored, state.lost, state.refused) == (300, 0, 0)
    assert publisher.link.snapshot().connects == 4


def test_the_commands_store_and_show_what_a_device_says(edge_sdk, broker, new_link, tmp_path, until):
    file = tmp_path / "t.db"
    collector = edge_sdk("collector", "--broker", broker.url, "--database", str(file), "--json")
    watch = edge_sdk("watch", "--broker", broker.url, "--json", "--count", "3")
    raw = edge_sdk("watch", "--broker", broker.url, "--raw")
    publisher = Publisher(new_link(will=Will("edge/v1/plant/cam-7/up/status", b"{}")))
    publisher.link.open()
    assert publisher.link.wait_for_connected(10)
    publisher.link.publish("edge/v1/plant/cam-7/down/hello", b"{}", retain=True)
    assert raw.stdout.readline() == "edge/v1/plant/cam-7/down/hello {}\n"
    until(
        lambda: file.exists() and query(file, "SELECT name FROM sqlite_master WHERE name = 'samples'"), "the collector"
    )
    for seq in range(200):
        if watch.poll() is not None:
            break
        publisher.put(seq)
        time.sleep(0.05)

    def all_receipted():
        publisher.send_all()  # what came before the collector had subscribed got no receipt
        time.sleep(0.1)
        return not publisher.held

    until(all_receipted, "all receipts")
    publisher.link.publish("edge/v1/plant/cam-7/up/telemetry", b"poison")
    shown, _ = watch.communicate(timeout=10)
    lines = shown.splitlines()
    assert watch.returncode == 0
    assert len(lines) == 3
    assert lines == [sample(json.loads(line)["seq"]).decode() for line in lines]
    until(lambda: query(file, "SELECT COUNT(*) FROM refused") == [(1,)], "the poison to be kept")
    raw.send_signal(signal.SIGINT)
    everything, _ = raw.communicate(timeout=10)
    assert raw.returncode == 0
    assert f"{TOPIC} {sample(0).decode()}" in everything
    assert 'edge/v1/plant/cam-7/down/receipt {"boot":"00c0ffee","upto":' in everything
    started = time.monotonic()
    collector.send_signal(signal.SIGTERM)
    summary, log = collector.communicate(timeout=10)
    assert time.monotonic() - started < 3
    summary = json.loads(summary)
    assert collector.returncode == 0
    count = query(file, "SELECT COUNT(*) FROM samples")[0][0]
    assert (summary["stored"], summary["refused"], summary["lost"], summary["devices"]) == (count, 1, 0, 1)
    assert summary["database"] == str(file)
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_collector_waits_for_a_broker_and_ends_at_once_on_a_signal(edge_sdk, number, tmp_path, until):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{taken.getsockname()[1]}"
        collector = edge_sdk("collector", "--broker", url, "--database", str(tmp_path / "t.db"))
        assert any("storing all sites" in line for line in collector.stderr)
        collector.send_signal(number)
        summary, _ = collector.communicate(timeout=3)
    assert collector.returncode == 0
    assert summary.startswith("received 0, stored 0, duplicates 0, refused 0, lost 0")


def test_watch_without_a_broker_is_a_link_error(edge_sdk):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        watch = edge_sdk("watch", "--broker", f"mqtt://127.0.0.1:{taken.getsockname()[1]}")
        out, said = watch.communicate(timeout=15)
    assert (watch.returncode, out) == (errors.LinkError.exit_code, "")
    assert said.splitlines()[-1].startswith("edge-sdk: mqtt://127.0.0.1:")
    assert "is a broker running there" in said


def test_watch_goes_on_after_the_broker_came_back(edge_sdk, new_link, until):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(brokers.open_broker(port=0))
        device = new_link(url=first.url)
        device.open()
        assert device.wait_for_connected(10)
        device.publish(TOPIC, sample(4), retain=True)
        watch = edge_sdk("watch", "--broker", first.url, "--count", "2")
        assert " cam-7 4: " in watch.stdout.readline()
        os.kill(first.pid, signal.SIGKILL)
        first.keeper.wait(10)
        assert "trying again" in watch.stderr.readline()
        stack.enter_context(brokers.open_broker(port=first.port))
        assert "again" in watch.stderr.readline()
        assert device.wait_for_connected(10)
        until(lambda: _published(device) and watch.poll() is not None, "the Sample after the broker's return")
        assert " cam-7 5: " in watch.stdout.read()


def _published(link):
    with contextlib.suppress(errors.LinkError):
        link.publish(TOPIC, sample(5))
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_ends_cleanly_on_a_signal(edge_sdk, number, broker, new_link):
    link = new_link()
    link.open()
    assert link.wait_for_connected(10)
    link.publish(TOPIC, sample(1), retain=True)
    watch = edge_sdk("watch", "--broker", broker.url)
    assert " cam-7 1: " in watch.stdout.readline()
    watch.send_signal(number)
    out, said = watch.communicate(timeout=5)
    assert (watch.returncode, out, said) == (0, "", "")
