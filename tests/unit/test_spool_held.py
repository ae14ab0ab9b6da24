"""What the spool holds, without thread or file: nothing without a receipt is lost uncounted, nothing with one is sent again."""

import pytest

from edge_sdk.device.spool import records
from edge_sdk.device.spool.held import Held, Limits
from edge_sdk.device.spool.queue_file import BootRow, Row
from edge_sdk.device.spool.records import Kind


def new(capacity=100, memory=100, resend_s=10.0, window=1000, repeats=256, number=3):
    return Held(BootRow(number, "c0ffee00"), Limits(capacity, memory, resend_s, window, repeats))


def filled(count, **options):
    held = new(**options)
    for seq in range(count):
        held.put(Kind.SAMPLE, seq, b"%d" % seq, 0.0)
    return held


def seqs(entries):
    return [records.seq_of(entry.key) for entry in entries]


def commit(held):
    staged = held.staged()
    held.committed(entry.key for entry in staged)
    return staged


def test_what_was_put_is_due_once_oldest_first():
    held = filled(5)
    assert seqs(held.take_due(0.0, 3)) == [0, 1, 2]
    assert seqs(held.take_due(0.0, 3)) == [3, 4]
    assert held.take_due(9.9, 3) == []


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_without_a_receipt_it_is_due_again_after_a_while(is_on_disk):
    held = filled(2)
    if is_on_disk:
        commit(held)
    held.take_due(0.0, 10)
    assert seqs(held.take_due(10.0, 10)) == [0, 1]
    assert held.take_due(19.9, 10) == []


def test_live_samples_go_before_the_backlog_and_events_before_both():
    held = filled(200, capacity=1000, memory=1000)
    commit(held)
    held.put(Kind.SAMPLE, 200, b"live", 0.0)
    held.put(Kind.EVENT, 0, b"event", 0.0)
    due = held.take_due(0.0, 80)
    assert due[0].payload == b"event"
    assert seqs(due[1:65])[-1] == 200  # the minute before now
    assert seqs(due[65:]) == list(range(15))


def test_a_receipt_deletes_up_to_its_number_in_memory_and_on_disk():
    held = filled(5)
    commit(held)
    for seq in (5, 6):
        held.put(Kind.SAMPLE, seq, b"", 0.0)
    assert held.receipt(3, 5) == 6
    assert (held.samples, len(held.backlog), held.receipted, held.oldest_seq(3)) == (1, 0, 6, 6)
    assert [(records.seq_of(gone.first), records.seq_of(gone.last)) for gone in held.gone.take()] == [(0, 4)]
    assert held.receipt(3, 5) == 0


@pytest.mark.parametrize(("number", "upto"), [(2, 4), (3, -1), (3, 5), (3, 2**62)])
def test_a_receipt_for_something_else_changes_nothing(number, upto):
    held = filled(5)
    assert held.receipt(number, upto) == 0
    assert (held.samples, held.receipted, held.oldest_seq(3)) == (5, 0, 0)


def test_what_is_receipted_while_it_is_committed_is_deleted_on_disk():
    held = filled(3)
    staged = held.staged()
    held.receipt(3, 1)
    held.committed(entry.key for entry in staged)
    assert (len(held.backlog), held.samples) == (1, 1)
    assert len(held.gone) == 2


def test_when_full_the_oldest_gives_way_and_is_counted():
    held = filled(4, capacity=3)
    assert (held.samples, held.boots.dropped(3), held.oldest_seq(3)) == (3, 1, 1)
    commit(held)
    held.put(Kind.SAMPLE, 4, b"", 0.0)
    assert (held.samples, held.boots.dropped(3), held.oldest_seq(3)) == (3, 2, 2)


def test_with_no_place_on_disk_the_oldest_in_memory_give_way():
    held = filled(3, capacity=100, memory=3)
    commit(held)
    for seq in range(3, 8):
        held.put(Kind.SAMPLE, seq, b"", 0.0)
    assert (len(held.backlog), held.samples, held.boots.dropped(3)) == (3, 6, 2)


def test_what_was_not_sent_after_all_is_due_at_once():
    held = filled(4)
    due = held.take_due(0.0, 4)
    held.put_back(due[2:])
    assert seqs(held.take_due(0.0, 4)) == [2, 3]


def test_without_a_collector_only_some_are_repeated_but_new_records_go_at_once():
    held = filled(50, repeats=10)
    held.take_due(0.0, 100)
    assert seqs(held.take_due(10.0, 100)) == list(range(10))
    held.put(Kind.SAMPLE, 50, b"", 11.0)
    assert seqs(held.take_due(11.0, 100)) == [50]
    held.receipt(3, 9)  # the collector is back: the next ones follow
    assert seqs(held.take_due(11.0, 100)) == list(range(10, 20))


def test_a_new_connection_makes_due_what_an_earlier_one_may_have_lost():
    held = filled(3)
    held.take_due(0.0, 2)
    held.take_due(5.0, 1)
    held.reconnected(6.0)
    assert seqs(held.take_due(6.0, 10)) == [0, 1]


def test_only_a_window_of_what_is_on_disk_is_in_memory():
    held = new(window=10)
    held.take_over((), [records.key_of(Kind.SAMPLE, 1, seq) for seq in range(100)], ())
    asked = held.backlog.wanted()
    assert (records.seq_of(asked.first), records.seq_of(asked.last)) == (0, 9)
    held.loaded([Row(key, b"x") for key in range(asked.first, asked.last + 1)], asked)
    assert seqs(held.take_due(0.0, 100)) == list(range(10))
    assert held.backlog.wanted() is None
    held.receipt(1, 6)
    assert records.seq_of(held.backlog.wanted().first) == 10


def test_a_record_that_is_damaged_or_missing_on_disk_is_counted_and_the_gap_told():
    held = new()
    keys = [records.key_of(Kind.SAMPLE, 1, seq) for seq in range(5)]
    held.take_over([BootRow(1, "b00t1000")], keys, ())
    bad = held.loaded(
        [Row(keys[0], b"x"), Row(keys[1], None), Row(keys[3], b"x"), Row(keys[4], b"x")], held.backlog.wanted()
    )
    assert bad == [keys[1], keys[2]]
    assert held.boots.dropped(1) == 2
    assert seqs(held.take_due(0.0, 10)) == [0, 3, 4]
    held.receipt(1, 0)
    assert held.oldest_seq(1) == 3


def test_earlier_boots_go_first_in_the_order_of_their_starts():
    held = new(number=9)
    held.take_over((), [records.key_of(Kind.SAMPLE, number, seq) for number in (7, 8) for seq in (0, 1)], ())
    held.put(Kind.SAMPLE, 0, b"", 0.0)
    held.loaded([Row(key, b"") for key in held.backlog.keys], held.backlog.wanted())
    held.take_due(0.0, 1)
    order = [(records.boot_number_of(entry.key), records.seq_of(entry.key)) for entry in held.take_due(0.0, 10)]
    assert order == [(7, 0), (7, 1), (8, 0), (8, 1)]


def test_a_boot_has_ended_when_nothing_of_it_is_held():
    held = new(number=9)
    keys = [records.key_of(Kind.SAMPLE, 7, 0), records.key_of(Kind.SAMPLE, 7, 1)]
    event = records.key_of(Kind.EVENT, 7, 4)
    held.take_over([BootRow(7, "b00t7000"), BootRow(8, "b00t8000")], keys, [Row(event, b"e")])
    assert held.ended() == [8]
    held.receipt(7, 1)
    assert held.ended() == [8]
    held.event_receipt(7, [4])
    assert held.ended() == [7, 8]


@pytest.mark.parametrize(("named", "left"), [([1], 2), ([0, 1, 2], 0), ([7], 3), ([], 3)])
def test_events_are_deleted_by_number(named, left):
    held = new()
    for seq in range(3):
        held.put(Kind.EVENT, seq, b"", 0.0)
    held.take_due(0.0, 10)
    held.event_receipt(3, named)
    assert held.events == left


def test_an_event_without_a_receipt_comes_again_after_twice_as_long_each_time():
    held = new(resend_s=10.0)
    held.put(Kind.EVENT, 0, b"", 0.0)
    times = [second for second in range(200) if held.take_due(float(second), 10)]
    assert times == [0, 10, 30, 70, 150]


def test_a_sample_without_a_receipt_comes_again_after_twice_as_long_each_time_up_to_sixteen_times():
    held = new(resend_s=10.0)
    held.put(Kind.SAMPLE, 0, b"", 0.0)
    times = [second for second in range(700) if held.take_due(float(second), 10)]
    assert times == [0, 10, 30, 70, 150, 310, 470, 630]


def test_a_file_that_lacks_something_loses_it_counted_and_one_that_has_too_much_is_cleaned():
    held = filled(5)
    keys = [entry.key for entry in commit(held)]
    stranger = records.key_of(Kind.SAMPLE, 1, 77)
    assert held.reconcile([stranger, keys[0], keys[3], keys[4]], 0.0) == 2
    assert (held.samples, held.boots.dropped(3)) == (3, 2)
    assert [gone.first for gone in held.gone.take()] == [stranger]


def test_a_file_opened_anew_is_told_to_delete_what_had_its_receipt_and_nothing_that_had_none():
    held = filled(3)
    held.put(Kind.EVENT, 0, b"stored", 0.0)
    held.put(Kind.EVENT, 1, b"not stored", 0.0)
    keys = [entry.key for entry in commit(held)]
    held.receipt(3, 1)
    held.event_receipt(3, [0])
    held.put(Kind.SAMPLE, 3, b"its commit failed, and reached the disk all the same", 0.0)
    held.reconcile([*keys, records.key_of(Kind.SAMPLE, 3, 3)], 0.0)
    gone = [key for first, last in held.gone.take() for key in range(first, last + 1)]
    assert [(records.kind_of(key), records.seq_of(key)) for key in gone] == [
        (Kind.SAMPLE, 0),
        (Kind.SAMPLE, 1),
        (Kind.EVENT, 0),
    ]


def test_an_event_that_a_file_opened_anew_lacks_is_written_again():
    held = new()
    held.put(Kind.EVENT, 0, b"e", 0.0)
    commit(held)
    held.reconcile([], 5.0)
    assert [entry.payload for entry in held.staged()] == [b"e"]
    assert held.oldest_put_s() == 5.0
