"""Every store keeps the same promises: SQLite in a file, PostgreSQL on a real server."""

import contextlib
import itertools
import math
import sqlite3
import threading

import numpy as np
import postgres_server
import pytest

from edge_sdk import errors
from edge_sdk.collector.store import migration, opening
from edge_sdk.collector.store.asking import Scope
from edge_sdk.collector.store.query import Queries
from edge_sdk.collector.store.rows import EventRow, RefusedRow, Retention, SampleRow, StateRow
from edge_sdk.numerics import histogram
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec, histograms

START_T = 1_750_000_020.0
BOOT = "00c0ffee"
KEY = ("cam-1", BOOT)
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres():
    with postgres_server.running("fsync=off") as url:
        if url is None:
            pytest.skip("no PostgreSQL server here: apt install postgresql")
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """Names a new, empty database."""
    return (
        f"sqlite:///{tmp_path}/t.db" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))
    )


def new_database(base):
    import psycopg

    name = f"t{next(_numbers)}"
    with contextlib.closing(psycopg.connect(base + "postgres", autocommit=True)) as db:
        db.execute(f"CREATE DATABASE {name}")
    return base + name


@pytest.fixture
def store(database):
    with contextlib.closing(opening.open_store(database, refused_kept=3)) as store:
        yield store


@pytest.fixture
def ask(database, store):
    reader = opening.open_reader(database)
    yield Queries(reader, FakeClock(wall_s=START_T + 4000))
    reader.close()


def row(seq, *, device="cam-1", boot=BOOT, site="plant", values=(), received_t=None, **readings):
    windows = ()
    if len(values):
        text = histograms.to_text(histogram.histogram_from_values(np.array(values)))
        windows = (
            telemetry.Window(
                model="m", digest="d", count=len(values), errors={}, throughput_hz=1.0, queue_depth_max=1,
                latency_p50_ms=1.0, latency_p99_ms=2.0, latency_hist=text, stage_ms={}, energy_j=2.0,
                energy_per_inference_j=None,
            ),
        )  # fmt: skip
    t = START_T + seq
    sample = telemetry.Sample(
        v=1, device=device, boot=boot, seq=seq, t=t, up_s=1.0, interval_s=1.0, models=windows, **readings
    )
    return SampleRow(
        device, site, boot, seq, t, t if received_t is None else received_t, codec.to_bytes(sample).decode()
    )


def put(store, *rows):
    with store.transaction():
        return store.add_samples(rows)


def stored(ask):
    """Gives what is stored of cam-1: every sequence number once."""
    found = ask._reader
    with found.snapshot() as snapshot:
        return [seq for (seq,) in snapshot.rows("SELECT seq FROM samples ORDER BY device, boot, seq")]


def test_a_sample_is_stored_once_within_a_batch_and_across_batches_in_any_order(store, ask):
    assert put(store, row(5), row(3), row(5)) == [True, True, False]
    assert put(store, row(3), row(4), row(9), row(5)) == [False, True, True, False]
    assert put(store, row(3, boot="11c0ffee"), row(3, device="cam-2")) == [True, True]
    assert stored(ask) == [3, 4, 5, 9, 3, 3]


def test_nothing_of_a_failed_transaction_stays(store, ask):
    def fails_half_way():
        with store.transaction():
            store.add_samples([row(0)])
            store.set_marks({KEY: (0, 0)})
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fails_half_way()
    assert stored(ask) == []
    assert store.devices() == set()
    assert put(store, row(0)) == [True]


def test_marks_and_what_lies_above_them(store):
    put(store, *(row(seq) for seq in (2, 5, 9, 1)), row(7, boot="11c0ffee"))
    with store.transaction():
        assert store.marks([KEY]) == {KEY: None}
        store.set_marks({KEY: (1, 1), ("cam-2", BOOT): (3, 2**63 - 1)})
    with store.transaction():
        assert store.marks([KEY]) == {KEY: (1, 1)}
        assert {key: list(seqs) for key, seqs in store.seqs_above({KEY: 1}).items()} == {KEY: [2, 5, 9]}
    assert store.devices() == {"cam-1", "cam-2"}
    assert store.lost() == 2**63


def test_many_records_above_a_mark_are_read_as_far_as_asked(store):
    put(store, *(row(seq) for seq in range(2500)))
    with store.transaction():
        store.marks([KEY])
        assert list(store.seqs_above({KEY: -1})[KEY]) == list(range(2500))


def test_states_events_and_refusals(store, ask):
    state = StateRow("plant", "cam-1", "status", BOOT, 1.0, 2.0, "{}")
    event = EventRow("plant", "cam-1", BOOT, 1.0, 2.0, "{}")
    for number in range(3):
        with store.transaction():
            store.put_states([state, state._replace(payload=f"[{number}]"), state._replace(kind="birth")])
            store.add_events([event, event, event._replace(payload="x" * 5000)])
            store.add_refused([RefusedRow("t", kind, "why", 7, b"\xff\0", 1.0) for kind in ("size", "schema")])
    with ask._reader.snapshot() as snapshot:
        assert list(snapshot.rows("SELECT kind, payload FROM states ORDER BY kind")) == [
            ("birth", "{}"),
            ("status", "[2]"),
        ]
        assert list(snapshot.rows("SELECT COUNT(*) FROM events")) == [(2,)]
        assert [bytes(one) for (one,) in snapshot.rows("SELECT payload FROM refused")] == [b"\xff\0"] * 3
        assert list(snapshot.rows("SELECT kind, count FROM refused_counts ORDER BY kind")) == [
            ("schema", 3),
            ("size", 3),
        ]


def test_what_was_stored_is_there_after_opening_again(database, store, ask):
    put(store, row(0))
    store.close()
    with contextlib.closing(opening.open_store(database)) as again:
        assert put(again, row(0), row(1)) == [False, True]
    assert stored(ask) == [0, 1]


@pytest.mark.parametrize("rolled", [0, 150, 600])
def test_answers_do_not_depend_on_how_much_is_rolled_up(store, ask, rolled):
    rng = np.random.default_rng(1)
    truth, rows = [], []
    for seq, device in itertools.product(range(130), ("cam-1", "cam-2", "cam-3")):
        values = rng.lognormal(1.0, 0.6, 20)
        truth.append(values)
        rows.append(row(seq, device=device, values=values, power_w=seq + 0.5, energy_j=2.0))
    put(store, *rows)
    while rolled > 0 and (folded := store.roll_up(limit=min(100, rolled))):
        rolled -= folded
    window = START_T, START_T + 130
    (fleet,) = ask.quantiles([0.99], *window)
    ordered = np.sort(np.concatenate(truth))
    assert fleet.answers == len(ordered)
    assert fleet.latency_ms["0.99"] == pytest.approx(ordered[math.ceil(0.99 * len(ordered)) - 1], rel=0.006)
    assert [one.answers for one in ask.quantiles([0.5], *window, by=["device"])] == [2600] * 3
    (series,) = ask.series("power_w", *window, scope=Scope(("cam-2",)))
    assert series.value == [seq + 0.5 for seq in range(130)]
    assert [one.energy_j for one in ask.energy(*window, by=["site"])] == [780.0]
    assert [one.device for one in ask.latest()] == ["cam-1", "cam-2", "cam-3"]
    assert ask.gaps() == []


def test_old_rows_go_and_what_was_rolled_up_stays_and_a_replay_is_a_duplicate(store, ask):
    put(store, *(row(seq, power_w=1.0) for seq in range(10)))
    with store.transaction():
        store.set_marks({KEY: (9, 0)})
    later = START_T + 5 * 86400
    put(store, row(10, received_t=later))
    keep = Retention(raw_days=2, minute_days=30, hour_days=300)
    store.prune(keep, later, limit=100)
    assert stored(ask) == list(range(11)), "what is not rolled up is never deleted"
    assert store.roll_up(limit=100) == 11
    store.prune(keep, later, limit=100)
    assert stored(ask) == [10]
    assert len(ask.series("power_w", START_T, START_T + 60)[0].t) == 10
    assert put(store, row(4), row(10), row(11, received_t=later)) == [False, False, True]
    assert store.roll_up(limit=100) == 1
    store.prune(keep, START_T + 40 * 86400, limit=100)
    assert ask.series("power_w", START_T, START_T + 60) == []
    assert ask.series("power_w", START_T, START_T + 60, step_s=3600)[0].value == [1.0]


def test_a_gap_whose_neighbours_are_deleted_for_their_age_is_lost(store):
    put(store, row(0), row(1), row(5), row(6))
    with store.transaction():
        store.set_marks({KEY: (1, 0)})
    assert store.roll_up(limit=100) == 4
    store.prune(Retention(1, 30, 300), START_T + 5 * 86400, limit=100)
    with store.transaction():
        assert store.marks([KEY]) == {KEY: (6, 3)}


def test_two_writers_store_each_sample_once_and_lose_no_mark(database, store, ask):
    """Both take all of it, in the opposite order of devices; a lock that is taken late or crosswise would show."""
    rows = [row(seq, device=f"cam-{device}") for seq in range(60) for device in range(5)]
    other = opening.open_store(database)
    new, failures = [], []

    def write(writer, order):
        for start in range(0, len(rows), 25):
            batch = sorted(rows[start : start + 25], key=lambda one: one.device, reverse=order)
            keys = {(one.device, one.boot) for one in batch}
            while True:
                try:
                    with writer.transaction():
                        before = writer.marks(keys)
                        is_new = writer.add_samples(batch)
                        writer.set_marks({key: ((mark or (-1, 0))[0] + sum(
                            flag for flag, one in zip(is_new, batch, strict=True) if (one.device, one.boot) == key), 0)
                            for key, mark in before.items()})  # fmt: skip
                    break
                except errors.StoreError as error:  # SQLite: locked for longer than it waits
                    failures.append(str(error))
            new.append(sum(is_new))

    threads = [threading.Thread(target=write, args=pair) for pair in ((store, False), (other, True))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    other.close()
    assert sum(new) == len(rows) == len(stored(ask))
    assert not [text for text in failures if "deadlock" in text]
    with store.transaction():
        keys = [(f"cam-{device}", BOOT) for device in range(5)]
        assert set(store.marks(keys).values()) == {(59, 0)}


def test_a_roll_up_beside_an_open_transaction_counts_each_sample_once(database, store, ask):
    if "sqlite" in database:
        pytest.skip("SQLite has one writer at a time")
    put(store, row(0, device="cam-3"))  # makes the day's partition, for which the second would wait
    assert store.roll_up(limit=100) == 1
    with contextlib.closing(opening.open_store(database)) as other:
        with other.transaction():
            other.add_samples([row(0, device="cam-2", power_w=1.0)])  # an older number, committed later
            put(store, row(0, power_w=1.0))
            assert store.roll_up(limit=100) == 0
        assert store.roll_up(limit=100) == 2
    assert [one.value for one in ask.series("power_w", START_T, START_T + 60)] == [[1.0], [1.0], []]


def test_what_reads_on_from_a_place_gets_every_rolled_sample_once_and_in_parts(database, store):
    put(store, *(row(seq) for seq in range(7)))
    reader = opening.open_reader(database)
    assert not reader.rolled_after((0, 0), 10)
    while store.roll_up(limit=100):
        pass
    found = []
    for _ in range(3):
        with store.transaction():
            place = store.place("onward")
        part = reader.rolled_after(place, 3)
        found += [(device, site, t) for _, device, site, t, _ in part]
        with store.transaction():
            store.keep_place("onward", part[-1][0])
    reader.close()
    assert found == [("cam-1", "plant", START_T + seq) for seq in range(7)]
    with store.transaction():
        assert store.place("another") == (0, 0)


def test_a_server_that_restarts_is_connected_to_again():
    """A server of its own, as the others are using theirs."""
    with postgres_server.running("fsync=off") as url:
        if url is None:
            pytest.skip("no PostgreSQL server here: apt install postgresql")
        store = opening.open_store(url + "postgres")
        import psycopg

        with contextlib.closing(psycopg.connect(url + "postgres", autocommit=True)) as db:
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'edge_sdk'")
        with pytest.raises(errors.StoreError, match="did not take a batch"):
            put(store, row(0))
        assert put(store, row(0)) == [True]
        store.close()
    with pytest.raises(errors.SettingsError, match="cannot use the PostgreSQL database"):
        opening.open_store(url + "postgres")


@pytest.mark.parametrize("rolled", [0, 70, 400])
def test_a_history_goes_from_sqlite_to_postgresql_and_every_answer_stays(tmp_path, postgres, rolled):
    source, target = str(tmp_path / "t.db"), new_database(postgres)
    with contextlib.closing(opening.open_store(source)) as store:
        put(
            store,
            *(row(seq, device=f"cam-{seq % 3}", values=[1.0 + seq], power_w=seq, energy_j=2.0) for seq in range(200)),
        )
        with store.transaction():
            store.set_marks({("cam-1", BOOT): (199, 3)})
            store.put_states([StateRow("plant", "cam-1", "status", BOOT, 1.0, 2.0, "{}")])
            store.add_events([EventRow("plant", "cam-1", BOOT, 1.0, 2.0, "{}")])
            store.add_refused([RefusedRow("t", "size", "why", 7, b"\xff\0", 1.0)])
        store.roll_up(limit=rolled)
    counts = migration.migrate(source, target)
    assert (counts["sample_rows"], counts["sources"], counts["refused"], counts["events"]) == (200, 3, 1, 1)
    with contextlib.closing(opening.open_store(target)) as moved:
        for step in range(2):
            before, after = (
                Queries(opening.open_reader(one), FakeClock(wall_s=START_T + 900)) for one in (source, target)
            )
            window = START_T, START_T + 200
            assert after.quantiles([0.5, 0.99], *window, by=["device"]) == before.quantiles(
                [0.5, 0.99], *window, by=["device"]
            )
            assert after.series("power_w", *window) == before.series("power_w", *window)
            assert after.energy(*window) == before.energy(*window)
            assert after.latest() == before.latest()
            after._reader.close()
            assert moved.roll_up(limit=1000) == (max(0, 200 - rolled) if step == 0 else 0)
        assert put(moved, row(0, device="cam-0"), row(200)) == [False, True], "sequences go on where they were"
        with moved.transaction():
            assert moved.marks([("cam-1", BOOT)]) == {("cam-1", BOOT): (199, 3)}
    with pytest.raises(errors.SettingsError, match="has Samples already"):
        migration.migrate(source, target)


def test_a_history_is_refused_where_it_cannot_go(tmp_path, postgres):
    with pytest.raises(errors.SettingsError, match="there is no database"):
        migration.migrate(str(tmp_path / "none.db"), postgres + "postgres")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(errors.SettingsError, match="from a SQLite file"):
        migration.migrate(str(tmp_path / "none.db"), str(tmp_path / "other.db"))


def test_no_store_for_another_scheme():
    with pytest.raises(errors.SettingsError, match="no store for mysql"):
        opening.open_store("mysql://localhost/t")


def test_a_database_of_schema_1_is_brought_up_with_its_samples(tmp_path):
    file = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.executescript(
            "CREATE TABLE samples (id INTEGER PRIMARY KEY, device TEXT NOT NULL, site TEXT NOT NULL, boot TEXT NOT NULL,"
            "seq INTEGER NOT NULL, t REAL NOT NULL, received_t REAL NOT NULL, payload TEXT NOT NULL, UNIQUE (device, boot, seq));"
            "CREATE INDEX samples_by_device ON samples (device, t); CREATE INDEX samples_by_site ON samples (site, t);"
            "CREATE TABLE marks (device TEXT NOT NULL, boot TEXT NOT NULL, upto INTEGER NOT NULL, lost INTEGER NOT NULL, PRIMARY KEY (device, boot)) WITHOUT ROWID;"
            "CREATE TABLE states (site TEXT NOT NULL, device TEXT NOT NULL, kind TEXT NOT NULL, boot TEXT NOT NULL, t REAL NOT NULL, received_t REAL NOT NULL, payload TEXT NOT NULL, PRIMARY KEY (site, device, kind)) WITHOUT ROWID;"
            "CREATE TABLE events (id INTEGER PRIMARY KEY, site TEXT NOT NULL, device TEXT NOT NULL, boot TEXT NOT NULL, t REAL NOT NULL, received_t REAL NOT NULL, payload TEXT NOT NULL, UNIQUE (device, boot, t, payload));"
            "CREATE TABLE refused (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, size_bytes INTEGER NOT NULL, payload BLOB NOT NULL, received_t REAL NOT NULL);"
            "CREATE TABLE refused_counts (kind TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;"
            "INSERT INTO refused_counts VALUES ('size', 4); INSERT INTO marks VALUES ('cam-1', '00c0ffee', 1, 0);"
            "PRAGMA application_id = 1162102597; PRAGMA user_version = 1;"
        )
        db.executemany(
            "INSERT INTO samples (device, site, boot, seq, t, received_t, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [row(0, power_w=3.0), row(1, power_w=4.0)],
        )
        db.commit()
    with contextlib.closing(opening.open_store(str(file))) as store:
        assert put(store, row(1), row(2, power_w=5.0)) == [False, True]
        with store.transaction():
            assert store.marks([KEY]) == {KEY: (1, 0)}
        assert store.roll_up(limit=10) == 3
    ask = Queries(opening.open_reader(str(file)), FakeClock(wall_s=START_T))
    assert ask.series("power_w", START_T, START_T + 60)[0].value == [3.0, 4.0, 5.0]
