"""The spool: nothing without a receipt is lost uncounted, nothing with one is sent again."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_sdk.device.spool.memory import MemorySpool, Record

BOOT = "0123456789abcdef"


def new(capacity=100, resend_s=10.0, window=256):
    return MemorySpool(BOOT, capacity=capacity, resend_s=resend_s, window=window)


def filled(count, **options):
    spool = new(**options)
    for seq in range(count):
        spool.put(Record(seq, b"%d" % seq))
    return spool


def seqs(records):
    return [record.seq for record in records]


def test_what_was_put_is_due_once_oldest_first():
    spool = filled(5)
    assert seqs(spool.take_due(0.0, 3)) == [0, 1, 2]
    assert seqs(spool.take_due(0.0, 3)) == [3, 4]
    assert spool.take_due(9.9, 3) == []


def test_without_a_receipt_it_is_due_again_after_a_while():
    spool = filled(2)
    spool.take_due(0.0, 10)
    assert seqs(spool.take_due(10.0, 10)) == [0, 1]
    assert spool.take_due(19.9, 10) == []


def test_a_receipt_deletes_up_to_its_number():
    spool = filled(5)
    assert spool.receipt(BOOT, 2) == 3
    assert seqs(spool.pending(10)) == [3, 4]
    assert spool.receipt(BOOT, 2) == 0
    assert spool.snapshot().receipted == 3


@pytest.mark.parametrize(("boot", "upto"), [("ffffffffffffffff", 4), (BOOT, -1), (BOOT, 5), (BOOT, 2**62)])
def test_a_receipt_for_something_else_changes_nothing(boot, upto):
    spool = filled(5)
    before = spool.snapshot()
    assert spool.receipt(boot, upto) == 0
    assert spool.snapshot() == before
    assert len(spool.pending(10)) == 5


def test_when_full_the_oldest_gives_way_and_is_counted():
    spool = filled(3, capacity=3)
    assert spool.put(Record(3, b"")) == 1
    assert seqs(spool.pending(10)) == [1, 2, 3]
    state = spool.snapshot()
    assert (state.dropped, state.oldest_seq, state.held) == (1, 1, 3)


def test_what_was_not_sent_after_all_is_due_at_once():
    spool = filled(4)
    due = spool.take_due(0.0, 4)
    spool.put_back(due[2:])
    assert seqs(spool.take_due(0.0, 4)) == [2, 3]


def test_what_was_dropped_or_receipted_meanwhile_is_not_put_back():
    spool = filled(2, capacity=2)
    due = spool.take_due(0.0, 2)
    spool.put(Record(2, b""))
    spool.receipt(BOOT, 1)
    spool.put_back(due)
    assert seqs(spool.pending(10)) == [2]


def test_without_a_collector_only_a_window_is_repeated_but_new_records_go_at_once():
    spool = filled(50, window=10)
    spool.take_due(0.0, 100)
    assert seqs(spool.take_due(10.0, 100)) == list(range(10))
    spool.put(Record(50, b""))
    assert seqs(spool.take_due(11.0, 100)) == [50]
    spool.receipt(BOOT, 9)  # the collector is back: the next ones follow
    assert seqs(spool.take_due(11.0, 100)) == list(range(10, 20))


class Spooling(RuleBasedStateMachine):
    """Device, broker and collector in any order; the model is a plain set of numbers."""

    @initialize(capacity=st.integers(1, 8), window=st.integers(1, 4))
    def begin(self, capacity, window):
        self.spool = new(capacity=capacity, resend_s=5.0, window=window)
        self.capacity = capacity
        self.seq = 0
        self.now_s = 0.0
        self.receipted = set()
        self.dropped = 0
        self.last_sent_s = {}

    @rule()
    def put(self):
        self.dropped += self.spool.put(Record(self.seq, b"%d" % self.seq))
        self.seq += 1

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0]))
    def wait(self, seconds):
        self.now_s += seconds

    @rule(limit=st.integers(0, 10), taken=st.integers(0, 10))
    def send(self, limit, taken):
        due = self.spool.take_due(self.now_s, limit)
        assert len(due) <= limit
        assert self.receipted.isdisjoint(seqs(due))
        for record in due:
            assert record.payload == b"%d" % record.seq
            assert self.now_s - self.last_sent_s.get(record.seq, -5.0) >= 5.0
        for record in due[:taken]:
            self.last_sent_s[record.seq] = self.now_s
        for record in due[taken:]:
            self.last_sent_s.pop(record.seq, None)
        self.spool.put_back(due[taken:])

    @rule(upto=st.integers(-1, 20), is_ours=st.booleans())
    def receipt(self, upto, is_ours):
        self.spool.receipt(BOOT if is_ours else "ffff0000ffff0000", upto)
        if is_ours and upto < self.seq:
            self.receipted |= set(range(upto + 1))

    @invariant()
    def every_record_is_held_receipted_or_counted_as_dropped(self):
        held = seqs(self.spool.pending(100))
        state = self.spool.snapshot()
        assert held == sorted(held)
        assert len(held) == state.held <= self.capacity
        assert self.receipted.isdisjoint(held)
        assert state.dropped == self.dropped
        assert state.held + state.receipted + state.dropped == self.seq
        assert all(seq >= state.oldest_seq for seq in held)
        assert state.oldest_seq <= self.seq


Spooling.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSpooling = Spooling.TestCase
