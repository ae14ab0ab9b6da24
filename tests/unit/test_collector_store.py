"""The SQLite store: all or nothing, once each, and only in files that are ours."""

import contextlib
import sqlite3
import threading

import pytest

from edge_sdk import errors
from edge_sdk.collector.store import schema
from edge_sdk.collector.store.rows import EventRow, RefusedRow, SampleRow, StateRow
from edge_sdk.collector.store.sqlite import SqliteStore


@pytest.fixture
def file(tmp_path):
    return tmp_path / "t.db"


@pytest.fixture
def store(file):
    with contextlib.closing(SqliteStore(file, refused_kept=3)) as store:
        yield store


def rows(*seqs, device="cam-7", boot="00c0ffee"):
    return [SampleRow(device, "plant", boot, seq, 1.0 + seq, 2.0 + seq, '{"power_w": 5.5}') for seq in seqs]


def query(file, text):
    with contextlib.closing(sqlite3.connect(file)) as db:
        return db.execute(text).fetchall()


def test_samples_are_stored_once_with_their_payload(store, file):
    with store.transaction():
        assert store.add_samples(rows(0, 1, 1)) == [True, True, False]
        assert store.add_samples(rows(1, 2)) == [False, True]
    assert query(file, "SELECT seq, t, received_t, json_extract(payload, '$.power_w') FROM samples ORDER BY id") == [
        (0, 1.0, 2.0, 5.5),
        (1, 2.0, 3.0, 5.5),
        (2, 3.0, 4.0, 5.5),
    ]


def test_the_same_seq_of_another_boot_or_device_is_another_sample(store):
    with store.transaction():
        assert store.add_samples([*rows(1), *rows(1, boot="11c0ffee"), *rows(1, device="cam-8")]) == [True] * 3


def test_what_another_connection_stored_meanwhile_is_not_stored_again(store, file):
    with store.transaction():
        assert store.add_samples(rows(0, 1)) == [True, True]
        store.set_marks({("cam-7", "00c0ffee"): (1, 0)})
    with contextlib.closing(SqliteStore(file)) as other, other.transaction():
        assert other.add_samples(rows(1, 2)) == [False, True]
        other.set_marks({("cam-7", "00c0ffee"): (2, 5)})
    with store.transaction():
        assert store.marks([("cam-7", "00c0ffee")]) == {("cam-7", "00c0ffee"): (2, 5)}
        assert store.add_samples(rows(2, 3)) == [False, True]
    assert query(file, "SELECT seq FROM samples ORDER BY seq") == [(0,), (1,), (2,), (3,)]
    assert query(file, "SELECT upto, lost, newest_seq, site FROM sources") == [(2, 5, 3, "plant")]


def test_what_comes_again_is_found_without_a_look_at_all_that_is_stored(store):
    steps = []
    with store.transaction():
        store.add_samples(rows(*range(5000)))
    store._db.set_progress_handler(lambda: steps.append(1) and None, 10)
    with store.transaction():
        assert store.add_samples(rows(7, 8, 9)) == [False] * 3
    assert len(steps) < 100  # thousands, were every row looked at


def test_nothing_of_a_failed_transaction_stays(store, file):
    def fails_half_way():
        with store.transaction():
            store.add_samples(rows(0))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fails_half_way()
    assert query(file, "SELECT COUNT(*) FROM samples") == [(0,)]
    with store.transaction():
        assert store.add_samples(rows(0)) == [True]


def test_marks_and_the_records_above_them(store):
    with store.transaction():
        store.add_samples(rows(5, 2, 9, 1))
        store.add_samples(rows(7, boot="11c0ffee"))
        key = ("cam-7", "00c0ffee")
        assert store.marks([key]) == {key: None}
        store.set_marks({key: (1, 1), ("cam-8", "00c0ffee"): (3, 2**63 - 1)})
    with store.transaction():
        assert store.marks([key]) == {key: (1, 1)}
        assert list(store.seqs_above({key: 1})[key]) == [2, 5, 9]
    assert store.devices() == {"cam-7", "cam-8"}
    assert store.lost() == 2**63


def test_of_states_the_last_is_kept_and_events_once_each(store, file):
    state = StateRow("plant", "cam-7", "status", "00c0ffee", 1.0, 2.0, "{}")
    event = EventRow("plant", "cam-7", "00c0ffee", 1.0, 2.0, "{}")
    with store.transaction():
        store.put_states([state, state._replace(payload="[]"), state._replace(kind="birth")])
        store.add_events([event, event, event._replace(payload="[]")])
    assert query(file, "SELECT kind, payload FROM states ORDER BY kind") == [("birth", "{}"), ("status", "[]")]
    assert query(file, "SELECT COUNT(*) FROM events") == [(2,)]


def test_of_refused_messages_the_first_are_kept_and_all_are_counted(store, file):
    for number in range(5):
        with store.transaction():
            store.add_refused([RefusedRow("t", kind, f"no {number}", 7, b"\xff\0", 1.0) for kind in ("size", "schema")])
    assert query(file, "SELECT kind, reason, payload FROM refused") == [
        ("size", "no 0", b"\xff\0"),
        ("schema", "no 0", b"\xff\0"),
        ("size", "no 1", b"\xff\0"),
    ]
    assert query(file, "SELECT * FROM refused_counts") == [("schema", 5), ("size", 5)]


def test_what_was_stored_is_there_after_opening_again(file):
    for expected in ([True], [False]):
        with contextlib.closing(SqliteStore(file)) as store:
            with store.transaction():
                assert store.add_samples(rows(0)) == expected
    assert sorted(path.name for path in file.parent.iterdir()) == ["t.db"]


def test_a_commit_survives_a_power_cut(store, file):
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_locked_database_refuses_the_batch_and_takes_it_later(store, file):
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(errors.StoreError, match="locked"):
        with store.transaction():
            store.add_samples(rows(0))
    other.execute("ROLLBACK")
    other.close()
    with store.transaction():
        assert store.add_samples(rows(0)) == [True]


def test_a_full_disk_refuses_the_batch_and_takes_it_when_there_is_room(store, file):
    large = [row._replace(payload="x" * 100_000) for row in rows(*range(20))]
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 50}")
    with pytest.raises(errors.StoreError, match="full"):
        with store.transaction():
            store.add_samples(large)
    assert query(file, "SELECT COUNT(*) FROM samples") == [(0,)]
    store._db.execute("PRAGMA max_page_count = 100000")
    with store.transaction():
        assert all(store.add_samples(large))


def test_a_file_that_is_no_database_is_refused_and_not_touched(file):
    file.write_bytes(b"my thesis" * 1000)
    with pytest.raises(errors.SettingsError, match=r"t\.db: file is not a database; choose another with --database"):
        SqliteStore(file)
    assert file.read_bytes() == b"my thesis" * 1000


def test_another_programs_database_is_refused_and_not_touched(file):
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = file.read_bytes()
    with pytest.raises(errors.SettingsError, match="another program's"):
        SqliteStore(file)
    assert file.read_bytes() == before


def test_a_newer_schema_is_refused_and_not_touched(file):
    SqliteStore(file).close()
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    before = file.read_bytes()
    with pytest.raises(errors.SettingsError, match="update it"):
        SqliteStore(file)
    assert file.read_bytes() == before


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(errors.SettingsError, match="unable to open"):
        SqliteStore(tmp_path / "no" / "t.db")


def test_the_store_may_be_used_by_another_thread_than_the_one_that_opened_it(store):
    thread = threading.Thread(target=store.devices)
    thread.start()
    thread.join()
    with store.transaction():
        assert store.add_samples(rows(0)) == [True]
