"""D1 to D7: what was acknowledged outlives kills, power cuts, full, failing and rotting disks; each with its control."""

import contextlib
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import spool_child
from power import Disk, Tmpfs
from spool_rig import Child, total

from edge_sdk.device.spool import packing
from edge_sdk.device.spool.ballast import Ballast
from edge_sdk.device.spool.records import Kind

pytestmark = pytest.mark.timeout(400)


def lost_text(outcomes):
    all_of_it = total(outcomes)
    worst = sum(one.lost > 0 for one in outcomes)
    return f"{all_of_it.lost:,} of {all_of_it.acknowledged:,} acknowledged lost, in {worst} of {len(outcomes)}"


@pytest.mark.fault("D1")
def test_kill_9_while_it_puts_sends_and_deletes(fault, tmp_path):
    rng = random.Random(1)

    def kill(number, *without):
        child = Child(tmp_path / f"{number}{len(without)}" / "queue.db", "churn", *without)
        time.sleep(rng.uniform(0.02, 0.4))
        child.kill()
        return child.judge()

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(kill, range(100)))
    found = total(outcomes)
    assert found.acknowledged > 5000
    assert (found.lost, found.wrong) == (0, 0)
    assert found.opened_s < 2.0
    in_memory = total([kill_in_memory(tmp_path / f"m{number}", rng) for number in range(3)])
    assert in_memory.lost > 0
    fault(
        what="daemon killed with -9 while it puts, sends and deletes",
        injected="100 kills after 20-400 ms",
        bar="0 acknowledged records lost; open again in 2 s",
        measured=f"{found.lost} of {found.acknowledged:,} lost; open in {found.opened_s:.2f} s at most",
        control=f"acknowledged when in memory: {in_memory.lost:,} of {in_memory.acknowledged:,} lost",
    )


def kill_in_memory(folder, rng):
    child = Child(folder / "queue.db", "memory")
    time.sleep(rng.uniform(0.3, 0.6))
    child.kill()
    return child.judge()


def cut(disk, mode, seconds, *without):
    child = Child(disk.root / "spool" / "queue.db", mode, *without)
    time.sleep(seconds)
    child.listen()
    disk.cut()
    child.kill()
    disk.restore()
    outcome = child.judge()
    shutil.rmtree(disk.root / "spool")
    return outcome


@pytest.mark.fault("D2")
@pytest.mark.usefixtures("needs_root")
def test_power_cut_during_telemetry(fault, tmp_path):
    rng = random.Random(2)
    with Disk(tmp_path / "a") as first, Disk(tmp_path / "b") as second, ThreadPoolExecutor(2) as pool:

        def cuts(disk, count, mode, *without):
            return [cut(disk, mode, rng.uniform(0.05, 0.5), *without) for _ in range(count)]

        one, batch = pool.map(lambda row: cuts(*row), [(first, 40, "one"), (second, 40, "batch")])
        normal, normal_batch = pool.map(
            lambda row: cuts(*row), [(first, 10, "one", "sync"), (second, 10, "batch", "sync")]
        )
    for outcomes in (one, batch):
        assert total(outcomes).acknowledged > 500
        assert (total(outcomes).lost, total(outcomes).wrong) == (0, 0)
    assert total(normal + normal_batch).lost > 0, "the rig is blind"
    fault(
        what="power cut during telemetry",
        injected="80 cuts after 50-500 ms, 40 with one record per commit and 40 with 50",
        bar="0 acknowledged records lost; the queue opens every time",
        measured=f"{lost_text(one + batch)}; open in {total(one + batch).opened_s:.2f} s at most",
        control=f"synchronous=NORMAL: {lost_text(normal + normal_batch)}",
    )


@pytest.mark.fault("D3")
@pytest.mark.usefixtures("needs_root")
def test_power_cut_during_slow_telemetry(fault, tmp_path):
    rng = random.Random(3)

    def one_cut(row):
        number, seconds, without = row
        with Disk(tmp_path / f"{number}{''.join(without)}") as disk:
            return cut(disk, "paced", seconds, *without)

    rows = [(number, rng.uniform(5, 14), ()) for number in range(12)]
    rows += [(number, rng.uniform(5, 9), ("sync",)) for number in range(4)]
    with ThreadPoolExecutor(len(rows)) as pool:
        outcomes = list(pool.map(one_cut, rows))
    full, normal = outcomes[:12], outcomes[12:]
    assert (total(full).lost, total(full).wrong) == (0, 0)
    assert total(normal).lost > 0, "the rig is blind"
    fault(
        what="power cut during slow telemetry (20 records a second)",
        injected="12 cuts after 5-14 s",
        bar="0 acknowledged records lost",
        measured=lost_text(full),
        control=f"synchronous=NORMAL: {lost_text(normal)}, up to {total(normal).span_s:.1f} s of data",
    )


@pytest.mark.fault("D5")
@pytest.mark.usefixtures("needs_root")
@pytest.mark.skipif(shutil.which("strace") is None, reason="SKIPPED LOUDLY: needs strace")
def test_a_sync_that_fails_is_never_acknowledged(fault, tmp_path):
    def failing(folder, *without):
        inject = "inject=fsync,fdatasync:error=EIO:when=40+"
        prefix = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", inject)
        child = Child(folder / "spool" / "queue.db", "one", *without, prefix=prefix)
        time.sleep(2.5)
        is_alive = child.popen.poll() is None
        return child, is_alive

    with Disk(tmp_path / "a") as disk:
        child, is_alive = failing(disk.root)
        child.listen()
        disk.cut()
        end(child)
        disk.restore()
        outcome = child.judge()
    with Disk(tmp_path / "b") as disk:
        careless, _ = failing(disk.root, "error")
        careless.listen()
        disk.cut()
        end(careless)
        disk.restore()
        control = careless.judge()
    assert is_alive
    assert outcome.acknowledged > 10
    assert (outcome.lost, outcome.wrong) == (0, 0)
    assert outcome.errors > 0
    assert max(child.said("e")) <= 1, "the alert came more than once"
    assert sum(child.said("e")) >= 1
    assert control.lost > 0, "the control lost nothing"
    fault(
        what="every sync fails from some moment on (EIO), then the power is cut",
        injected="strace: fsync and fdatasync give EIO from the 40th on",
        bar="no record acknowledged whose sync failed; daemon alive; one alert",
        measured=f"{outcome.lost} of {outcome.acknowledged} acknowledged lost, {outcome.errors} puts refused, alive, "
        f"{sum(child.said('e'))} alert",
        control=f"acknowledging all the same: {control.lost:,} of {control.acknowledged:,} lost",
    )


def end(child):
    """strace goes with its child."""
    for pid in children_of(child.popen.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    child.kill()


def children_of(pid):
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@pytest.mark.fault("D5")
@pytest.mark.usefixtures("needs_root")
def test_a_disk_that_turns_read_only_and_comes_back(fault, tmp_path):
    with Disk(tmp_path) as disk:
        spool = spool_child.opened(disk.root / "spool" / "queue.db")
        for seq in range(50):
            spool.put(seq, spool_child.payload_of(spool.boot, seq))
        spool.flush()
        disk.make_read_only()
        refused = 0
        for seq in range(50, 100):
            spool.put(seq, spool_child.payload_of(spool.boot, seq))
        with contextlib.suppress(Exception):
            spool.flush()
            refused -= 1
        refused += 1
        state = spool.snapshot()
        deadline = time.monotonic() + 30
        while spool._writer._queue is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        disk.restore()
        while not (spool.snapshot().is_durable and spool.snapshot().on_disk == 100):
            assert time.monotonic() < deadline, spool.snapshot()
            time.sleep(0.05)
        alerts = sum(payload.startswith(b"spool_failed") for payload in spool._held._events.values())
        spool.close()
    assert (refused, state.is_durable, state.held, alerts) == (1, False, 100, 1)
    kept = kept_by_one_that_ignores_errors(tmp_path / "control")
    assert kept < 100, "the control lost nothing"
    fault(
        part="read-only",
        what="the file system turns read-only, and is writable again after a while",
        injected="ext4 aborted as on a device error, mounted again",
        bar="nothing acknowledged meanwhile; nothing lost; one alert",
        measured="commit refused; 100 of 100 records on disk after it; 1 alert",
        control=f"a commit that fails taken for one: {100 - kept} of 100 acknowledged lost",
    )


def kept_by_one_that_ignores_errors(folder):
    """The control: gives how many of 100 acknowledged records are on the disk when it is writable again."""
    with Disk(folder) as disk:
        spool = spool_child.opened(disk.root / "spool" / "queue.db", ["error"])
        for first in (0, 50):
            for seq in range(first, first + 50):
                spool.put(seq, spool_child.payload_of(spool.boot, seq))
            spool.flush()
            if first == 0:
                disk.make_read_only()
        spool.close()
        disk.restore()
        again = spool_child.opened(disk.root / "spool" / "queue.db")
        kept = again.snapshot().held
        again.close()
        return kept


@pytest.mark.fault("D6")
def test_bit_rot_in_the_queue(fault, tmp_path):
    rng = random.Random(6)
    file = tmp_path / "queue.db"
    spool = spool_child.opened(file)
    for seq in range(500):
        spool.put(seq, spool_child.payload_of(spool.boot, seq))
    boot = spool.boot
    spool.close()
    content = file.read_bytes()
    flips = [rng.randrange(len(content) * 8) for _ in range(400)]
    starts = wrong = whole = delivered = 0
    for number, bit in enumerate(flips):
        found = sent_after_flip(tmp_path / str(number), content, bit)
        starts += 1
        bad = [payload for seq, payload in found if payload != spool_child.payload_of(boot, seq)]
        wrong += len(bad)
        delivered += len(found)
        whole += len(found) == 500
    control = 0
    real, packing._checksum = packing._checksum, lambda *_: 0
    try:
        rotten = tmp_path / "rotten" / "queue.db"
        rotten.parent.mkdir()
        spool = spool_child.opened(rotten)
        for seq in range(500):
            spool.put(seq, spool_child.payload_of(spool.boot, seq))
        spool.close()
        for number, bit in enumerate(flips[:100]):
            found = sent_after_flip(tmp_path / f"c{number}", rotten.read_bytes(), bit)
            control += sum(payload != spool_child.payload_of(boot, seq) for seq, payload in found)
    finally:
        packing._checksum = real
    assert (starts, wrong) == (400, 0)
    assert delivered >= 0.98 * 400 * 500
    assert control > 0
    fault(
        what="bit-rot in the queue's file",
        injected=f"400 times one flipped bit in {len(content) / 1e6:.1f} MB with 500 records",
        bar="0 wrong records sent; the queue opens 400 of 400; the others are sent",
        measured=f"{wrong} wrong; {starts} of 400 open; {delivered / 400 / 500:.2%} of the records sent, "
        f"all of them in {whole} of 400",
        control=f"no checksum: {control} wrong records sent after 100 flips",
    )


def sent_after_flip(folder, content, bit):
    folder.mkdir()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    file = folder / "queue.db"
    file.write_bytes(damaged)
    spool = spool_child.opened(file)
    found = sent(spool)
    spool.close()
    shutil.rmtree(folder)
    return found


def sent(spool, *, has_live=False):
    """Everything that would be sent, until nothing is held."""
    found, arrived, deadline = [], {}, time.monotonic() + 20
    while spool.snapshot().held:
        assert time.monotonic() < deadline
        due = [record for record in spool.take_due(2000) if record.kind is Kind.SAMPLE]
        found += [(record.seq, record.payload) for record in due]
        for record in due:
            arrived.setdefault(record.boot, set()).add(record.seq)
        if not due:
            time.sleep(0.001)
        for boot in {record.boot for record in due}:
            upto = spool.oldest_of(boot)[0] if has_live else max(arrived[boot])
            while upto in arrived[boot]:  # as a collector does it: live ones come first, and wait for the backlog
                upto += 1
            spool.receipt(boot, upto - 1, [])
    return found


@pytest.mark.fault("D7")
@pytest.mark.parametrize("damage", ["garbage", "truncated", "zeros"])
def test_a_queue_file_that_is_none(fault, tmp_path, damage):
    file = tmp_path / "queue.db"
    spool = spool_child.opened(file)
    for seq in range(2000):
        spool.put(seq, spool_child.payload_of(spool.boot, seq))
    spool.close()
    size = file.stat().st_size
    if damage == "truncated":
        os.truncate(file, size // 3)
    else:
        file.write_bytes(os.urandom(size) if damage == "garbage" else bytes(size))
    shutil.copy(file, tmp_path / "control.db")
    start = time.monotonic()
    spool = spool_child.opened(file)
    seconds = time.monotonic() - start
    spool.put(0, b"new")
    spool.flush()
    news = [record.payload.decode() for record in spool.take_due(3000) if record.kind is Kind.EVENT]
    kept = file.with_name("queue.db.damaged").stat().st_size
    salvaged = spool.snapshot().held - 1
    spool.close()
    assert seconds <= 1.0
    assert kept == (size if damage != "truncated" else size // 3)
    assert [text.split()[0] for text in news] == ["queue_reset"]
    control = "opens"
    try:
        trusting = spool_child.QueueFile(tmp_path / "control.db", limit_bytes=2**30)
        try:
            trusting.keys()
        finally:
            trusting.close()
    except spool_child.sqlite3.Error as error:
        control = str(error)
    assert control != "opens"
    fault(
        part=damage,
        what=f"the queue's file is {damage}",
        injected="2,000 records, then the file overwritten" if damage != "truncated" else "cut to a third",
        bar="old file kept, new queue in 1 s, event queue_reset with the count, daemon alive",
        measured=f"kept, new queue in {seconds:.2f} s, queue_reset ({salvaged:,} of 2,000 carried over)",
        control=f"trusting the file: refuses to start, {control!r}",
    )


def settled(spool):
    """The state when the oldest have given way as far as they must."""
    state, deadline = None, time.monotonic() + 30
    while state != spool.snapshot() or spool._writer._is_tight:
        assert time.monotonic() < deadline
        state = spool.snapshot()
        time.sleep(0.3)
    return state


@pytest.mark.fault("D4")
@pytest.mark.usefixtures("needs_root")
def test_ballast_opens_a_full_disk(fault, tmp_path):
    def filled(name):
        with Tmpfs(tmp_path / name, size_mb=4) as disk:
            spool = spool_child.opened(disk.root / "spool" / "queue.db")
            for seq in range(1000):
                spool.put(seq, spool_child.payload_of(spool.boot, seq))
            spool.flush()
            disk.fill()
            for seq in range(1000, 4000):
                spool.put(seq, spool_child.payload_of(spool.boot, seq))
                if seq % 50 == 0:
                    with contextlib.suppress(Exception):
                        spool.flush()
            with contextlib.suppress(Exception):
                spool.flush()
            state = settled(spool)
            used = (disk.root / "spool" / "queue.db").stat().st_size
            drained = len(sent(spool, has_live=True)) if state.is_durable else 0
            spool.close()
            return state, used, drained

    state, used, drained = filled("with")
    real, Ballast.lay_down = Ballast.lay_down, lambda _: False
    try:
        control, _, _ = filled("without")
    finally:
        Ballast.lay_down = real
    assert state.is_durable
    assert state.held + state.dropped == 4000
    assert drained == state.held
    assert not control.is_durable, "the control went on without ballast"
    fault(
        part="spool",
        what="another program fills the disk",
        injected="tmpfs of 4 MB filled to the last byte, 3,000 more records",
        bar="commits go on, drain works while full, drops counted exactly",
        measured=f"commits go on in {used / 1e6:.2f} MB, {drained:,} sent while full, {state.dropped:,} dropped = gap",
        control="no ballast: no commit any more, records in memory only",
    )
