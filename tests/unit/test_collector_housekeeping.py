"""Roll-ups keep up while messages wait, and leave them most of the time."""

from edge_sdk.collector.store.housekeeping import Housekeeper
from edge_sdk.collector.store.rows import Retention
from edge_sdk.testing.clock import FakeClock

SLICE_S = 0.04


class Pending:
    """A store with Samples to roll up, which takes time for a slice."""

    def __init__(self, clock, rows):
        self.clock, self.rows, self.limits = clock, rows, []

    def roll_up(self, *, limit):
        self.limits.append(limit)
        done = min(limit, self.rows)
        self.rows -= done
        self.clock.advance(SLICE_S)
        return done

    def prune(self, retention, now_s, *, limit):
        return 0


def test_while_messages_wait_slices_are_small_and_take_a_quarter_of_the_time():
    clock = FakeClock()
    store = Pending(clock, 10**9)
    keeper = Housekeeper(store, Retention(1, 1, 1), clock)
    clock.advance(10)
    start_s = clock.boot_s()
    while clock.boot_s() < start_s + 10:
        keeper.run_if_due(is_busy=True, devices=5000)
        clock.advance(0.01)
    assert 10 / SLICE_S * 0.2 < len(store.limits) < 10 / SLICE_S * 0.27
    assert max(store.limits) <= 2000


def test_a_large_fleet_is_rolled_up_by_ten_seconds_at_once_and_a_small_one_in_short_slices():
    clock = FakeClock()
    for devices, limit in ((10, 5000), (2000, 20_000), (100_000, 50_000)):
        store = Pending(clock, 10**9)
        keeper = Housekeeper(store, Retention(1, 1, 1), clock)
        clock.advance(10)
        keeper.run_if_due(is_busy=False, devices=devices)
        assert store.limits == [limit]


def test_nothing_is_rolled_up_twice_in_ten_seconds_once_it_has_caught_up():
    clock = FakeClock()
    store = Pending(clock, 7)
    keeper = Housekeeper(store, Retention(1, 1, 1), clock)
    clock.advance(10)
    for _ in range(9):
        keeper.run_if_due(is_busy=False)
        clock.advance(1)
    assert len(store.limits) == 1
