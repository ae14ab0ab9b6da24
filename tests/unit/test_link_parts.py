"""What the links are made of: waits, topic filters, addresses, the window of unacknowledged messages, dispatch."""

import itertools
import random
from pathlib import Path

import pytest

from edge_sdk import errors
from edge_sdk.link import backoff, filters, settings
from edge_sdk.link.dispatch import Dispatch
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.link.protocol import Message, Will
from edge_sdk.link.window import ATTEMPTS_MAX, Outgoing, Window


def waits(seed, count, **bounds):
    return list(itertools.islice(backoff.delays(random.Random(seed), **bounds), count))


def test_waits_stay_below_a_doubling_bound_and_the_cap():
    for seed in range(50):
        bounds = [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert all(0 <= wait <= bound for wait, bound in zip(waits(seed, 10), bounds, strict=True))


def test_a_fleet_spreads_over_the_whole_bound():
    first = [waits(f"cam-{number}", 1)[0] for number in range(1000)]
    for low in (0.0, 0.1, 0.2, 0.3, 0.4):
        assert 150 < sum(low <= wait < low + 0.1 for wait in first) < 250


def test_waits_can_be_had_again_from_the_seed():
    assert waits(7, 20) == waits(7, 20)
    assert waits(7, 20) != waits(8, 20)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "is_match"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("+/+", "/b", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter, topic, is_match):
    assert filters.matches(topic_filter, topic) is is_match


@pytest.mark.parametrize("text", ["", "a/#/b", "a#", "+a", "a/b+/c", "a\0b", "x" * 65536])
def test_a_malformed_filter_is_refused(text):
    with pytest.raises(errors.UsageError, match="topic filter"):
        filters.check_filter(text)


@pytest.mark.parametrize("text", ["", "a/+", "#", "a\0b", "ä" * 40000])
def test_a_malformed_topic_is_refused(text):
    with pytest.raises(errors.UsageError, match="no topic to publish to"):
        filters.check_topic(text)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://127.0.0.1:1884", ("127.0.0.1", 1884, False)),
        ("mqtt://broker.example", ("broker.example", 1883, False)),
        ("mqtts://broker.example/", ("broker.example", 8883, True)),
        ("mqtt://[::1]:1", ("::1", 1, False)),
    ],
)
def test_urls_give_the_address(url, address):
    assert settings.parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:1883",
        "http://x",
        "mqtt://",
        "mqtt://x:0",
        "mqtt://x:99999",
        "mqtt://x:y",
        "mqtt://x/topic",
        "mqtt://[::1",
    ],
)
def test_other_urls_are_refused_with_the_form_expected(url):
    with pytest.raises(errors.SettingsError, match="expected mqtt://host:port"):
        settings.parse_url(url)


def test_no_message_shows_a_password():
    with pytest.raises(errors.SettingsError) as refusal:
        settings.parse_url("mqtt://me:geheim@x:1883")
    assert "geheim" not in str(refusal.value)
    with pytest.raises(errors.SettingsError) as refusal:
        settings.parse_url("http://me:geheim@x:1883")
    assert "geheim" not in str(refusal.value)
    shown = repr(MqttSettings(client_id="a", username="me", password="geheim"))
    assert "geheim" not in shown
    assert "password=***" in shown
    assert "username='me'" in shown


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ca_file": Path("/no/such/ca.pem")}, "/no/such/ca.pem"),
        ({"cert_file": Path("cert.pem")}, "cert_file and key_file"),
        ({"cert_file": Path("/no/cert.pem"), "key_file": Path("/no/key.pem")}, "/no/cert.pem"),
    ],
)
def test_a_certificate_that_cannot_be_read_is_named(more, words):
    with pytest.raises(errors.SettingsError, match=words):
        MqttLink(MqttSettings(url="mqtts://x", client_id="a", **more))


def test_a_link_with_a_wrong_will_or_url_is_not_made():
    with pytest.raises(errors.UsageError):
        MqttLink(MqttSettings(client_id="a"), Will("t/+", b"x"))
    with pytest.raises(errors.SettingsError):
        MqttLink(MqttSettings(url="tcp://x", client_id="a"))


def message(number, attempts=0):
    return Outgoing("t", b"%d" % number, False, attempts)


def test_the_window_is_full_at_its_limit_and_gives_in_order():
    window = Window(3)
    for number in range(3):
        assert not window.is_full
        window.add(message(number))
    assert window.is_full
    assert [window.take(2).payload for _ in range(2)] == [b"0", b"1"]


def test_no_more_are_sent_at_once_than_the_broker_takes():
    window = Window(10)
    for number in range(3):
        window.add(message(number))
    window.mark_sent(1, window.take(2))
    window.mark_sent(2, window.take(2))
    assert window.take(2) is None
    assert window.acknowledge(1).payload == b"0"
    assert window.take(2).payload == b"2"
    assert window.acknowledge(77) is None


def test_after_a_break_everything_waits_again_in_its_old_order():
    window = Window(10)
    for number in range(4):
        window.add(message(number))
    for packet_id in (1, 2, 3):
        window.mark_sent(packet_id, window.take(10))
    window.acknowledge(2)
    assert window.rewind() == []
    assert [window.take(10).payload for _ in range(3)] == [b"0", b"2", b"3"]


def test_a_message_that_breaks_every_connection_is_given_up():
    window = Window(10)
    window.add(message(0))
    for _ in range(ATTEMPTS_MAX):
        window.mark_sent(1, window.take(10))
        given_up = window.rewind()
    assert [outgoing.payload for outgoing in given_up] == [b"0"]
    assert len(window) == 0


def test_a_message_that_was_not_sent_goes_back_to_the_front():
    window = Window(10)
    for number in range(2):
        window.add(message(number))
    window.give_back(window.take(10))
    assert window.take(10).payload == b"0"
    assert window.clear() == 1


def test_dispatch_calls_every_matching_handler_and_counts_what_they_raise():
    dispatch, got = Dispatch(), []

    def fails(message):
        raise RuntimeError("no")

    dispatch.subscribe("a/#", got.append)
    dispatch.subscribe("a/b", fails)
    dispatch.subscribe("a/+", got.append)
    dispatch.subscribe("c", fails)
    dispatch.deliver([Message("a/b", b"x", False)])
    assert got == [Message("a/b", b"x", False)] * 2
    assert (dispatch.received, dispatch.handler_errors) == (3, 1)


def test_dispatch_hands_over_together_what_came_at_once_and_only_what_matches():
    dispatch, batches, singles = Dispatch(), [], []
    dispatch.subscribe_batches("a/+", batches.append)
    dispatch.subscribe("#", singles.append)
    came = [Message(topic, b"x", False) for topic in ("a/b", "b/b", "a/c")]
    dispatch.deliver(came)
    dispatch.deliver([came[1]])
    assert batches == [[came[0], came[2]]]
    assert singles == [*came, came[1]]
    assert dispatch.received == 6


def test_the_largest_unacknowledged_message_can_be_given_up():
    window = Window(10)
    for packet_id, payload in enumerate((b"x", b"xxx", b"xx")):
        window.mark_sent(packet_id, Outgoing("t", payload, False))
    assert window.drop_largest().payload == b"xxx"
    assert window.acknowledge(1) is None
    assert len(window) == 2
    assert Window(1).drop_largest() is None
