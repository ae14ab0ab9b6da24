"""The reader of whole buffers: any cut of the stream gives the same messages; what is no MQTT costs the connection."""

import random
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_sdk import errors
from edge_sdk.link import batched
from edge_sdk.link.batched import BatchedClient
from edge_sdk.link.protocol import Message
from edge_sdk.link.reading import PacketReader

PINGRESP = b"\xd0\x00"


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def publish(topic, payload, *, qos=1, packet_id=7, retain=False, properties=b""):
    body = len(topic).to_bytes(2, "big") + topic
    body += packet_id.to_bytes(2, "big") if qos else b""
    body += varint(len(properties)) + properties + payload
    return bytes([0x30 | qos << 1 | retain]) + varint(len(body)) + body


def read(pieces, reader=None):
    reader = reader or PacketReader(4 * 2**20)
    messages, acks, others = [], b"", []
    for piece in pieces:
        part = reader.feed(piece)
        messages += part.messages
        acks += part.acks
        others += part.others
        if part.problem:
            raise errors.PayloadError(part.problem)
    return messages, acks, others


STREAM = b"".join(
    [
        publish(b"a/b", b"one", packet_id=1),
        PINGRESP,
        publish(b"a/c", b"", packet_id=2, retain=True),
        publish(b"a/b", b"x" * 300, packet_id=0x0102, properties=b"\x01\x01" + b"\x26\x00\x01k\x00\xff" + b"v" * 255),
        publish(b"a/b", b"zero", qos=0),
        publish(b"a/b", b"two", qos=2),
        publish(b"a/b", b"y" * 122, packet_id=3),
        publish(b"a/b", b"y" * 120, packet_id=4),
        publish(b"a/b", b"y" * 119, packet_id=5),
        publish(b"a/new", b"y" * 200, packet_id=6),
        publish(b"a/b", b"", packet_id=8, properties=b"\x26\x00\x01k\x00\xff" + b"v" * 255),
        publish(b"a/new", b"y" * 16372, packet_id=9),
        publish(b"a/new", b"y" * 16377, packet_id=10),
        b"\xe0\x01\x8e",
    ]
)
MESSAGES = [
    Message("a/b", b"one", False),
    Message("a/c", b"", True),
    Message("a/b", b"x" * 300, False),
    Message("a/b", b"zero", False),
    Message("a/b", b"y" * 122, False),
    Message("a/b", b"y" * 120, False),
    Message("a/b", b"y" * 119, False),
    Message("a/new", b"y" * 200, False),
    Message("a/b", b"", False),
    Message("a/new", b"y" * 16372, False),
    Message("a/new", b"y" * 16377, False),
]
ACKS = b"".join(b"\x40\x02" + number.to_bytes(2, "big") for number in (1, 2, 0x0102, 3, 4, 5, 6, 8, 9, 10))
OTHERS = [PINGRESP, publish(b"a/b", b"two", qos=2), b"\xe0\x01\x8e"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_however_the_stream_is_cut_the_same_comes_out(cuts):
    ends = sorted([0, *cuts, len(STREAM)])
    pieces = [STREAM[begin:end] for begin, end in zip(ends, ends[1:])]
    assert read(pieces) == (MESSAGES, ACKS, OTHERS)


def test_one_byte_at_a_time():
    assert read([bytes([byte]) for byte in STREAM]) == (MESSAGES, ACKS, OTHERS)


def test_what_paho_packs_is_read_with_its_properties():
    near, far = socket.socketpair()
    with near, far:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="c", protocol=MQTTProtocolVersion.MQTTv5)
        client._sock = near
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("a", "b" * 200), ("c", "ü")]
        properties.ContentType = "application/json"
        properties.MessageExpiryInterval = 60
        client.publish("a/b", b"payload", qos=1, properties=properties)
        client.publish("a/b", b"more", qos=0, retain=True)
        messages, acks, others = read([far.recv(65536)])
        client._sock = None
    assert messages == [Message("a/b", b"payload", False), Message("a/b", b"more", True)]
    assert (len(acks), others) == (4, [])


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", id="a length of five bytes"),
        pytest.param(b"\x30\xff\xff\xff\x7f", id="larger than agreed"),
        pytest.param(b"\x30\x02\x00\x09", id="a topic beyond the end"),
        pytest.param(b"\x32\x07\x00\x01t\x00\x01\xff\xff", id="properties beyond the end"),
        pytest.param(b"\x32\x03\x00\x01t", id="no packet id"),
        pytest.param(b"\x30\x00", id="nothing inside"),
        pytest.param(b"\x32\x80\x01\x00\xff" + bytes(126), id="a topic beyond the end of many bytes"),
        pytest.param(b"\x32\x80\x01\x00\x7c" + bytes(126), id="a topic to the end of many bytes"),
        pytest.param(b"\x32\x80\x01\x00\x03a/b\x00\x01\x7f" + bytes(120), id="properties beyond many bytes"),
    ],
)
def test_what_is_no_publish_is_refused(noise):
    part = PacketReader(4 * 2**20).feed(STREAM + noise)
    assert part.problem
    assert (part.messages, part.acks, part.others) == (MESSAGES, ACKS, OTHERS)


def test_no_packet_is_larger_than_agreed_on_a_topic_that_is_known_either():
    reader = PacketReader(300)
    part = reader.feed(publish(b"a/b", b"x" * 200) + publish(b"a/b", b"y" * 200) + publish(b"a/b", b"z" * 300))
    assert [message.payload for message in part.messages] == [b"x" * 200, b"y" * 200]
    assert "at most 300" in part.problem


def test_a_topic_that_is_no_utf8_is_acknowledged_and_left_out():
    part = PacketReader(1000).feed(publish(b"a/\xff", b"x") + publish(b"a/b", b"y"))
    assert part.messages == [Message("a/b", b"y", False)]
    assert (part.unreadable, len(part.acks), part.problem) == (1, 8, "")


@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_any_bytes_are_read_or_refused_and_nothing_is_held_beyond_them(noise, seed):
    rng = random.Random(seed)
    cut = rng.randrange(len(STREAM))
    data = STREAM[:cut] + noise + STREAM[cut:]
    try:
        messages, acks, others = read([data], PacketReader(1000))
    except errors.PayloadError:
        return
    assert sum(len(message.payload) for message in messages) + sum(map(len, others)) <= len(data)
    assert len(acks) <= len(data)


def test_a_large_packet_in_many_pieces_is_put_together_once():
    packet = publish(b"a/b", bytes(1_000_000))
    pieces = [packet[at : at + 1000] for at in range(0, len(packet), 1000)]
    assert read(pieces)[0] == [Message("a/b", bytes(1_000_000), False)]


@pytest.fixture
def fed():
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(5.0)
    client = BatchedClient(CallbackAPIVersion.VERSION2, client_id="c", protocol=MQTTProtocolVersion.MQTTv5)
    client._sock = near
    yield client, far
    client._sock = None
    near.close()
    far.close()


def test_the_installed_paho_can_be_fed():
    assert batched.works()


def test_another_paho_is_noticed_and_reads_for_itself(monkeypatch, caplog):
    monkeypatch.setattr(paho.Client, "loop_read", lambda self, max_packets=1: setattr(self, "_fed", b""))
    assert not batched.works.__wrapped__()
    monkeypatch.setattr(BatchedClient, "write", lambda self, packets: 1 / 0)
    assert not batched.works.__wrapped__()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "this version of paho reads its messages one by one"
    ] * 2


def test_acknowledgements_never_go_into_the_middle_of_another_packet(fed):
    client, far = fed
    payload = bytes(4_000_000)  # more than the socket takes at once
    client.publish("t", payload, qos=1)
    assert paho.Client.want_write(client)
    client.write(b"\x40\x02\x00\x01" * 3)
    client.write(b"\x40\x02\x00\x02")
    stream = drained(client, far)
    part = PacketReader(2**24).feed(stream)
    assert [message.payload for message in part.messages] == [payload]
    assert part.acknowledged == ((1, 0), (1, 0), (1, 0), (2, 0))


def test_no_packet_goes_into_the_middle_of_acknowledgements(fed):
    client, far = fed
    acks = b"".join(b"\x40\x02" + number.to_bytes(2, "big") for number in range(65536)) * 20
    client.write(acks)
    assert client.want_write()
    client.publish("t", b"x", qos=1)
    part = PacketReader(2**24).feed(drained(client, far))
    assert len(part.acknowledged) == len(acks) // 4
    assert [message.payload for message in part.messages] == [b"x"]


def test_reason_codes_of_acknowledgements_are_read():
    part = PacketReader(1000).feed(
        b"\x40\x02\x00\x01" + b"\x40\x03\x00\x02\x95" + b"\x40\x04\x01\x02\x87\x00" + b"\x40\x01\x00"
    )
    assert part.acknowledged == ((1, 0), (2, 0x95), (258, 0x87))
    assert part.problem


def drained(client, far):
    stream = b""
    while client.want_write():
        stream += far.recv(2**20)
        client.loop_write()
    far.setblocking(False)
    try:
        while chunk := far.recv(2**20):
            stream += chunk
    except (BlockingIOError, ssl.SSLWantReadError):
        return stream
    return stream
