"""Mutual TLS on a real mosquitto: who has no certificate stays out, and what comes in whole records of TLS is read."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(MOSQUITTO is None or shutil.which("openssl") is None, reason="needs mosquitto and openssl"),
]


@pytest.fixture
def secure(tmp_path, until):
    """A broker that asks for certificates: its address, and a certificate with its key that it knows."""
    crt, key = tmp_path / "one.crt", tmp_path / "one.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", crt, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\ncafile {crt}\ncertfile {crt}\n"
        f"keyfile {key}\nmax_inflight_messages 200\nmax_queued_messages 100000\nset_tcp_nodelay true\nuser root\n"
    )
    with subprocess.Popen([MOSQUITTO, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as broker:

        def listens():
            assert broker.poll() is None
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listens, "mosquitto to listen")
        yield f"mqtts://127.0.0.1:{port}", {"ca_file": crt, "cert_file": crt, "key_file": key}
        broker.kill()


@pytest.fixture
def link(secure):
    links = []

    def make(name, **changes):
        url, files = secure
        links.append(MqttLink(MqttSettings(url=url, client_id=name, **{**files, **changes})))
        return links[-1]

    yield make
    for one in links:
        one.close(0.5)


@pytest.mark.parametrize("batched_reads", [True, False])
def test_many_messages_at_once_arrive_in_order_through_tls(link, until, batched_reads):
    came = []
    ear = link("ear", batched_reads=batched_reads)
    ear.subscribe_batches("t", came.extend)
    ear.open()
    assert ear.wait_for_connected(10)
    mouth = link("mouth", batched_reads=batched_reads, in_flight_max=1000)
    mouth.open()
    assert mouth.wait_for_connected(10)
    for number in range(2000):
        until(lambda: mouth.snapshot().in_flight < 500, "room")
        mouth.publish("t", b"%d" % number + b"x" * (number % 3000))
    until(lambda: len(came) == 2000, "all of them")
    assert [int(message.payload.split(b"x")[0]) for message in came] == list(range(2000))


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_certificate_there_is_no_connection(link, until):
    stranger = link("stranger", cert_file=None, key_file=None)
    stranger.open()
    until(lambda: stranger.snapshot().last_error, "a reason")
    assert not stranger.wait_for_connected(0.5)


def test_watch_shows_what_a_broker_with_certificates_has(secure, link):
    url, files = secure
    options = [f"--{name.replace('_', '-')}={file}" for name, file in files.items()]
    watcher = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edge_sdk",
            "watch",
            "--broker",
            url,
            "--json",
            "--count",
            "1",
            "--seconds",
            "20",
            *options,
        ],
        stdout=subprocess.PIPE,
    )
    device = link("cam-7")
    device.open()
    assert device.wait_for_connected(10)
    sample = telemetry.Sample(v=2, device="cam-7", boot="00c0ffee", seq=1, t=1.75e9, up_s=1.0, interval_s=1.0)
    with watcher:
        while watcher.poll() is None:
            device.publish("edge/v1/plant/cam-7/up/telemetry", codec.to_bytes(sample))
            try:
                watcher.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        assert json.loads(watcher.stdout.readline())["device"] == "cam-7"
    assert watcher.returncode == 0
