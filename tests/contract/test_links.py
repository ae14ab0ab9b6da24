"""Every link keeps the promises of edge_sdk.testing.link_checks: in memory here, over MQTT against real brokers."""

import contextlib
import itertools
import random
import selectors
import shutil
import socket
import threading
import time

import pytest

from edge_sdk.link import broker as brokers
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.testing import link_checks


class MemoryBench:
    def __init__(self):
        self.broker = MemoryBroker()
        self.links = []

    def new_link(self, *, will=None):
        self.links.append(MemoryLink(self.broker, will=will))
        return self.links[-1]

    def cut(self, link):
        link.vanish()

    def stop_broker(self):
        self.broker.stop()

    def start_broker(self):
        self.broker.start()

    def close(self):
        for link in self.links:
            link.close()


class Tap:
    """A TCP relay to a port of this machine whose connections can be broken, for good."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stopper, self.stopped = socket.socketpair()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        peers = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(self.stopped, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.stopped:
                        for end in (*peers, self.listener, self.stopped):
                            end.close()
                        return
                    if key.fileobj is self.listener:
                        for end, peer in self.pair():
                            peers[end] = peer
                            selector.register(end, selectors.EVENT_READ)
                    elif key.fileobj in peers and not self.forward(key.fileobj, peers[key.fileobj]):
                        for end in (key.fileobj, peers[key.fileobj]):
                            selector.unregister(end)
                            end.close()
                            del peers[end]

    def pair(self):
        near, _ = self.listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self.target_port()))
        except OSError:
            near.close()
            return []
        return [(near, far), (far, near)]

    def forward(self, source, sink):
        try:
            chunk = source.recv(65536)
            sink.sendall(chunk)
            return bool(chunk)
        except OSError:
            return False

    def close(self):
        self.stopper.close()
        self.thread.join()


class MqttBench:
    """Links to a real broker; each goes through a relay of its own that can break its connection."""

    def __init__(self, kind, *, batched_reads=True):
        self.kind = kind
        self.batched_reads = batched_reads
        self.port = 0
        self.stack = None
        self.links = {}
        self.names = itertools.count()
        self.start_broker()

    def new_link(self, *, will=None):
        tap = Tap(lambda: self.port)
        name = f"link-{next(self.names)}"
        url = f"mqtt://127.0.0.1:{tap.port}"
        settings = MqttSettings(url=url, client_id=name, reconnect_cap_s=0.2, batched_reads=self.batched_reads)
        link = MqttLink(settings, will=will, rng=random.Random(name))
        self.links[link] = tap
        return link

    def cut(self, link):
        self.links[link].close()

    def stop_broker(self):
        self.stack.close()
        self.stack = None
        deadline = time.monotonic() + link_checks.WAIT_S
        while any(link.snapshot().is_connected for link in self.links):
            assert time.monotonic() < deadline, "a link that does not notice that its broker is gone"
            time.sleep(0.01)

    def start_broker(self):
        self.stack = contextlib.ExitStack()
        self.port = self.stack.enter_context(brokers.open_broker(port=self.port, kind=self.kind)).port

    def close(self):
        for link, tap in self.links.items():
            link.close()
            tap.close()
        if self.stack:
            self.stack.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("link ")]


KINDS = [
    pytest.param(None, id="memory"),
    pytest.param("embedded", id="iotcore", marks=pytest.mark.live),
    pytest.param("embedded stock", id="iotcore-read-by-paho", marks=pytest.mark.live),
    pytest.param(
        "mosquitto",
        id="mosquitto",
        marks=[
            pytest.mark.live,
            pytest.mark.skipif(not shutil.which("mosquitto"), reason="mosquitto is not on PATH"),
        ],
    ),
]


@pytest.fixture
def bench(request):
    kind, _, reads = (request.param or "").partition(" ")
    bench = MqttBench(kind, batched_reads=reads != "stock") if kind else MemoryBench()
    yield bench
    bench.close()


@pytest.mark.parametrize("check", link_checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("bench", KINDS, indirect=True)
def test_link(check, bench):
    check(bench)
