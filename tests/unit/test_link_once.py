"""QoS 0 and wills that change: what is sent at most once, on one connection, and each connection's own last word."""

import time

import pytest

from edge_sdk.link import broker as brokers
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.link.protocol import Will
from edge_sdk.link.reading import publish_packet
from edge_sdk.link.window import Outgoing, Window

WAIT_S = 20.0


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_packet_of_qos_0_has_no_number():
    assert publish_packet("t", b"x", 0, retain=True) == b"\x31\x05\x00\x01t\x00x"


def test_what_has_qos_0_does_not_wait_for_another_connection():
    window = Window(10)
    for qos in (0, 1):
        window.add(Outgoing("t", b"%d" % qos, retain=False, qos=qos))
    assert window.rewind() == []
    assert window.take(10).payload == b"1"
    assert window.take(10) is None


@pytest.mark.live
@pytest.mark.parametrize("batched_reads", [True, False])
def test_qos_0_arrives_in_order_and_leaves_nothing_in_flight(batched_reads):
    with brokers.open_broker(port=0) as running:
        heard = []
        ear = MqttLink(MqttSettings(url=running.url, client_id="ear"))
        ear.subscribe("t/#", heard.append)
        mouth = MqttLink(
            MqttSettings(url=running.url, client_id="mouth", session_expiry_s=0, batched_reads=batched_reads)
        )
        for link in (ear, mouth):
            link.open()
            assert link.wait_for_connected(WAIT_S)
        for number in range(50):
            mouth.publish("t/a", b"%d" % number, qos=number % 2)
        until(lambda: len(heard) == 50 and mouth.snapshot().in_flight == 0)
        assert [message.payload for message in heard] == [b"%d" % number for number in range(50)]
        assert mouth.snapshot().published == 50
        for link in (ear, mouth):
            link.close()


@pytest.mark.live
def test_each_connection_has_the_will_that_is_made_for_it_and_it_is_not_retained():
    with brokers.open_broker(port=0) as running:
        made, heard = [], []

        def will():
            made.append(len(made))
            return Will("t/will", b"%d" % made[-1], retain=False)

        ear = MqttLink(MqttSettings(url=running.url, client_id="ear"))
        ear.subscribe("t/#", heard.append)
        ear.open()
        assert ear.wait_for_connected(WAIT_S)
        victim = MqttLink(
            MqttSettings(url=running.url, client_id="victim", session_expiry_s=0, reconnect_cap_s=0.1), will
        )
        connections = []
        make = victim._connection
        victim._connection = lambda **rest: connections.append(make(**rest)) or connections[-1]
        victim.open()
        for number in range(2):
            until(lambda: victim.snapshot().connects == number + 1)
            connections[-1]._socket.shutdown(2)
            until(lambda: len(heard) == number + 1)
        victim.close()
        assert [(message.payload, message.retained) for message in heard] == [(b"0", False), (b"1", False)]
        assert made[:2] == [0, 1]
        late = []
        after = MqttLink(MqttSettings(url=running.url, client_id="late"))
        after.subscribe("t/#", late.append)
        after.open()
        assert after.wait_for_connected(WAIT_S)
        after.publish("t/end", b"end")
        until(lambda: late)
        assert late[0].payload == b"end"
        for link in (ear, after):
            link.close()
