"""A device, a link that can be broken in ways, a broker and a collector that can be killed; and who counts the losses."""

import contextlib
import json
import os
import queue
import random
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.collector.service import Collector
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.device import reports
from edge_sdk.device.spool.forwarding import Forwarder
from edge_sdk.device.spool.held import Limits
from edge_sdk.device.spool.spool import Spool, SpoolSettings
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.records import telemetry
from edge_sdk.wire import codec

ROOT = Path(__file__).parents[2]
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
NO_MOSQUITTO = "SKIPPED LOUDLY: no mosquitto here: apt install mosquitto"
WAIT_S = 40.0
SITE, DEVICE = "plant", "cam-7"
UP = f"edge/v1/{SITE}/{DEVICE}/up"
RECEIPT = f"edge/v1/{SITE}/{DEVICE}/down/receipt"


def until(condition, what, wait_s=WAIT_S):
    deadline = time.monotonic() + wait_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {wait_s:g} s for {what}"
        time.sleep(0.01)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """A mosquitto of our own that can be killed and started again at the same port."""

    def __init__(self, folder, *lines, persistence=False):
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.config = folder / "mosquitto.conf"
        own = [f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", f"persistence {str(persistence).lower()}"]
        if persistence:
            own += [f"persistence_location {folder}/", "user root"]
        if not any(line.startswith("allow_anonymous") for line in lines):
            own.append("allow_anonymous true")
        self.config.write_text("\n".join([*own, *lines]) + "\n")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", self.config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._listens, "mosquitto to listen")

    def _listens(self):
        assert self.process.poll() is None, "mosquitto ended by itself"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Proxy:
    """A TCP relay that can reset, swallow, slice, corrupt, slow down or refuse."""

    def __init__(self, port, seed=1):
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.mode = "ok"
        self.corrupted = self.connections = 0
        self.rng = random.Random(seed)
        self.pairs = []
        self.stop_read, self.stop_write = os.pipe()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while True:
            ends = [end for pair in self.pairs for end in pair]
            readable = select.select([self.listener, self.stop_read, *ends], [], [], 0.2)[0]
            if self.stop_read in readable:
                return
            if self.listener in readable:
                self.accept()
            if self.mode == "hole":
                time.sleep(0.005)
                continue
            for near, far in list(self.pairs):
                for source, sink in ((near, far), (far, near)):
                    if source in readable and not self.forward(source, sink, up=source is near):
                        self.drop((near, far))
                        break

    def accept(self):
        near, _ = self.listener.accept()
        if self.mode == "refuse":
            near.close()
            return
        self.connections += 1
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=2)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pairs.append((near, far))

    def forward(self, source, sink, *, up):
        try:
            data = source.recv(65536)
            if not data:
                return False
            if self.mode == "corrupt" and up and self.rng.random() < 0.2:
                place = self.rng.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ (1 << self.rng.randrange(8))]) + data[place + 1 :]
                self.corrupted += 1
            if self.mode == "slice":
                for at in range(len(data)):
                    sink.sendall(data[at : at + 1])
            else:
                sink.sendall(data)
        except OSError:
            return False
        return True

    def reset(self):
        """Ends every connection with a RST."""
        for pair in list(self.pairs):
            self.drop(pair, abruptly=True)

    def drop(self, pair, *, abruptly=False):
        with contextlib.suppress(ValueError):
            self.pairs.remove(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                if abruptly:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.close()

    def close(self):
        os.write(self.stop_write, b"x")
        self.thread.join()
        for pair in list(self.pairs):
            self.drop(pair)
        self.listener.close()
        os.close(self.stop_read)
        os.close(self.stop_write)


def sample(boot, seq, **more):
    return telemetry.Sample(
        v=2, device=DEVICE, boot=boot, seq=seq, t=time.time(), up_s=time.monotonic(), interval_s=1.0, **more
    )


class Device:
    """The shipped spool, forwarder and link; Samples are made by the test."""

    def __init__(self, url, *, capacity=200_000, resend_s=0.5, file=None, **settings):
        self.clock = SystemClock()
        self.spool = Spool(
            SpoolSettings(file, Limits(capacity, capacity if file is None else 2000, resend_s)),
            name_boot=lambda _last: f"{os.getpid():08x}{time.monotonic_ns() & 0xFFFFFFFF:08x}",
            word=self.word,
            clocks=self.clock,
        )
        self.boot = self.spool.boot
        values = {"client_id": DEVICE, "reconnect_cap_s": 0.3, "connect_timeout_s": 2.0, **settings}
        self.link = MqttLink(MqttSettings(url=url, **values), rng=random.Random(7))
        self.forwarder = Forwarder(
            self.spool, self.link, telemetry_topic=f"{UP}/telemetry", event_topic=f"{UP}/event", renew=reports.renewed
        )
        self.link.subscribe(RECEIPT, self.forwarder.take_receipt)
        self.link.on_connect(self.forwarder.reconnected)
        self.link.open()
        self.made = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._tick)
        self.thread.start()

    def word(self, boot, number, news):
        return codec.to_bytes(
            telemetry.Event(
                v=2, device=DEVICE, boot=boot, t=time.time(), kind=news.kind, message=news.message,
                details=news.details, seq=number,
            )
        )  # fmt: skip

    def _tick(self):
        while not self.stopping.wait(0.02):
            self.forwarder.send_due()

    def make(self, count, *, pause_s=0.0, **more):
        for _ in range(count):
            state = self.forwarder.make_room()
            taken = sample(self.boot, self.made, oldest_seq=state.oldest_seq, dropped=state.dropped, **more)
            self.forwarder.keep(self.made, codec.to_bytes(taken))
            self.made += 1
            if pause_s:
                time.sleep(pause_s)

    @property
    def held(self):
        return self.forwarder.snapshot().held

    def close(self):
        self.stopping.set()
        self.thread.join()
        self.link.close(0.5)
        self.spool.close()


class PubackDevice(Device):
    """The control: takes the broker's acknowledgement for a receipt, as most clients do."""

    def __init__(self, url, **settings):
        self.queue, self.sent = deque(), {}
        self.lock = threading.Lock()
        super().__init__(url, **settings)

    def make(self, count, *, pause_s=0.0, **more):
        for _ in range(count):
            with self.lock:
                self.queue.append(codec.to_bytes(sample(self.boot, self.made, **more)))
            self.made += 1
            if pause_s:
                time.sleep(pause_s)

    def _tick(self):
        while not self.stopping.wait(0.005):
            with self.lock:
                while self.queue:
                    try:
                        self.link.publish(f"{UP}/telemetry", self.queue[0])
                    except errors.LinkError:
                        break
                    self.queue.popleft()

    @property
    def held(self):
        return len(self.queue) + self.link.snapshot().in_flight


class CollectorProcess:
    """`edge-sdk collector` as a process that can be killed."""

    def __init__(self, url, database):
        self.url, self.database = url, database
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_sdk", "collector", "--broker", self.url, "--database", str(self.database)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None


def stored(database, boot):
    """Gives how many Samples of a boot are stored, and how many of them more than once."""
    if not Path(database).exists():
        return 0, 0
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
        try:
            count, unique = db.execute(
                "SELECT COUNT(*), COUNT(DISTINCT seq) FROM samples WHERE boot = ?", (boot,)
            ).fetchone()
        except sqlite3.OperationalError:  # not made yet
            return 0, 0
    return unique, count - unique


def verdict(database, device):
    """Gives (lost, stored twice) of what a device has made."""
    unique, twice = stored(database, device.boot)
    return device.made - unique, twice


def hear(url, topic_filter):
    """Gives a link that listens, and the queue of what it hears."""
    heard = queue.SimpleQueue()
    link = MqttLink(MqttSettings(url=url, client_id=f"ear-{time.monotonic_ns()}", session_expiry_s=0))
    link.subscribe(topic_filter, heard.put)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    return link, heard


class SessionEar:
    """A subscriber that leaves its session at the broker and comes back to it, as plain MQTT intends."""

    def __init__(self, url):
        self.port = int(url.rpartition(":")[2])
        self.seqs = set()
        self.client = None

    def come(self):
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="session-ear", protocol=MQTTProtocolVersion.MQTTv5
        )
        subscribed = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe(f"{UP}/telemetry", qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.seqs.add(json.loads(message.payload)["seq"])
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self.client.connect("127.0.0.1", self.port, clean_start=False, properties=properties)
        self.client.loop_start()
        assert subscribed.wait(WAIT_S)

    def leave(self):
        if self.client is not None:
            self.client.disconnect()
            self.client.loop_stop()
            self.client = None


class Rig:
    """A broker, a proxy before it if it is asked for, collectors and devices; what is made is closed, the last first.

    Devices connect through the proxy where there is one, collectors never.
    """

    def __init__(self, folder):
        self.folder, self.database = folder, folder / "t.db"
        self.closing = contextlib.ExitStack()
        self.broker = self.proxy = self.collector = None

    def beside(self, name):
        """Gives another one that has nothing to do with this, for a control."""
        folder = self.folder / name
        folder.mkdir()
        return self.closing.enter_context(contextlib.closing(Rig(folder)))

    def open(self, *lines, **options):
        """Starts the broker; gives this rig."""
        self.broker = Broker(self.folder, *lines, **options)
        self.closing.callback(self.broker.kill)
        return self

    def open_behind_proxy(self, *lines, **options):
        """Starts the broker, and the proxy before it."""
        self.open(*lines, **options)
        self.proxy = self.keep(Proxy(self.broker.port))
        return self

    def keep(self, one):
        """Has something closed in the end."""
        self.closing.callback(one.close)
        return one

    def collect(self, url=None, kind=Collector, database=None, **link_settings):
        """Starts a collector and waits for its connection."""
        values = {"url": url or self.broker.url, "client_id": "collector", "reconnect_cap_s": 0.2, **link_settings}
        link = MqttLink(MqttSettings(**values))
        settings = CollectorSettings(database=str(database or self.database), retry_s=0.05)
        self.collector = self.keep(kind(settings, link, SystemClock()))
        self.collector.start()
        assert link.wait_for_connected(WAIT_S)
        return self.collector

    def device(self, kind=Device, url=None, **settings):
        """Starts a device."""
        return self.keep(kind(url or (self.proxy or self.broker).url, **settings))

    def link(self, kind=MqttLink, **settings):
        """Gives a connected link."""
        made = self.keep(kind(MqttSettings(url=self.broker.url, **settings)))
        made.open()
        assert made.wait_for_connected(WAIT_S)
        return made

    def hear(self, topic_filter):
        """Gives the queue of what comes from now on."""
        link, heard = hear(self.broker.url, topic_filter)
        self.keep(link)
        return heard

    def verdict(self, device):
        """Gives (lost, stored twice) of what a device has made."""
        return verdict(self.database, device)

    def wait_until_drained(self, device, wait_s=WAIT_S):
        """Waits until nothing is held and nothing lost; gives the seconds that took."""
        began_s = time.monotonic()
        until(lambda: device.held == 0 and self.verdict(device)[0] == 0, "the spool to drain", wait_s)
        return time.monotonic() - began_s

    def close(self):
        self.closing.close()
