"""D8 and D9: clocks at 1970, ahead, and jumping. The order of records is by boot and number, and owes nothing to a clock."""

import pytest

from edge_sdk.device.daemon import Daemon
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.records import telemetry
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

NOW_S = 1_790_000_000.0
YEAR_2040_S = 2_208_988_800.0


def boot(folder, clock, listener, jumps):
    """One start of the daemon: a Sample after each second, or after a jump of the wall clock."""
    board = FakeBoard(folder / "board")
    settings = DaemonSettings(device="cam-7", site="plant", http_port=0, state_folder=str(folder), resend_s=3600.0)
    daemon = Daemon(settings, lambda will: MemoryLink(listener, will=will), clocks=clock, root=board.root)
    taken = []
    for wall_s in jumps:
        if wall_s is not None:
            clock.set_wall(wall_s)
        clock.advance(1.0)
        daemon.beat()
        taken.append(daemon._last_sample)
    daemon.start()
    daemon.stop()
    return taken


def heard_from(broker):
    heard = []
    link = MemoryLink(broker)
    link.subscribe("edge/v1/+/+/up/telemetry", heard.append)
    link.open()
    assert link.wait_for_connected(10)
    return link, heard


def inversions(samples):
    return sum(first.t > second.t for first, second in zip(samples, samples[1:]))


@pytest.mark.fault("D8")
def test_the_clock_starts_in_1970_and_jumps(fault, tmp_path):
    broker = MemoryBroker()
    link, heard = heard_from(broker)
    clock = FakeClock(wall_s=12.0)
    taken = boot(tmp_path, clock, broker, [None, None, NOW_S, None, 5.0, None])  # set, and back in mid-boot
    clock.set_wall(3.0)  # no battery: 1970 again
    taken += boot(tmp_path, clock, broker, [None, NOW_S + 60, None])
    clock.set_wall(7.0)
    taken += boot(tmp_path, clock, broker, [None, None])
    link.close()
    samples = {(s.boot, s.seq): s for s in (codec.from_bytes(m.payload, telemetry.Sample) for m in heard)}
    in_order = [samples[key] for key in sorted(samples)]
    expected = [(sample.boot, sample.seq) for sample in taken]
    got = [(sample.boot, sample.seq) for sample in in_order if (sample.boot, sample.seq) in set(expected)]
    wrong = sum(a != b for a, b in zip(got, expected))
    assert len(got) == len(expected)
    assert wrong == 0
    assert len({sample.boot for sample in taken}) == 3
    assert all(sample.interval_s > 0 and sample.up_s > 0 for sample in in_order)
    by_wall = sorted(taken, key=lambda sample: sample.t)
    control = sum(a is not b for a, b in zip(by_wall, taken))
    assert control > 0
    fault(
        what="the clock starts in 1970, is set, and jumps back in mid-boot",
        injected="3 starts, 2 jumps ahead and 1 back",
        bar="order by (boot, seq) exact; no interval negative; nothing expires",
        measured=f"{wrong} of {len(expected)} out of order; every interval positive; all {len(got)} arrived",
        control=f"ordered by wall time: {control} of {len(taken)} in a wrong place",
    )


@pytest.mark.fault("D9")
def test_the_clock_is_far_ahead(fault, tmp_path):
    broker = MemoryBroker()
    link, heard = heard_from(broker)
    clock = FakeClock(wall_s=YEAR_2040_S)
    taken = boot(tmp_path, clock, broker, [None] * 5)
    clock.set_wall(NOW_S)  # right again: its boot must still sort after
    taken += boot(tmp_path, clock, broker, [None] * 5)
    link.close()
    arrived = {(s.boot, s.seq) for s in (codec.from_bytes(m.payload, telemetry.Sample) for m in heard)}
    keys = [(sample.boot, sample.seq) for sample in taken]
    assert keys == sorted(keys)
    assert set(keys) <= arrived
    naive = [f"{int(wall_s):08x}" for wall_s in (YEAR_2040_S, NOW_S)]
    assert naive != sorted(naive)
    fault(
        what="the clock is far ahead (2040), then right",
        injected="5 Samples in 2040, a restart, 5 now",
        bar="telemetry flows, order exact",
        measured=f"{len(keys)} of {len(keys)} arrived, in order",
        control="boots named by the clock alone: the second sorts before the first",
    )
