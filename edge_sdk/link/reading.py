"""Whole buffers of MQTT 5 packets to messages: the PUBLISHes of QoS 0 and 1 taken out together, the rest left as it is.

A client that reads packet by packet spends most of its time on the way there; a fleet's collector reads thousands a
second. Source of the layout: MQTT Version 5.0, OASIS Standard, 2019, sections 2.1.4, 2.2.2, 3.3 and 3.4.
"""

import functools
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.link.protocol import Message

_PUBLISH = 0x30
_USUAL = 0x32  # PUBLISH of QoS 1, not retained, for the first time
_PUBACK = b"\x40\x02"
_BARE = 2  # a PUBACK of this length says success
_TOPICS_HELD = 100_000
_FAILED = 128
TOO_LARGE = "Packet too large"
"""What a broker says, in its answer or as it ends the connection, of a message that it never takes."""

# MQTT 5.0, section 2.4: those that a PUBACK may have, and the size, which mosquitto says so as well.
_REFUSALS = {
    128: "Unspecified error",
    131: "Implementation specific error",
    135: "Not authorized",
    144: "Topic Name invalid",
    145: "Packet identifier in use",
    149: TOO_LARGE,
    151: "Quota exceeded",
    153: "Payload format invalid",
}


def refusal(reason: int) -> str:
    """Gives a PUBACK's reason in words; empty for success. paho's own table lacks what mosquitto says of the size."""
    return "" if reason < _FAILED else _REFUSALS.get(reason, f"reason code {reason}")


def publish_packet(topic: str, payload: bytes, packet_id: int, *, retain: bool) -> bytes:
    r"""Gives a PUBLISH of QoS 1 without properties; of QoS 0 where `packet_id` is 0.

    >>> publish_packet("t", b"x", 7, retain=False)
    b'2\x07\x00\x01t\x00\x07\x00x'
    """
    name = topic.encode()
    number = packet_id.to_bytes(2, "big") if packet_id else b""
    length = len(name) + len(payload) + len(number) + 3
    head = bytearray([_PUBLISH | (2 if packet_id else 0) | retain])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return b"".join((head, len(name).to_bytes(2, "big"), name, number, b"\0", payload))


class Part(NamedTuple):
    """What one piece of the stream held.

    Attributes:
        messages: of its PUBLISH packets.
        acks: the PUBACK packets that answer those of QoS 1.
        acknowledged: packet id and reason code of every PUBACK that came.
        others: every other packet, whole.
        unreadable: PUBLISH packets whose topic is no UTF-8; acknowledged, and left out.
        problem: why the stream can't be read on after these: not MQTT 5, or a packet larger than was agreed.
    """

    messages: list[Message]
    acks: bytes
    others: list[bytes]
    unreadable: int = 0
    problem: str = ""
    acknowledged: tuple[tuple[int, int], ...] = ()


_message = functools.partial(tuple.__new__, Message)  # half the time of the named tuple's own way


class PacketReader:
    """Splits a stream at its packets; what is incomplete waits for the next piece."""

    def __init__(self, packet_max_bytes: int) -> None:
        self._packet_max_bytes = packet_max_bytes
        self._rest = b""
        self._needed_bytes = 0
        self._topics: dict[bytes, str] = {}

    def feed(self, data: bytes) -> Part:
        """Gives what `data` completes."""
        if self._rest:
            data = self._rest + data
        if len(data) < self._needed_bytes:  # a large packet arrives in many pieces: do not look at its head each time
            self._rest = data
            return Part([], b"", [])
        messages: list[Message] = []
        ids: list[bytes] = []
        others: list[bytes] = []
        acknowledged: list[tuple[int, int]] = []
        unreadable = at = 0
        end = len(data)
        problem = ""
        try:
            while at < end:
                at = self._usual(data, at, messages, ids)
                body, length = self._header(data, at)
                after = body + length
                if not body or after > end:
                    self._needed_bytes = after - at if body else 0
                    break
                first = data[at]
                if first & 0xF4 == _PUBLISH:  # QoS 0 or 1; what has QoS 2 is left to the others
                    message = self._publish(data, body, after, first, ids)
                    if message is None:
                        unreadable += 1
                    else:
                        messages.append(message)
                elif first == _PUBACK[0]:
                    acknowledged.append((data[body] << 8 | data[body + 1], data[body + 2] if length > _BARE else 0))
                else:
                    others.append(data[at:after])
                at = after
        except (errors.PayloadError, IndexError) as error:
            problem = str(error)
        if at == end:
            self._needed_bytes = 0
        self._rest = data[at:]
        acks = _PUBACK + _PUBACK.join(ids) if ids else b""
        return Part(messages, acks, others, unreadable, problem, tuple(acknowledged))

    def _usual(self, data: bytes, at: int, messages: list[Message], ids: list[bytes]) -> int:
        """Takes what nearly every packet is, as long as the next is such a one; gives where it is not.

        That is a PUBLISH of 128 bytes to 16 kB without properties, on a topic that was there before, all of it in
        `data`. Whatever else it may be, and whether it is one at all, is left to the thorough way.
        """
        topics = self._topics
        packet_max_bytes = self._packet_max_bytes
        end = len(data)
        last = end - 5  # up to it the header and the topic's length are there
        while at < last and data[at] == _USUAL:
            low, high = data[at + 1], data[at + 2]
            if low < 128 or high > 127:
                break
            length = low & 127 | high << 7
            after = at + 3 + length
            topic_end = at + 5 + (data[at + 3] << 8 | data[at + 4])
            if after > end or length > packet_max_bytes or topic_end + 3 > after or data[topic_end + 2]:
                break
            topic = topics.get(data[at + 5 : topic_end])
            if topic is None:
                break
            ids.append(data[topic_end : topic_end + 2])
            messages.append(_message((topic, data[topic_end + 3 : after], False)))
            at = after
        return at

    def _header(self, data: bytes, at: int) -> tuple[int, int]:
        """Gives where the packet's body begins and its length; (0, 0) when that is not known yet."""
        length = shift = 0
        for position in range(at + 1, min(at + 5, len(data))):
            byte = data[position]
            length |= (byte & 127) << shift
            if byte < 128:
                if length > self._packet_max_bytes:
                    raise errors.PayloadError(f"a packet of {length} bytes; at most {self._packet_max_bytes} are read")
                return position + 1, length
            shift += 7
        if len(data) - at >= 5:
            raise errors.PayloadError("not an MQTT 5 packet: a length of more than four bytes")
        return 0, 0

    def _publish(self, data: bytes, at: int, end: int, first: int, ids: list[bytes]) -> Message | None:
        topic_end = at + 2 + (data[at] << 8 | data[at + 1])
        raw_topic = data[at + 2 : topic_end]
        at = topic_end
        has_id = first & 2
        if has_id:
            at += 2
        properties = data[at]
        at += 1
        if properties > 127:  # content type, user properties and the like: nothing of ours
            shift = 7
            properties &= 127
            while True:
                byte = data[at]
                at += 1
                properties |= (byte & 127) << shift
                if byte < 128 or shift > 14:
                    break
                shift += 7
        at += properties
        if at > end:
            raise errors.PayloadError("not an MQTT 5 packet: a PUBLISH that is longer inside than outside")
        if has_id:
            ids.append(data[topic_end : topic_end + 2])
        topic = self._topic(raw_topic)
        return None if topic is None else Message(topic, data[at:end], first & 1 == 1)

    def _topic(self, raw: bytes) -> str | None:
        """Gives the topic as text, the same object each time; None if it is no UTF-8."""
        topic = self._topics.get(raw)
        if topic is None:
            if len(self._topics) >= _TOPICS_HELD:
                self._topics.clear()
            try:
                topic = self._topics[raw] = raw.decode()
            except UnicodeDecodeError:
                return None
        return topic
