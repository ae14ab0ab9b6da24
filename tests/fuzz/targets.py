"""Every parser of bytes from the network as a function of bytes: True when it took them, False when it refused.

Anything else that is raised is a finding.
"""

import base64
import json
import struct
from pathlib import Path

from edge_sdk import errors
from edge_sdk.collector import ingest
from edge_sdk.link.protocol import Message
from edge_sdk.link.reading import PacketReader
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, histograms, topics

GOLDEN = Path(__file__).parents[1] / "golden" / "messages"
CORPUS = Path(__file__).parent / "corpus"


def _record(kind):
    def take(data):
        try:
            codec.from_bytes(data, kind)
        except errors.PayloadError:
            return False
        return True

    return take


def packets(data):
    """MQTT 5 packets, whole and in two pieces: both must say the same."""
    whole = PacketReader(2**20).feed(data)
    reader = PacketReader(2**20)
    half = len(data) // 2
    first, second = reader.feed(data[:half]), reader.feed(data[half:])
    if not (whole.problem or first.problem or second.problem):
        assert whole.messages == first.messages + second.messages
        assert whole.acks == first.acks + second.acks
        assert whole.acknowledged == first.acknowledged + second.acknowledged
    return not whole.problem


def message(data):
    """One message as the collector takes it: topic and payload, divided by the first line break."""
    topic, _, payload = data.partition(b"\n")
    found = ingest.parse_message(Message(topic.decode("utf-8", "replace"), payload, False), 1.75e9)
    if isinstance(found, ingest.Arrival):
        json.loads(found.text)
        return True
    return False


def topic(data):
    try:
        assert str(topics.parse(data.decode("utf-8", "replace"))).encode() == data
    except errors.PayloadError:
        return False
    return True


def histogram(data):
    text = data.decode("latin-1")
    try:
        found = histograms.from_text(text)
    except errors.PayloadError:
        try:
            histograms.check_text(text)
        except errors.PayloadError:
            return False
        raise AssertionError("check_text takes what from_text refuses") from None
    histograms.check_text(text)
    assert len(found.counts) <= histograms.MAX_BUCKETS
    return True


TARGETS = {
    "telemetry": _record(telemetry.Sample),
    "birth": _record(telemetry.Birth),
    "event": _record(telemetry.Event),
    "status": _record(telemetry.Status),
    "receipt": _record(telemetry.Receipt),
    "message": message,
    "topic": topic,
    "histogram": histogram,
    "packets": packets,
}


def seeds(name):
    """Gives what mutation starts from: golden messages of every version, and what was found before."""
    found = [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]
    if name == "topic":
        return [*found, b"edge/v1/plant-1/cam-7/up/telemetry", b"edge/v1/a/b/down/cmd/reboot"]
    if name == "histogram":
        return [
            *found,
            b"DACAAgQBAAIC",
            json.loads((GOLDEN / "v2/telemetry.json").read_text())["models"][0]["latency_hist"].encode(),
        ]
    if name == "packets":
        publish = b"\x32\x0a\x00\x03a/b\x00\x07\x00hi"
        return [
            *found,
            publish,
            publish * 3
            + b"\x40\x03\x00\x02\x95\xd0\x00"
            + b"\x30\x8a\x01\x00\x01t\x82\x01"
            + b"\x26\0\1k\0\x7b"
            + b"v" * 130,
        ]
    golden = [*GOLDEN.glob("*/telemetry.json" if name == "message" else f"*/{name}.json")]
    found += [file.read_bytes().strip() for file in sorted(golden)]
    if name in ("telemetry", "message"):
        found += [bytes.fromhex(file.read_text()) for file in sorted(GOLDEN.glob("*/telemetry.msgpack.hex"))]
    if name == "message":
        found = [b"edge/v1/plant-1/cam-7/up/telemetry\n" + data for data in found]
    return found


def careless(name):
    """The control: what a first attempt at the same looks like."""
    first = {
        "topic": lambda data: data.decode().split("/")[3],
        "histogram": lambda data: struct.unpack("<2i", base64.b64decode(data, validate=True)[:8]),
        "packets": lambda data: data[4 : 4 + data[3]].decode(),
        "message": lambda data: json.loads(data.partition(b"\n")[2])["device"],
    }
    return first.get(name, lambda data: json.loads(data)["boot"])
