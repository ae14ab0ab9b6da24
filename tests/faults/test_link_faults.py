"""L1 to L7: the network between device and broker, broken in every way that a socket shows."""

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time

import controls
import link_rig
import lossy_net
import pytest
from link_rig import Broker, Device, until

from edge_sdk.device.spool.records import News
from edge_sdk.link import mqtt

pytestmark = pytest.mark.skipif(link_rig.MOSQUITTO is None, reason=link_rig.NO_MOSQUITTO)


@pytest.mark.fault("L1")
def test_a_storm_of_resets(rig, fault):
    rig.open_behind_proxy().collect()
    ours = rig.device()
    resets = 0
    for _ in range(20):
        ours.make(50, pause_s=0.002)
        rig.proxy.reset()
        resets += 1
    took_s = rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    assert took_s <= 10
    ours.close()
    control = forgetful(rig)
    fault(
        what="every connection ended by a RST, again and again",
        injected=f"{resets} resets, {ours.link.snapshot().connects} connects, {ours.made} records",
        bar="0 lost, 0 stored twice, drained <= 10 s",
        measured=f"0 lost, 0 twice, drained in {took_s:.1f} s",
        control=f"publish once without a spool: {control} lost",
    )


def forgetful(rig):
    """The control for broken connections: publishes what it can and forgets it."""
    device = rig.device()
    lost = 0
    for _ in range(10):
        for _ in range(50):
            try:
                device.link.publish(f"{link_rig.UP}/telemetry", b"x")
            except Exception:
                lost += 1
            time.sleep(0.001)
        rig.proxy.reset()
    assert lost > 0, "the control must lose"
    return f"{lost} of 500"


@pytest.mark.fault("L2")
def test_a_half_open_connection(rig, fault):
    rig.open_behind_proxy().collect()
    ours = rig.device(keepalive_s=2)
    ours.make(20)
    rig.wait_until_drained(ours)
    rig.proxy.mode = "hole"
    began_s = time.monotonic()
    ours.make(50)
    until(lambda: not ours.link.snapshot().is_connected, "the link to notice")
    noticed_s = time.monotonic() - began_s
    rig.proxy.reset()
    rig.proxy.mode = "ok"
    rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    assert noticed_s <= 2 * 2 + 1.5
    deaf = rig.device(keepalive_s=60, client_id="deaf")
    assert deaf.link.wait_for_connected(10)
    rig.proxy.mode = "hole"
    time.sleep(noticed_s + 0.5)
    assert deaf.link.snapshot().is_connected, "the control must not notice"
    rig.proxy.reset()
    rig.proxy.mode = "ok"
    fault(
        what="the path swallows everything and says nothing",
        injected="black hole with keepalive 2 s",
        bar="noticed <= 1.5 keepalives + the ping's own wait; 0 lost",
        measured=f"noticed after {noticed_s:.1f} s, 0 lost, 0 twice",
        control="with keepalive 60 s: not noticed in the same time",
    )


@pytest.mark.fault("L5")
def test_bytes_come_one_at_a_time(rig, fault, monkeypatch):
    rig.open_behind_proxy().collect(rig.proxy.url)
    rig.proxy.mode = "slice"
    ours = rig.device()
    ours.make(100)
    took_s = rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    assert rig.collector.snapshot().refused == 0
    ours.close()
    monkeypatch.setattr(mqtt, "PacketReader", controls.ForgetfulReader)
    forgetful_one = rig.device(client_id="forgetful")
    forgetful_one.make(100)
    time.sleep(5.0)
    lost, _ = rig.verdict(forgetful_one)
    assert lost > 0, "the control must not get through"
    fault(
        part="sliced",
        what="device and collector get every byte by itself",
        injected=f"{ours.made} records through a relay that sends byte by byte, both ways",
        bar="0 lost, 0 refused",
        measured=f"0 lost, 0 twice, 0 refused, {took_s:.1f} s",
        control=f"a reader that drops the rest of a piece: {lost} of 100 not stored after 5 s, "
        f"{forgetful_one.link.snapshot().connects} connects",
    )


@pytest.mark.fault("L5")
def test_corrupted_bytes_without_tls(rig, fault):
    rig.open_behind_proxy().collect()
    rig.proxy.mode = "corrupt"
    ours = rig.device()
    ours.make(400, pause_s=0.002)
    time.sleep(1.0)
    rig.proxy.mode = "ok"
    rig.proxy.reset()
    rig.wait_until_drained(ours)
    state = rig.collector.snapshot()
    assert state.is_running
    assert rig.proxy.corrupted > 0
    lost, twice = rig.verdict(ours)
    assert (lost, twice) == (0, 0)
    fault(
        part="corrupt, plain",
        what="flipped bits on a connection without TLS",
        injected=f"{rig.proxy.corrupted} pieces with a flipped bit",
        bar="0 crashes, what does not decode is counted",
        measured=f"0 crashes, {state.refused} refused and kept, {ours.link.snapshot().connects} connects, 0 lost",
        control="the same bits with TLS never reach the collector (next row)",
    )


@pytest.fixture
def certificates(tmp_path):
    """A certificate for 127.0.0.1 that is its own authority, from the openssl command."""
    if shutil.which("openssl") is None:
        pytest.skip("SKIPPED LOUDLY: no openssl here")
    files = tmp_path / "server.crt", tmp_path / "server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    for file in files:
        file.chmod(0o644)
    for parent in [tmp_path, *tmp_path.parents][:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    return files


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.fault("L5")
def test_corrupted_bytes_with_tls(rig, fault, certificates):
    crt, key = certificates
    rig.open_behind_proxy(f"certfile {crt}", f"keyfile {key}", "user root")
    secure = f"mqtts://127.0.0.1:{rig.broker.port}"
    rig.collect(secure, ca_file=crt)
    ours = rig.device(url=f"mqtts://127.0.0.1:{rig.proxy.port}", ca_file=crt)
    assert ours.link.wait_for_connected(link_rig.WAIT_S)
    rig.proxy.mode = "corrupt"
    ours.make(400, pause_s=0.002)
    time.sleep(1.0)
    rig.proxy.mode = "ok"
    rig.wait_until_drained(ours)
    ours.make(3000)  # and much at once, through the batched reader and the records of TLS
    rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    assert rig.collector.snapshot().refused == 0
    assert rig.proxy.corrupted > 0
    with socket.create_connection(("127.0.0.1", rig.broker.port)) as stranger, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(stranger, server_hostname="127.0.0.1")
    fault(
        part="corrupt, TLS",
        what="flipped bits on a connection with TLS",
        injected=f"{rig.proxy.corrupted} pieces with a flipped bit, then 3,000 records at once",
        bar="0 corrupt records accepted, 0 lost",
        measured=f"0 refused, 0 lost, 0 twice, {ours.link.snapshot().connects} connects",
        control="without TLS flipped bits arrive (row before); a client that does not know the authority is refused",
    )


CHILD = link_rig.ROOT / "tests/faults/device_child.py"
GROWTH_MB = 32


class DeviceProcess:
    """A device alone in its process, with Samples held before it may connect."""

    def __init__(self, rig, file, count, *without):
        self.rig = rig
        self.popen = subprocess.Popen(
            [sys.executable, str(CHILD), rig.proxy.url, str(file), str(count), *without],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=link_rig.ROOT,
        )  # fmt: skip
        self.filled = json.loads(self.popen.stdout.readline())
        self.boot = self.filled["boot"]

    def drain(self, wait_s):
        """Lets it go on until next to nothing is held; gives the seconds that took, and how old live Samples were."""
        self.rig.proxy.mode = "ok"
        began_s = time.monotonic()
        self.say("live")
        ages = []
        while True:
            told = json.loads(self.popen.stdout.readline())
            until(lambda: _has(self.rig, self, told["seq"]), "a live Sample", wait_s)
            ages.append(time.monotonic() - told["made_s"])
            if told["held"] <= 2:
                break
            assert time.monotonic() - began_s < wait_s
        took_s = time.monotonic() - began_s
        self.say("stop")
        while "made" not in (told := json.loads(self.popen.stdout.readline())):
            pass
        self.made = told["made"]
        self.grown_mb = (told["peak_bytes"] - self.filled["rss_bytes"]) / 2**20
        until(lambda: self.rig.verdict(self)[0] == 0, "the rest", wait_s)
        return took_s, ages

    def say(self, word):
        self.popen.stdin.write(word + "\n")
        self.popen.stdin.flush()

    def close(self):
        self.popen.kill()
        self.popen.wait()
        for end in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(BrokenPipeError):
                end.close()


@pytest.mark.fault("L6")
@pytest.mark.timeout(300)
def test_a_day_offline_and_back(rig, fault, tmp_path):
    rig.open_behind_proxy("max_inflight_messages 200", "max_queued_messages 1000000").collect()
    rig.proxy.mode = "refuse"
    ours = DeviceProcess(rig, tmp_path / "spool" / "queue.db", 86_400)
    rig.keep(ours)
    took_s, ages = ours.drain(110)
    assert rig.verdict(ours) == (0, 0)
    rate = 86_400 / took_s
    assert rate >= 1000
    assert max(ages) <= 10
    assert ours.grown_mb <= GROWTH_MB
    ours.close()
    rig.proxy.mode = "refuse"
    orderly = DeviceProcess(rig, tmp_path / "control" / "queue.db", 30_000, "oldest-first")
    rig.keep(orderly)
    _, late = orderly.drain(110)
    assert max(late) > 2 * max(ages), "the control must be late"
    fault(
        what="a day without a network, then back; live Samples go on while it drains",
        injected="86,400 records held",
        bar=f"drained >= 1,000/s; live data <= 10 s old; RSS of the device +{GROWTH_MB} MB at most",
        measured=f"{rate:,.0f}/s, live data at most {max(ages):.1f} s old ({len(ages)} looked at), RSS of the device, alone "
        f"in its process, +{ours.grown_mb:.0f} MB at its peak, 0 lost, 0 twice",
        control=f"oldest first, with 30,000 held: live data up to {max(late):.1f} s old",
    )


def _has(rig, device, seq):
    with contextlib.closing(sqlite3.connect(f"file:{rig.database}?mode=ro", uri=True, timeout=5)) as db:
        return db.execute("SELECT 1 FROM samples WHERE boot = ? AND seq = ?", (device.boot, seq)).fetchone() is not None


@pytest.mark.fault("L7")
def test_nobody_listens(rig, fault, tmp_path):
    rig.open_behind_proxy().collect()
    rig.proxy.mode = "refuse"
    with idle_daemon(rig.proxy.url, tmp_path) as daemon:
        attempts = []
        accept = rig.proxy.accept
        rig.proxy.accept = lambda: (attempts.append(time.monotonic()), accept())
        before_s, window_s = cpu_s(daemon.pid), 8.0
        time.sleep(window_s)
        share = (cpu_s(daemon.pid) - before_s) / window_s
        of_daemon = len(attempts)
    assert share <= 0.02
    attempts.clear()
    ours = rig.device(reconnect_cap_s=2.0)
    ours.make(20)
    time.sleep(window_s)
    tried = len(attempts)
    waits = [after - before for before, after in zip(attempts, attempts[1:])]
    assert max(waits) <= 2.0 + 1.0
    assert len({round(wait, 2) for wait in waits}) > len(waits) // 2, "waits that are all alike"
    rig.proxy.mode = "ok"
    rig.wait_until_drained(ours)
    assert rig.verdict(ours) == (0, 0)
    eager = eager_attempts(rig)
    assert eager > 10 * tried
    fault(
        what="the broker's address refuses",
        injected=f"{window_s:g} s of refused connections, cap 2 s; the same for `edge-sdk daemon` with its cap of 60 s",
        bar="back-off with jitter up to the cap; CPU <= 2 % of the device",
        measured=f"{tried} attempts, waits {min(waits):.2f} to {max(waits):.2f} s, 0 lost; the daemon, with a Sample a "
        f"second and {of_daemon} attempts, {share:.2%} of a core",
        control=f"without a wait between attempts: {eager} attempts in 1 s",
    )


@contextlib.contextmanager
def idle_daemon(url, folder):
    """`edge-sdk daemon` in a process of its own, ready, with this machine's readings and no model."""
    command = [sys.executable, "-m", "edge_sdk", "daemon", "--json", "--port", "0", "--device", "idle"]
    with subprocess.Popen(
        [*command, "--broker", url, "--state", folder / "idle"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=link_rig.ROOT,
    ) as daemon:  # fmt: skip
        try:
            assert daemon.stdout.readline()
            time.sleep(2.0)
            yield daemon
            assert daemon.poll() is None
        finally:
            daemon.kill()


def cpu_s(pid):
    """The CPU time of a process so far, its threads included."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def eager_attempts(rig):
    rig.proxy.mode = "refuse"
    attempts, ends_s = 0, time.monotonic() + 1.0
    while time.monotonic() < ends_s:
        socket.create_connection(("127.0.0.1", rig.proxy.port)).close()
        attempts += 1
    rig.proxy.mode = "ok"
    return attempts


@pytest.mark.fault("L4")
def test_a_narrow_link(fault, needs_root, tmp_path, monkeypatch):
    if shutil.which("tc") is None:
        pytest.skip("SKIPPED LOUDLY: no tc here (apt install iproute2)")
    outcome = []

    def run(folder, told_in):
        folder.mkdir()
        worker = threading.Thread(target=lambda: outcome.append(narrow(folder, told_in)))
        worker.start()
        worker.join()

    run(tmp_path / "ours", range(8))
    controls.oldest_first(monkeypatch)
    run(tmp_path / "control", [7])
    (ages, made, dropped, held), ((late_s,), *_) = outcome
    assert late_s > 2 * max(ages), "the control must be late"
    assert held <= 300
    assert sorted(ages)[int(len(ages) * 0.95)] <= 5
    fault(
        what="100 kbit/s for 20 Samples a second, and events between them",
        injected=f"tc tbf 100 kbit/s in a network namespace of its own; {made} Samples, {len(ages)} events",
        bar="backlog bounded by the cap; events first: p95 <= 5 s old",
        measured=f"at most {held} held of a cap of 300, {dropped} dropped and counted; events p95 "
        f"{sorted(ages)[int(len(ages) * 0.95)]:.1f} s",
        control=f"oldest first, events after Samples: an event after 160 Samples {late_s:.1f} s",
    )


def narrow(folder, told_in):
    """Runs on a thread of its own, in a network of its own; what it starts inherits that."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "no network namespace")
    for command in ("ip link set lo up", "tc qdisc add dev lo root tbf rate 100kbit burst 16k latency 400ms"):
        subprocess.run(command.split(), check=True)
    broker = Broker(folder)
    ear, heard = link_rig.hear(broker.url, f"{link_rig.UP}/event")
    ours = Device(broker.url, capacity=300, resend_s=30.0, in_flight_max=8, client_id="narrow")
    try:
        assert ours.link.wait_for_connected(20)
        ages, held = [], 0
        for number in range(8):
            ours.make(20, pause_s=0.05)
            held = max(held, ours.held)
            if number not in told_in:
                continue
            told_s = time.monotonic()
            ours.forwarder.tell(News("alarm", f"number {number}", {}))
            while json.loads(heard.get(timeout=60).payload)["message"] != f"number {number}":
                pass
            ages.append(time.monotonic() - told_s)
        return ages, ours.made, ours.forwarder.snapshot().dropped, held
    finally:
        ours.close()
        ear.close()
        broker.kill()


@pytest.mark.fault("L3")
@pytest.mark.usefixtures("needs_root")
@pytest.mark.skipif(not lossy_net.TUN.exists() or shutil.which("ip") is None, reason="SKIPPED LOUDLY: no tunnels here")
def test_thirty_percent_of_packets_lost(rig, fault):
    with lossy_net.LossyNet() as net:
        with net.entered(1):
            rig.open(f"listener 1883 {lossy_net.BROKER_IP}").collect()
            ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            ear.bind((lossy_net.BROKER_IP, 9999))
        with net.entered(0), ear, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            ours = rig.device(url=f"mqtt://{lossy_net.BROKER_IP}:1883", connect_timeout_s=10.0, resend_s=5.0)
            assert ours.link.wait_for_connected(link_rig.WAIT_S)
            net.share = 0.3
            ours.make(300, pause_s=0.02)
            took_s = rig.wait_until_drained(ours, 100)
            passed, lost = net.passed, net.lost
            for number in range(300):
                mouth.sendto(b"%d" % number, (lossy_net.BROKER_IP, 9999))
                time.sleep(0.001)
            time.sleep(0.3)
            ear.setblocking(False)
            heard = 0
            with contextlib.suppress(BlockingIOError):
                while ear.recv(100):
                    heard += 1
        net.share = 0.0
        assert rig.verdict(ours) == (0, 0)
        assert lost > 50
        assert 300 - heard > 30, "the rig loses nothing"
        ours.close()
    fault(
        what="30 % of all IP packets lost, both ways",
        injected=f"{lost} of {lost + passed} packets forgotten between two network namespaces; {ours.made} records in 6 s",
        bar="0 lost, 0 stored twice, drained",
        measured=f"0 lost, 0 twice, drained {took_s:.1f} s after the last, {ours.link.snapshot().connects} connects",
        control=f"300 datagrams sent once on the same path: {300 - heard} lost",
    )
