"""A real mosquitto with the configuration and the certificates that edge_sdk writes: who gets in, and who hears whom."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from edge_sdk.cli import main
from edge_sdk.clock import SystemClock
from edge_sdk.collector.identity import authority
from edge_sdk.collector.service import Collector
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.link.protocol import Will
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="SKIPPED LOUDLY: no mosquitto here: apt install mosquitto")
WAIT_S = 20.0
BOOT = "00c0ffee"


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}"
        time.sleep(0.01)
    return found


def edge(*arguments):
    assert main.run([str(one) for one in arguments]) == 0


class Fleet:
    """An authority, a broker and who has a certificate, all in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = folder / "ca"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"mqtts://127.0.0.1:{self.port}"
        self.links = []
        self.process = None
        edge("ca", "init", "--folder", self.ca)
        edge(
            "ca",
            "issue",
            "broker",
            "--kind",
            "server",
            "--host",
            "127.0.0.1",
            "--folder",
            self.ca,
            "--out",
            folder / "broker",
        )
        edge(
            "broker",
            "--write-config",
            folder / "broker",
            "--host",
            "localhost",
            "--port",
            self.port,
            "--collector",
            "collector-1",
        )

    def start(self):
        if not os.getuid():  # mosquitto leaves root for its own user, who must read it all
            subprocess.run(["chmod", "-R", "a+rwX", self.folder / "broker"], check=True)
            for parent in [self.folder, *self.folder.parents][:-2]:
                parent.chmod(parent.stat().st_mode | 0o055)
        with open(self.folder / "mosquitto.log", "wb") as log:
            self.process = subprocess.Popen(
                [MOSQUITTO, "-c", self.folder / "broker/mosquitto.conf"], stdout=log, stderr=log
            )
        until(self._listens, "mosquitto to listen")

    def _listens(self):
        assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def enrol(self, name, kind="device", *more):
        edge("ca", "issue", name, "--kind", kind, "--folder", self.ca, "--out", self.folder / name, *more)

    def link(self, name, *, kind="device", folder=None, client_id=None, will=None, **files):
        place = folder or self.folder / name
        values = {
            "ca_file": self.folder / "broker/ca.crt",
            "cert_file": place / f"{kind}.crt",
            "key_file": place / f"{kind}.key",
            **files,
        }
        settings = MqttSettings(
            url=self.url, client_id=client_id or name, session_expiry_s=0, reconnect_cap_s=0.2, **values
        )
        self.links.append(MqttLink(settings, will))
        return self.links[-1]

    def opened(self, name, **more):
        link = self.link(name, **more)
        link.open()
        assert link.wait_for_connected(WAIT_S), link.snapshot().last_error
        return link

    def close(self):
        for link in self.links:
            link.close(0.5)
        if self.process:
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture
def fleet(tmp_path, capsys):
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def sample(device, seq):
    return codec.to_bytes(
        telemetry.Sample(v=1, device=device, boot=BOOT, seq=seq, t=1.75e9 + seq, up_s=1.0, interval_s=1.0)
    )


@pytest.mark.fault("H5")
def test_who_has_no_good_certificate_does_not_get_in(fleet, fault, tmp_path):
    for name in ("good", "gone", "late"):
        fleet.enrol(name)
    edge("ca", "revoke", "gone", "--folder", fleet.ca)
    shutil.copy(fleet.ca / "crl.pem", fleet.folder / "broker/crl.pem")
    past = FakeClock(wall_s=time.time() - 100 * 86400)
    expired = authority.Authority(fleet.ca, past).issue("late", days=90)
    (fleet.folder / "late/device.crt").write_bytes(expired.certificate)
    (fleet.folder / "late/device.key").write_bytes(expired.key)
    edge("ca", "init", "--folder", tmp_path / "foreign-ca")
    edge("ca", "issue", "good", "--folder", tmp_path / "foreign-ca", "--out", tmp_path / "foreign")
    own = tmp_path / "own"
    own.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=good",
         "-keyout", own / "device.key", "-out", own / "device.crt", "-days", "30"], check=True, capture_output=True,
    )  # fmt: skip
    fleet.start()
    bad = {
        "expired": fleet.link("late"),
        "revoked": fleet.link("gone"),
        "another authority, same name": fleet.link("good", folder=tmp_path / "foreign"),
        "self-signed, same name": fleet.link("good", folder=own),
        "none": fleet.link("nobody", cert_file=None, key_file=None),
        "the broker's own": fleet.link("broker", kind="server"),
    }
    for link in bad.values():
        link.open()
    for what, link in bad.items():
        until(lambda link=link: link.snapshot().last_error, f"{what}: the refusal")
        assert not link.wait_for_connected(0.3), what
        assert link.snapshot().connects == 0, what
    assert fleet.opened("good").snapshot().connects == 1
    fault(
        what="who has no good certificate connects",
        injected=", ".join(bad),
        bar="0 of 5 connect",
        measured=f"0 of {len(bad)} connected",
        control="the device's own certificate: 1 of 1 connected",
    )


@pytest.mark.fault("H4")
def test_a_device_speaks_and_hears_only_as_itself(fleet, fault):
    for name in ("cam-a", "cam-b"):
        fleet.enrol(name)
    fleet.enrol("collector-1", "collector")
    fleet.start()
    heard, heard_by_b, heard_by_a = [], [], []
    collector = fleet.link("collector-1", kind="collector")
    collector.subscribe("edge/v1/+/+/up/#", lambda message: heard.append(message.topic))
    collector.open()
    assert collector.wait_for_connected(WAIT_S)
    victim = fleet.link("cam-b")
    victim.subscribe("edge/v1/p/cam-b/down/#", lambda message: heard_by_b.append(message.topic))
    victim.open()
    assert victim.wait_for_connected(WAIT_S)
    # cam-a attacks: its will speaks as cam-b, it listens to everything, and it claims cam-b's client id.
    attacker = fleet.link("cam-a", client_id="cam-b", will=Will("edge/v1/p/cam-b/up/status", b"{}"))
    attacker.subscribe("#", lambda message: heard_by_a.append(message.topic))
    attacker.subscribe("edge/v1/p/cam-b/down/#", lambda message: heard_by_a.append(message.topic))
    attacker.open()
    until(lambda: attacker.wait_for_connected(0.2) or attacker.snapshot().last_error, "the attacker's answer")
    will_refused = not attacker.snapshot().is_connected
    if will_refused:  # a broker may refuse such a will at once; the other attacks go without it
        attacker.close(0.2)
        attacker = fleet.link("cam-a", client_id="cam-b")
        attacker.subscribe("#", lambda message: heard_by_a.append(message.topic))
        attacker.open()
        assert attacker.wait_for_connected(WAIT_S), attacker.snapshot().last_error
    for topic in ("edge/v1/p/cam-b/up/telemetry", "edge/v1/p/cam-b/down/cmd/reboot", "edge/v1/p/cam-b/down/receipt"):
        attacker.publish(topic, b"forged")
    until(lambda: attacker.snapshot().in_flight == 0, "the broker's answers")
    assert attacker.snapshot().refused >= 3, "MQTT 5 says what it does not let through"
    # Controls: the same link as itself, the collector to the victim, the victim as itself.
    collector.publish("edge/v1/p/cam-b/down/receipt", b"real")
    victim.publish("edge/v1/p/cam-b/up/telemetry", b"real")
    attacker.publish("edge/v1/p/cam-a/up/telemetry", b"real")
    until(lambda: len(heard) >= 2 and heard_by_b, "what may be heard")
    fleet.links.remove(attacker)
    if not will_refused:
        _vanish(fleet, attacker)
    collector.publish("edge/v1/p/cam-b/down/receipt", b"last")
    until(lambda: len(heard_by_b) == 2, "the last word")
    assert sorted(heard) == ["edge/v1/p/cam-a/up/telemetry", "edge/v1/p/cam-b/up/telemetry"]
    assert heard_by_b == ["edge/v1/p/cam-b/down/receipt"] * 2
    assert [topic for topic in heard_by_a if "cam-a" not in topic] == []
    assert victim.snapshot().connects == 1, "nobody pushed it out"
    fault(
        what="device A publishes as B, commands B, wills as B, reads B, takes B's client id",
        injected="5 attacks over mutual TLS with A's own good certificate",
        bar="0 delivered of 5",
        measured="0 delivered of 5; B connected once",
        control="A as itself, the collector to B, B as itself: 3 of 3 delivered",
    )


def _vanish(fleet, link):
    """Ends a link without a goodbye, so that its will would be spoken: the broker drops it as a client id taken over."""
    thief = fleet.opened("cam-a", client_id="cam-a")
    until(lambda: link.snapshot().last_error, "the attacker to be cut off")
    thief.close(0.5)
    link.close(0.2)


@pytest.mark.fault("H6")
def test_recorded_telemetry_that_is_played_again_is_stored_once(fleet, fault, tmp_path):
    fleet.enrol("cam-a")
    fleet.enrol("collector-1", "collector")
    fleet.start()
    place = fleet.folder / "collector-1"
    settings = CollectorSettings(database=str(tmp_path / "t.db"))
    collector = Collector(settings, fleet.link("collector-1", kind="collector", folder=place), SystemClock())
    collector.start()
    try:
        device = fleet.opened("cam-a")
        until(lambda: collector._link.snapshot().is_connected, "the collector")
        recorded = [sample("cam-a", seq) for seq in range(50)]
        for payload in recorded * 4:
            until(lambda: device.snapshot().in_flight < 50, "room")
            device.publish("edge/v1/p/cam-a/up/telemetry", payload)
        device.publish("edge/v1/p/cam-a/up/telemetry", sample("cam-b", 0))  # another's, under the own topic
        until(lambda: collector.snapshot().received >= 201, "all of it")
        until(lambda: collector.snapshot().waiting == 0, "rest")
        state = collector.snapshot()
    finally:
        collector.close()
    assert (state.stored, state.duplicates, state.refused) == (50, 150, 1)
    fault(
        what="recorded telemetry is published again, and another device's under the own topic",
        injected="50 Samples four times, 1 of another device",
        bar="0 stored twice",
        measured="50 stored once, 150 known as duplicates, 1 refused",
        control="the first time: 50 of 50 stored",
    )


@pytest.mark.fault("H4")
def test_a_name_that_is_a_wildcard_or_a_path_gets_no_certificate(fleet, fault, capsys):
    before = (fleet.ca / "index.json").read_bytes()
    for name in ("+", "#", "cam/../cam-b", "CAM", "a" * 64, "cam b", "cam\n", "$share"):
        assert main.run(["ca", "issue", name, "--folder", str(fleet.ca), "--out", str(fleet.folder / "x")]) == 2
    assert (fleet.ca / "index.json").read_bytes() == before
    assert not (fleet.folder / "x").exists()
    fleet.enrol("cam-7")
    assert [one["name"] for one in json.loads((fleet.ca / "index.json").read_text())] == ["broker", "cam-7"]
    fault(
        what="a certificate is asked for under a name with wildcards",
        injected="8 names, among them + and #, which mosquitto takes as users",
        bar="0 of 8 issued",
        measured="0 of 8 issued",
        control="cam-7: issued",
        part="names",
    )


def test_a_revoked_device_is_out_after_the_broker_read_the_list_again(fleet):
    fleet.enrol("cam-a")
    fleet.start()
    fleet.opened("cam-a").close(0.5)
    edge("ca", "revoke", "cam-a", "--folder", fleet.ca)
    shutil.copy(fleet.ca / "crl.pem", fleet.folder / "broker/crl.pem")
    (fleet.folder / "broker/crl.pem").chmod(0o644)
    fleet.process.send_signal(signal.SIGHUP)
    until(lambda: not _gets_in(fleet), "the list to be read")


def _gets_in(fleet):
    link = fleet.link("cam-a")
    link.open()
    until(lambda: link.snapshot().connects or link.snapshot().last_error, "an answer")
    link.close(0.2)
    return link.snapshot().connects > 0
