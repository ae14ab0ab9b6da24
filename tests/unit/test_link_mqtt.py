"""MqttLink against a scripted peer: what a broker may answer, and what only a broken or hostile one does."""

import random
import socket
import threading
import time

import pytest

from edge_sdk import errors
from edge_sdk.link.mqtt import MqttLink, MqttSettings

WAIT_S = 5.0
CONNACK = b"\x20\x03\x00\x00\x00"


class Peer:
    """A TCP server that plays a script, once for every connection; `seen` are the packets it was sent."""

    def __init__(self, script):
        self.script = script
        self.seen = []
        self.connections = 0
        self.is_closing = False
        self.server = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.server.getsockname()[1]}"

    def run(self):
        while True:
            client, _ = self.server.accept()
            with client:
                if self.is_closing:
                    return
                self.connections += 1
                client.settimeout(WAIT_S)
                try:
                    self.script(self, client)
                except OSError:
                    pass

    def packet(self, client):
        """Reads one packet; b"" at the end of the connection."""
        head = client.recv(1)
        if not head:
            return b""
        length = shift = 0
        while True:
            byte = client.recv(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        body = b""
        while len(body) < length:
            body += client.recv(length - len(body))
        self.seen.append(head + body)
        return head + body

    def linger(self, client):
        """Takes whatever comes until the client leaves."""
        while self.packet(client):
            pass

    def close(self):
        self.is_closing = True
        socket.create_connection(self.server.getsockname()).close()
        self.thread.join()
        self.server.close()


@pytest.fixture
def play():
    peers, links = [], []

    def start(script, **settings):
        peers.append(Peer(script))
        values = {"client_id": "me", "reconnect_cap_s": 0.05, "connect_timeout_s": 1.0, **settings}
        links.append(MqttLink(MqttSettings(url=peers[-1].url, **values), rng=random.Random(1)))
        return peers[-1], links[-1]

    yield start
    for link in links:
        link.close(0.2)
    for peer in peers:
        peer.close()


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def accept(peer, client, answer=CONNACK):
    peer.packet(client)
    client.sendall(answer)


def test_connects_as_mqtt_5_with_session_expiry_and_clean_start_only_the_first_time(play):
    def script(peer, client):
        accept(peer, client)
        client.close()

    peer, link = play(script, session_expiry_s=77, username="u", password="p")
    link.open()
    until(lambda: sum(packet[0] == 0x10 for packet in peer.seen) >= 3, "a third CONNECT")
    connects = [packet for packet in peer.seen if packet[0] == 0x10]
    assert all(packet[1:8] == b"\x00\x04MQTT\x05" for packet in connects)
    assert all(b"\x11\x00\x00\x00\x4d" in packet for packet in connects)
    assert [bool(packet[8] & 2) for packet in connects[:3]] == [True, False, False]


def test_a_refused_connection_says_why_and_is_tried_again(play):
    peer, link = play(lambda peer, client: accept(peer, client, b"\x20\x03\x00\x86\x00"))
    link.open()
    until(lambda: peer.connections >= 2, "a second attempt")
    until(lambda: "Bad user name or password" in link.snapshot().last_error, "the broker's reason")
    assert not link.wait_for_connected(0)
    with pytest.raises(errors.LinkError, match="Bad user name or password"):
        link.publish("t", b"x")


def test_a_peer_that_never_answers_is_left_after_the_time_out(play):
    peer, link = play(lambda peer, client: peer.linger(client), connect_timeout_s=0.2)
    link.open()
    until(lambda: "no answer within 0.2 s" in link.snapshot().last_error, "the time-out")
    until(lambda: peer.connections >= 2, "a second attempt")


@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 64,
        b"\xff" * 64,
        b"\x20\x00",
        b"\x20\xff\xff\xff\xff\x7f",
        b"\x20\x02\x00\x00",
    ],
)
def test_bytes_that_are_no_mqtt_neither_connect_nor_stop_the_link(play, noise):
    peer, link = play(lambda peer, client: accept(peer, client, noise), connect_timeout_s=0.2)
    link.open()
    until(lambda: peer.connections >= 3, "further attempts")
    assert link.snapshot().last_error
    with pytest.raises(errors.LinkError):
        link.publish("t", b"x")


@pytest.mark.parametrize(
    "noise",
    [
        b"\x30\x02\x00\x09",  # PUBLISH whose topic is longer than the packet
        b"\x40\x00",  # PUBACK without an id
        b"\x32\x07\x00\x01t\x00\x01\xff\xff",  # PUBLISH with broken properties
        b"\xf0\x00",  # AUTH
        b"\x90\x00",  # SUBACK without an id
    ],
)
def test_malformed_packets_cost_the_connection_and_nothing_else(play, noise):
    def script(peer, client):
        accept(peer, client)
        client.sendall(noise)
        peer.linger(client)

    peer, link = play(script)
    link.open()
    until(lambda: peer.connections >= 3, "further attempts after a malformed packet")
    assert link.snapshot().connects >= 2


def test_a_topic_that_is_no_utf8_is_counted_and_the_next_message_delivered(play):
    got = []

    def script(peer, client):
        accept(peer, client)
        peer.packet(client)
        client.sendall(b"\x90\x04\x00\x01\x00\x01")
        client.sendall(b"\x30\x06\x00\x02\xff\xfe\x00x" + b"\x30\x05\x00\x01t\x00y")
        peer.linger(client)

    _, link = play(script)
    link.subscribe("t", got.append)
    link.open()
    until(lambda: got, "the message after the one with a broken topic")
    assert got[0].payload == b"y"
    assert link.snapshot().handler_errors == 1


def puback(packet, reason):
    topic_length = int.from_bytes(packet[1:3], "big")
    return b"\x40\x03" + packet[3 + topic_length : 5 + topic_length] + bytes([reason])


def test_a_message_that_the_broker_refuses_is_counted_with_its_reason(play):
    def script(peer, client):
        accept(peer, client)
        for reason in (0x87, 0x10, 0x00):
            client.sendall(puback(peer.packet(client), reason))
        peer.linger(client)

    _, link = play(script)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    for _ in range(3):
        link.publish("t/mine", b"x")
    until(lambda: link.snapshot().published == 2, "two acknowledged messages")
    state = link.snapshot()
    assert (state.refused, state.in_flight) == (1, 0)
    assert state.last_error == "the broker refused t/mine: Not authorized"


def test_a_refused_subscription_is_told(play):
    def script(peer, client):
        accept(peer, client)
        peer.packet(client)
        client.sendall(b"\x90\x04\x00\x01\x00\x87")
        peer.linger(client)

    _, link = play(script)
    link.subscribe("secret/#", print)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    assert "subscription to secret/#: Not authorized" in link.snapshot().last_error


def test_unacknowledged_messages_are_bounded_and_sent_again_after_a_break(play):
    may_break = threading.Event()

    def script(peer, client):
        accept(peer, client)
        if peer.connections == 1:
            for _ in range(3):
                peer.packet(client)
            may_break.wait(WAIT_S)
            return
        while packet := peer.packet(client):
            if packet[0] == 0x32:
                client.sendall(puback(packet, 0))

    peer, link = play(script, in_flight_max=3)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    for number in range(3):
        link.publish("t", b"%d" % number)
    with pytest.raises(errors.LinkError, match="3 messages are in flight"):
        link.publish("t", b"too many")
    may_break.set()
    until(lambda: link.snapshot().published == 3, "all three acknowledged on the second connection")
    payloads = [packet[-1:] for packet in peer.seen if packet[0] == 0x32]
    assert payloads == [b"0", b"1", b"2"] * 2
    assert link.snapshot().in_flight == 0


def test_what_several_threads_publish_arrives_whole_and_in_each_ones_order_though_the_socket_is_full(play):
    is_reading = threading.Event()

    def script(peer, client):
        accept(peer, client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**17)
        is_reading.wait(WAIT_S)
        while packet := peer.packet(client):
            if packet[0] == 0x32:
                client.sendall(puback(packet, 0))

    def publish(name):
        for number in range(20):
            link.publish("t", b"%s%03d" % (name, number) + name * 100_000)

    peer, link = play(script)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    publishers = [threading.Thread(target=publish, args=(name,)) for name in (b"a", b"b", b"c")]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(WAIT_S)
    is_reading.set()
    until(lambda: link.snapshot().published == 60, "all of them")
    payloads = [packet[-100_004:] for packet in peer.seen if packet[0] == 0x32]
    for name in (b"a", b"b", b"c"):
        mine = [payload for payload in payloads if payload[:1] == name]
        assert mine == [b"%s%03d" % (name, number) + name * 100_000 for number in range(20)]
    assert peer.connections == 1


def test_no_more_is_under_way_than_the_broker_says_it_takes(play):
    def script(peer, client):
        accept(peer, client, b"\x20\x06\x00\x00\x03\x21\x00\x02")  # receive maximum 2
        first, second = peer.packet(client), peer.packet(client)
        client.settimeout(0.2)
        try:
            peer.packet(client)
        except TimeoutError:
            peer.seen.append(b"silence")
        client.settimeout(WAIT_S)
        for packet in (first, second):
            client.sendall(puback(packet, 0))
        client.sendall(puback(peer.packet(client), 0))
        peer.linger(client)

    peer, link = play(script)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    for number in range(3):
        link.publish("t", b"%d" % number)
    until(lambda: link.snapshot().published == 3, "all three")
    assert b"silence" in peer.seen


def test_a_message_larger_than_the_broker_takes_is_refused_before_it_is_sent(play):
    def script(peer, client):
        accept(peer, client, b"\x20\x08\x00\x00\x05\x27\x00\x00\x01\x00")  # maximum packet size 256
        while packet := peer.packet(client):
            if packet[0] == 0x32:
                client.sendall(puback(packet, 0))

    peer, link = play(script)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    with pytest.raises(errors.LinkError, match="takes at most"):
        link.publish("t", b"x" * 300)
    link.publish("t", b"x" * 100)
    until(lambda: link.snapshot().published == 1, "the small one")
    assert peer.connections == 1


def test_being_pushed_out_by_a_client_of_the_same_name_is_told_and_answered_slowly(play):
    def script(peer, client):
        accept(peer, client)
        client.sendall(b"\xe0\x02\x8e\x00")
        peer.linger(client)

    peer, link = play(script, reconnect_cap_s=60)
    link.open()
    until(lambda: "another client connected as 'me'" in link.snapshot().last_error, "the reason")
    time.sleep(0.7)  # the first wait after any other break ends within half a second
    assert peer.connections == 1
    started = time.monotonic()
    link.close()
    assert time.monotonic() - started < 1.0, "a close that interrupts the wait"


def test_a_silent_broker_is_noticed_by_the_ping(play):
    def script(peer, client):
        accept(peer, client)
        peer.linger(client)

    peer, link = play(script, keepalive_s=1)
    link.open()
    until(lambda: peer.connections >= 2, "a new connection after unanswered pings")
    assert b"\xc0" in peer.seen


def test_close_ends_soon_although_the_broker_acknowledges_nothing(play):
    def script(peer, client):
        accept(peer, client)
        peer.linger(client)

    peer, link = play(script)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    link.publish("t", b"x")
    started = time.monotonic()
    link.close(0.3)
    assert 0.2 < time.monotonic() - started < 1.5
    until(lambda: peer.seen[-1][0] == 0xE0, "a goodbye")
    assert link.snapshot().refused == 1


def test_no_file_descriptor_is_left_behind(play):
    import os

    def script(peer, client):
        accept(peer, client)
        client.close()

    def count():
        return len(os.listdir("/proc/self/fd"))

    peer, link = play(script)
    before = count()
    link.open()
    until(lambda: peer.connections >= 20, "20 connections")
    link.close()
    assert count() == before


def answer_to(packet, reason=b""):
    """Gives the answer to a PUBLISH of topic "t"."""
    packet_id = packet[packet.index(b"\x00\x01t") + 3 :][:2]
    return b"\x40" + bytes([2 + len(reason)]) + packet_id + reason


def is_publish(packet):
    return packet[:1] == b"\x32"


def test_a_message_that_the_broker_calls_too_large_is_refused_and_its_like_from_then_on(play):
    def script(peer, client):
        accept(peer, client)
        while packet := peer.packet(client):
            if is_publish(packet):
                client.sendall(answer_to(packet, b"\x95" if len(packet) > 500 else b""))

    _, link = play(script)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    link.publish("t", b"x" * 1000)
    until(lambda: link.snapshot().refused == 1, "the refusal")
    assert "Packet too large" in link.snapshot().last_error
    for size in (999, 1000, 5000):
        if size < 1000:
            link.publish("t", b"x" * 100)
        else:
            with pytest.raises(errors.OversizeError, match="takes at most 1000"):
                link.publish("t", b"x" * size)
    until(lambda: link.snapshot().published == 1, "the small one")
    assert link.snapshot().connects == 1


def test_a_message_for_which_the_broker_ends_the_connection_is_not_sent_again(play):
    def script(peer, client):
        accept(peer, client)
        while packet := peer.packet(client):
            if is_publish(packet) and len(packet) > 500:
                client.sendall(b"\xe0\x01\x95")
                return
            if is_publish(packet):
                client.sendall(answer_to(packet))

    peer, link = play(script)
    link.open()
    assert link.wait_for_connected(WAIT_S)
    link.publish("t", b"x" * 1000)
    until(lambda: link.snapshot().connects == 2, "a second connection")
    link.publish("t", b"small")
    until(lambda: link.snapshot().published == 1, "the small one")
    with pytest.raises(errors.OversizeError):
        link.publish("t", b"x" * 1000)
    assert sum(is_publish(packet) and len(packet) > 500 for packet in peer.seen) == 1


def test_two_silent_ends_soon_after_the_connect_wait_as_for_a_second_client_of_our_name(play):
    accepted = []

    def script(peer, client):
        accept(peer, client)
        accepted.append(time.monotonic())
        client.shutdown(socket.SHUT_WR)
        peer.linger(client)

    _, link = play(script, reconnect_cap_s=1.0)
    link.open()
    until(lambda: len(accepted) >= 4, "four connects")
    assert accepted[1] - accepted[0] < 1.0
    assert min(after - before for before, after in zip(accepted[1:], accepted[2:])) >= 0.5


def test_a_handler_that_never_returns_shows_as_a_stall(play):
    released = threading.Event()

    def script(peer, client):
        accept(peer, client)
        packet = peer.packet(client)
        client.sendall(b"\x90\x04" + packet[1:3] + b"\x00\x01" + b"\x30\x05\x00\x01t\x00x")
        peer.linger(client)

    _, link = play(script)
    link.subscribe("t", lambda message: released.wait(WAIT_S))
    link.open()
    assert link.wait_for_connected(WAIT_S)
    until(lambda: link.snapshot().stalled_s > 0.1, "the stall")
    released.set()
    until(lambda: link.snapshot().stalled_s == 0.0, "the end of the stall")
