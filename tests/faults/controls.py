"""Variants with one protection taken away: the fault tests show that each of them loses, doubles, crashes or stands."""

import json
import threading
import time

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_sdk.collector.intake import Owed
from edge_sdk.collector.service import Collector
from edge_sdk.device.spool.held import Held
from edge_sdk.link.mqtt import MqttLink
from edge_sdk.link.reading import PacketReader


class EagerCollector(Collector):
    """Sends its receipts before the commit."""

    def _store_batch(self, batch):
        for boot, said in batch.said.items():
            self._owed[boot] = Owed(said.site, max(said.seqs, default=-1))
        self._send_receipts()
        super()._store_batch(batch)


class StubbornLink(MqttLink):
    """Neither keeps to the size that the broker announces, nor forgets what ended a connection by its size."""

    def _accept(self, connection):
        connection.message_max_bytes = 2**28
        super()._accept(connection)

    def _lose(self, connection):
        connection.was_too_large = False
        super()._lose(connection)


class ForgetfulReader(PacketReader):
    """Forgets what a piece of the stream leaves over."""

    def feed(self, data):
        part = super().feed(data)
        self._rest, self._needed_bytes = b"", 0
        return part


def oldest_first(monkeypatch):
    """Has what is due go out in the order in which it was made, events after Samples."""
    real = Held._candidates
    monkeypatch.setattr(
        Held, "_candidates", lambda self, now_s: iter(sorted(real(self, now_s), key=lambda entry: entry.key))
    )


def publish_by_mqtt_3(port, topic, payloads):
    """Gives how many the broker acknowledged as taken to a client of MQTT 3.1.1."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="mqtt-3", protocol=MQTTProtocolVersion.MQTTv311)
    taken = []
    client.on_publish = lambda _client, _data, _id, reason, _more: taken.append(not reason.is_failure)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for payload in payloads:
        client.publish(topic, payload, qos=1)
    deadline = time.monotonic() + 20
    while len(taken) < len(payloads):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.disconnect()
    client.loop_stop()
    return sum(taken)


class FencelessEar:
    """A subscriber of paho's own whose callback decodes whatever comes."""

    def __init__(self, port, topic, monkeypatch):
        self.heard, self.ended = [], []
        monkeypatch.setattr(threading, "excepthook", lambda failure: self.ended.append(failure.exc_type.__name__))
        self.client = paho.Client(CallbackAPIVersion.VERSION2, "fenceless", protocol=MQTTProtocolVersion.MQTTv5)
        subscribed = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.heard.append(json.loads(message.payload.decode()))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(20)

    def close(self):
        self.client.loop_stop()
        if self.client.socket() is not None:
            self.client.socket().close()
