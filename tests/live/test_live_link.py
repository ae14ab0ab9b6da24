"""The brokers that we start, and what only a real broker shows of a link."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edge_sdk import errors
from edge_sdk.link import broker as brokers
from edge_sdk.link.protocol import Message, Will
from edge_sdk.link.watch import watch
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

pytestmark = pytest.mark.live

KINDS = [
    "embedded",
    pytest.param("mosquitto", marks=pytest.mark.skipif(not shutil.which("mosquitto"), reason="not on PATH")),
]


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def leftovers():
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("edge-broker-")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_leaves_no_process_port_or_folder(kind):
    before = leftovers()
    with brokers.open_broker(port=0, kind=kind) as broker:
        assert broker.name == {"embedded": "iotcore", "mosquitto": "mosquitto"}[kind]
        assert broker.version[0].isdigit()
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert broker.is_running()
        assert is_alive(broker.pid)
        assert is_listening(broker.port)
    assert not is_alive(broker.pid)
    assert not is_listening(broker.port)
    assert leftovers() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_does_not_outlive_a_killed_parent(kind, until):
    before = leftovers()
    parent = subprocess.Popen(
        [sys.executable, "-m", "edge_sdk", "broker", "--port", "0", "--kind", kind, "--json"], stdout=subprocess.PIPE
    )
    with parent:
        lines = [parent.stdout.readline() for _ in range(6)]
        document = json.loads(b"".join(lines))
        port = int(document["url"].rpartition(":")[2])
        assert is_alive(document["pid"])
        parent.kill()
    until(lambda: not is_alive(document["pid"]), "the end of the broker")
    until(lambda: not is_listening(port), "the port to be free")
    assert leftovers() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_named_with_the_remedy(kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.UsageError, match=f"port {port}: Address already in use; .*another port"):
            with brokers.open_broker(port=port, kind=kind):
                pass
        assert is_listening(port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_an_address_that_is_not_ours_is_refused(host, port):
    with pytest.raises(errors.UsageError, match="cannot listen on"):
        with brokers.open_broker(host, port):
            pass


def test_a_broker_can_be_started_again_at_once_on_the_same_port(new_link):
    with brokers.open_broker(port=0) as first:
        link = new_link(url=first.url)
        link.open()
        assert link.wait_for_connected(10)
    with brokers.open_broker(port=first.port) as second:
        assert second.port == first.port


def test_the_command_ends_with_the_broker(until):
    with subprocess.Popen(
        [sys.executable, "-m", "edge_sdk", "broker", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as command:
        document = json.loads(b"".join(command.stdout.readline() for _ in range(6)))
        os.kill(document["pid"], signal.SIGKILL)
        _, said = command.communicate(timeout=10)
    assert command.returncode == errors.LinkError.exit_code
    assert b"ended by itself" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly_on_a_signal(number):
    with subprocess.Popen(
        [sys.executable, "-m", "edge_sdk", "broker", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        line = command.stdout.readline().decode()
        command.send_signal(number)
        _, said = command.communicate(timeout=10)
    assert (command.returncode, said) == (0, b"")
    assert "mqtt://127.0.0.1:" in line
    assert "for trying things out only" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_passes(kind, new_link, until):
    with brokers.open_broker(port=0, kind=kind) as broker:
        got = []
        receiver, sender = new_link(url=broker.url), new_link(url=broker.url)
        receiver.subscribe("t", got.append)
        for link in (receiver, sender):
            link.open()
            assert link.wait_for_connected(10)
        sender.publish("t", b"x" * 1_000_000)
        until(lambda: got, "the large message")
        assert got == [Message("t", b"x" * 1_000_000, False)]


def test_what_was_meant_for_us_while_away_is_kept(broker, new_link, until):
    got = []
    first = new_link(client_id="resumes", session_expiry_s=60)
    first.subscribe("t", got.append)
    first.open()
    assert first.wait_for_connected(10)
    sender = new_link()
    sender.open()
    assert sender.wait_for_connected(10)
    # A second client of the same name pushes the first one out; when it leaves, the first comes back.
    with socket.create_connection((broker.host, broker.port)) as intruder:
        intruder.sendall(b"\x10\x19\x00\x04MQTT\x05\x00\x00\x0a\x05\x11\x00\x00\x00\x3c\x00\x07resumes")
        assert intruder.recv(2)
        until(lambda: not first.snapshot().is_connected, "the first to be pushed out")
        first_error = first.snapshot().last_error
        sender.publish("t", b"while away")
        until(lambda: sender.snapshot().published == 1, "the broker to have it")
    until(lambda: got, "the message of the time away")
    assert got[0].payload == b"while away"
    assert "another client connected as 'resumes'" in first_error


def test_a_killed_process_leaves_its_will(broker, new_link, until):
    got = []
    watcher = new_link()
    watcher.subscribe("t/+", got.append)
    watcher.open()
    assert watcher.wait_for_connected(10)
    code = (
        "import sys, time\n"
        "from edge_sdk.link.mqtt import MqttLink, MqttSettings\n"
        "from edge_sdk.link.protocol import Will\n"
        "link = MqttLink(MqttSettings(url=sys.argv[1], client_id='victim'), will=Will('t/will', b'gone'))\n"
        "link.open(); link.wait_for_connected(10); link.publish('t/up', b'here'); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, broker.url]) as victim:
        until(lambda: got, "the victim's word")
        victim.kill()
    until(lambda: len(got) == 2, "its will")
    assert [message.payload for message in got] == [b"here", b"gone"]
    assert Will("t/will", b"gone").topic == got[1].topic


def sample(seq, device="cam-7", **more):
    return telemetry.Sample(
        v=1, device=device, boot="00c0ffee", seq=seq, t=1.75e9 + seq, up_s=1.0, interval_s=1.0, **more
    )


def test_watch_gives_samples_and_passes_over_what_is_none(broker, new_link):
    sender = new_link()
    sender.open()
    assert sender.wait_for_connected(10)
    topic = "edge/v1/plant/cam-7/up/telemetry"
    sender.publish(topic, codec.to_bytes(sample(1)), retain=True)  # so that the order of start does not matter
    samples = watch(broker.url, device="cam-7", timeout_s=5)
    assert next(samples) == sample(1)
    sender.publish(topic, b"poison")
    sender.publish("edge/v1/plant/cam-8/up/telemetry", codec.to_bytes(sample(9, "cam-8")))
    sender.publish(topic, codec.to_bytes(sample(2)))
    assert next(samples) == sample(2)
    samples.close()


def test_watch_ends_when_nothing_comes(broker):
    assert list(watch(broker.url, timeout_s=0.2)) == []


def test_watch_says_that_no_broker_is_there():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(errors.LinkError, match="Connection refused; is a broker running there"):
            next(watch(f"mqtt://127.0.0.1:{probe.getsockname()[1]}", timeout_s=0.3))
