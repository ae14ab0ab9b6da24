"""Who waits awake for the next request, and who sleeps."""

import os
import socket
import threading

import pytest

from edge_sdk.device.serve.waiting import AWAKE_NS, Company, Wait


class Ticks:
    """A clock that goes on by so much with each look."""

    def __init__(self, step_ns):
        self.now_ns, self.step_ns = 0, step_ns

    def __call__(self):
        self.now_ns += self.step_ns
        return self.now_ns


class Peer:
    """A socket that notes how it is asked; nothing is there for the first `empty` looks without waiting."""

    def __init__(self, empty=0):
        self.empty, self.asked = empty, []

    def recv_into(self, view, size=0, flags=0):
        self.asked.append("awake" if flags & socket.MSG_DONTWAIT else "asleep")
        if flags & socket.MSG_DONTWAIT and self.asked.count("awake") <= self.empty:
            raise BlockingIOError
        return 1


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def test_the_first_wait_is_asleep_and_after_a_quick_one_the_next_is_awake():
    peer = Peer()
    wait = Wait(peer, Ticks(1000), Company())
    assert [wait.receive_into(bytearray(1)) for _ in range(3)] == [1, 1, 1]
    assert peer.asked == ["asleep", "awake", "awake"]


def test_after_a_long_wait_the_next_is_asleep():
    peer = Peer()
    wait = Wait(peer, Ticks(AWAKE_NS), Company())
    for _ in range(3):
        wait.receive_into(bytearray(1))
    assert peer.asked == ["asleep"] * 3


def test_nobody_comes_in_time_so_it_sleeps():
    peer = Peer(empty=10**6)
    wait = Wait(peer, Ticks(AWAKE_NS // 10), Company())
    wait.receive_into(bytearray(1))
    wait.receive_into(bytearray(1))
    assert peer.asked[-1] == "asleep"
    assert 1 < peer.asked.count("awake") < 12


def test_a_clock_that_stands_still_does_not_keep_it_awake_for_ever():
    peer = Peer(empty=10**9)
    wait = Wait(peer, lambda: 0, Company())
    wait.receive_into(bytearray(1))
    assert wait.receive_into(bytearray(1)) == 1
    assert peer.asked[-1] == "asleep"


def test_two_callers_at_once_are_both_waited_for_asleep():
    company = Company()
    one, other = Peer(), Peer()
    waits = [Wait(peer, Ticks(1000), company) for peer in (one, other)]
    for _ in range(4):
        for wait in waits:
            wait.receive_into(bytearray(1))
    assert (set(one.asked), set(other.asked)) == ({"asleep"}, {"asleep"})


def test_on_one_core_the_peer_could_not_run_meanwhile(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    peer = Peer()
    wait = Wait(peer, Ticks(1000), Company())
    for _ in range(3):
        wait.receive_into(bytearray(1))
    assert set(peer.asked) == {"asleep"}


def test_the_end_of_a_connection_and_a_late_message_are_seen_either_way():
    mine, theirs = socket.socketpair()
    with mine, theirs:
        wait, view = Wait(mine, Ticks(1), Company()), bytearray(8)
        theirs.sendall(b"a")
        assert wait.receive_into(view) == 1
        timer = threading.Timer(0.05, lambda: theirs.sendall(b"bc"))
        timer.start()
        assert (wait.receive_into(view), view[:2]) == (2, b"bc")
        timer.join()
        theirs.shutdown(socket.SHUT_WR)
        assert wait.receive_into(view) == 0
