"""Samples in PostgreSQL: COPY into partitions by day, safe for several collectors at once. The only door to psycopg.

A batch locks the rows of its boots first, always in the same order, so that two collectors which share a fleet neither
store a Sample twice nor wait for each other in a circle.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import psycopg

from edge_sdk import errors
from edge_sdk.collector.store import rolling, schema
from edge_sdk.collector.store.rows import BootKey, Place, Retention, Table
from edge_sdk.collector.store.writing import NewRow, Source, SqlWriting

_CONNECT_S = 5
_STATEMENT_MS = 30_000
_LOCK_MS = 5_000
_DAY_S = 86_400
_IDLE_MAX = 4
# Advisory locks: one collector at a time makes tables, one at a time rolls up.
_MAKING = 0x45444745
_ROLLING = 0x45444746
_ROLLED = (
    "((SELECT value FROM progress WHERE name = 'rolled')::text::xid8, "
    "(SELECT value FROM progress WHERE name = 'rolled_id'))"
)


class PostgresStore(SqlWriting):
    """One database. Used by one thread at a time, beside other collectors; it connects again after a break."""

    def __init__(self, url: str, *, refused_kept: int = 1000) -> None:
        """Connects, and makes the tables where there are none.

        Args:
            url: ``postgresql://USER@HOST/NAME``.
            refused_kept: most refused messages that are kept as they came.

        Raises:
            SettingsError: it can't be reached, or has a newer edge_sdk's tables.
        """
        super().__init__(refused_kept=refused_kept)
        self._url = url
        self._days: set[int] = set()
        self._new_days: set[int] = set()
        with contextlib.ExitStack() as undo:
            try:
                self._db = _connected(url)
                undo.callback(self._db.close)
                with self._db.transaction():
                    self._prepare()
            except psycopg.Error as error:
                raise _unusable(_said(error)) from error
            undo.pop_all()

    def close(self) -> None:
        """Ends the connection."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits what is written inside the block, or nothing of it.

        Raises:
            StoreError: the server is away, or did not take it; nothing was committed.
        """
        try:
            if self._db.closed:
                self._db = _connected(self._url)
            with self._db.transaction():
                yield
                self._write_sources()
            self._days |= self._new_days
        except psycopg.Error as error:
            raise errors.StoreError(f"the database did not take a batch: {_said(error)}") from error
        finally:
            self._forget()
            self._new_days.clear()

    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query answers."""
        return self._db.execute(_sql(query), values or None).fetchall()

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs a statement once for each row."""
        if rows:
            with self._db.cursor() as cursor:
                cursor.executemany(_sql(statement), rows)

    def roll_up(self, *, limit: int) -> int:
        """Folds up to `limit` stored Samples into minutes and hours; gives how many. One collector at a time does it.

        Raises:
            StoreError: the database did not take it; nothing was changed.
        """
        with self.transaction():
            if not self.rows("SELECT pg_try_advisory_xact_lock(?)", (_ROLLING,))[0][0]:
                return 0
            return self._roll(limit)

    def _unrolled(self, place: Place, limit: int) -> list[tuple[Place, str, str]]:
        # What was written by transactions older than every open one is all there: nothing can slip in before it.
        found = self.rows(
            "SELECT r.batch::text, r.id, s.device, r.payload FROM sample_rows AS r "
            "JOIN sources AS s ON s.id = r.source WHERE (r.batch, r.id) > (?::text::xid8, ?) "
            "AND r.batch < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY r.batch, r.id LIMIT ?",
            (str(place[0]), place[1], limit),
        )
        return [((int(batch), number), device, payload) for batch, number, device, payload in found]

    def prune(self, retention: Retention, now_s: float, *, limit: int) -> int:
        """Drops days that are past their time, and up to `limit` rows of each other resolution; gives how many.

        Raises:
            StoreError: the database did not take it; nothing was changed.
        """
        cutoff = int((now_s - retention.raw_days * _DAY_S) // _DAY_S)
        with self.transaction():
            if not self.rows("SELECT pg_try_advisory_xact_lock(?)", (_ROLLING,))[0][0]:
                return 0
            days = self.rows(
                "SELECT substr(relname, 14)::bigint FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid "
                "WHERE inhparent = 'sample_rows'::regclass AND substr(relname, 14)::bigint < ? ORDER BY 1 LIMIT 1",
                (cutoff,),
            )
            dropped = sum(self._drop_day(day) for (day,) in days)
            return dropped + rolling.prune_chunks(self, retention, now_s, limit=limit)

    def take_over(self, tables: Iterable[Table], *, days: Iterable[int], rolled_id: int) -> dict[str, int]:
        """Takes the tables of another store in one transaction; gives rows by table.

        Args:
            tables: with the columns of our own.
            days: of arrival, of the Samples among them.
            rolled_id: number of the last Sample that is rolled up there.

        Raises:
            SettingsError: there are Samples here already.
            StoreError: the server did not take it; nothing was changed.
        """
        counts = {}
        with self.transaction():
            self._db.execute("SET LOCAL statement_timeout = 0")
            if self.rows("SELECT 1 FROM sources LIMIT 1"):
                raise _unusable("it has Samples already, and a history goes into an empty one only")
            for day in days:
                self._make_day(day)
            for table in tables:
                counts[table.name] = self._copy_in(table)
                if table.columns.startswith("id,"):
                    self._db.execute(_sql(_NEXT_ID.get(table.name, _NEXT_IDENTITY).format(table=table.name)))
            # All of it has this transaction's number, so that the last rolled up is told by its own.
            self._db.execute(
                "UPDATE progress SET value = CASE name WHEN 'rolled' THEN pg_current_xact_id()::text::bigint "
                "ELSE %s END WHERE name IN ('rolled', 'rolled_id')",
                (rolled_id,),
            )
        return counts

    def _copy_in(self, table: Table) -> int:
        count = 0
        with (
            self._db.cursor() as cursor,
            cursor.copy(_sql(f"COPY {table.name} ({table.columns}) FROM STDIN")) as copy,
        ):
            for row in table.rows:
                copy.write_row(row)
                count += 1
        return count

    def _prepare(self) -> None:
        self.rows("SELECT pg_advisory_xact_lock(?)", (_MAKING,))
        if self.rows("SELECT to_regclass('progress')::text")[0][0] is None:
            self._db.execute(schema.POSTGRES.encode())
            rows = [("rolled_id", 0), ("schema", schema.SCHEMA_VERSION)]
            self.write("INSERT INTO progress (name, value) VALUES (?, ?)", rows)
        version = self.number("SELECT COALESCE(MAX(value), -1) FROM progress WHERE name = 'schema'")
        if version != schema.SCHEMA_VERSION:
            found = "another program's table named progress" if version < 0 else f"schema {version}"
            raise _unusable(f"it has {found}; this edge_sdk knows schema {schema.SCHEMA_VERSION}")

    def _drop_day(self, day: int) -> int:
        """Drops one day of Samples once all of it is rolled up; gives 1 if it did."""
        table = _table_of(day)
        if self.rows(f"SELECT 1 FROM {table} AS r WHERE (r.batch, r.id) > {_ROLLED} LIMIT 1"):  # noqa: S608  # a number
            return 0
        self._db.execute(_sql(_CLOSE_GAPS.format(table=table)))
        self._db.execute(_sql(f"DROP TABLE {table}"))
        self._days.discard(day)
        return 1

    def _sources(self, boots: Sequence[BootKey]) -> dict[BootKey, Source]:
        columns = [list(column) for column in zip(*boots, strict=True)]
        self._db.execute(
            _sql(
                "INSERT INTO sources (device, boot, site) SELECT device, boot, '' "
                "FROM unnest(?::text[], ?::text[]) AS k(device, boot) ORDER BY 1, 2 ON CONFLICT DO NOTHING"
            ),
            columns,
        )
        found = self.rows(
            "SELECT s.device, s.boot, s.id, s.site, s.newest_seq, s.pruned_upto, s.upto, s.lost FROM sources AS s "
            "JOIN unnest(?::text[], ?::text[]) AS k(device, boot) ON k.device = s.device AND k.boot = s.boot "
            "ORDER BY s.id FOR UPDATE OF s",
            columns,
        )
        return {
            (device, boot): Source(number, site, newest_seq, pruned_upto, None if upto is None else (upto, lost))
            for device, boot, number, site, newest_seq, pruned_upto, upto, lost in found
        }

    def _stored_among(self, keys: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        sources, seqs = [list(column) for column in zip(*keys, strict=True)]
        return {
            (source, seq)
            for source, seq in self.rows(
                "SELECT r.source, r.seq FROM sample_rows AS r JOIN unnest(?::bigint[], ?::bigint[]) AS k(source, seq) "
                "ON k.source = r.source AND k.seq = r.seq",
                (sources, seqs),
            )
        }

    def _insert(self, rows: Sequence[NewRow]) -> None:
        for day in {int(received_t // _DAY_S) for _, _, _, received_t, _ in rows} - self._days - self._new_days:
            self._make_day(day)
        with (
            self._db.cursor() as cursor,
            cursor.copy("COPY sample_rows (source, seq, t, received_t, payload) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def _make_day(self, day: int) -> None:
        """Makes the partition of a day; attached, so that nobody who writes meanwhile has to wait."""
        table = _table_of(day)
        self.rows("SELECT pg_advisory_xact_lock(?)", (_MAKING,))
        if self.rows("SELECT to_regclass(?)::text", (table,))[0][0] is None:
            self._db.execute(_sql(f"CREATE TABLE {table} (LIKE sample_rows INCLUDING DEFAULTS)"))
            self._db.execute(_sql(f"CREATE UNIQUE INDEX {table}_once ON {table} (source, seq)"))
            bounds = f"FROM ({day * _DAY_S}) TO ({(day + 1) * _DAY_S})"
            self._db.execute(_sql(f"ALTER TABLE sample_rows ATTACH PARTITION {table} FOR VALUES {bounds}"))
        self._new_days.add(day)


_NEXT_IDENTITY = (
    "SELECT setval(pg_get_serial_sequence('{table}', 'id'), COALESCE((SELECT MAX(id) FROM {table}), 0) + 1, false)"
)
_NEXT_ID = {
    "sample_rows": "SELECT setval('sample_ids', COALESCE((SELECT MAX(id) FROM {table}), 0) + 1, false)",
}
_CLOSE_GAPS = """
UPDATE sources SET pruned_upto = greatest(pruned_upto, m.last),
    lost = lost + CASE WHEN m.last > upto THEN m.last - upto - m.above ELSE 0 END,
    upto = CASE WHEN m.last > upto THEN m.last ELSE upto END
FROM (SELECT r.source, max(r.seq) AS last, count(*) FILTER (WHERE r.seq > s.upto) AS above
      FROM {table} AS r JOIN sources AS s ON s.id = r.source GROUP BY r.source) AS m
WHERE m.source = sources.id
"""


class PostgresReader:
    """Reads beside the writers, on a few connections that are kept."""

    tail = f"(r.batch, r.id) > {_ROLLED}"

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[psycopg.Connection[tuple[Any, ...]]] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["PostgresSnapshot"]:
        """Gives one consistent view of the database.

        Raises:
            StoreError: it can't be read.
        """
        with self._lock:
            db = self._idle.pop() if self._idle else None
        try:
            db = db or _connected(self._url)
            with db.transaction():
                db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield PostgresSnapshot(db)
        except psycopg.Error as error:
            raise errors.StoreError(f"the database can't be read: {_said(error)}") from error
        finally:
            self._keep(db)

    def rolled_after(self, place: Place, limit: int) -> Sequence[tuple[Place, str, str, float, str]]:
        """Gives the first `limit` Samples after a place, of those that are rolled up.

        Raises:
            StoreError: it can't be read.
        """
        with self.snapshot() as snapshot:
            found = snapshot.rows(
                "SELECT r.batch::text, r.id, s.device, s.site, r.t, r.payload FROM sample_rows AS r "  # noqa: S608
                "JOIN sources AS s ON s.id = r.source WHERE (r.batch, r.id) > (?::text::xid8, ?) "
                f"AND (r.batch, r.id) <= {_ROLLED} ORDER BY r.batch, r.id LIMIT ?",
                (str(place[0]), place[1], limit),
            )
        return [((int(batch), number), device, site, t, payload) for batch, number, device, site, t, payload in found]

    def close(self) -> None:
        """Ends the connections."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _keep(self, db: "psycopg.Connection[tuple[Any, ...]] | None") -> None:
        with self._lock:
            if db is not None and not db.closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(db)
            elif db is not None:
                db.close()


class PostgresSnapshot:
    """One consistent view."""

    def __init__(self, db: "psycopg.Connection[tuple[Any, ...]]") -> None:
        self._db = db

    def rows(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Gives the rows that a query answers."""
        return self._db.execute(_sql(query), values or None).fetchall()


def _connected(url: str) -> "psycopg.Connection[tuple[Any, ...]]":
    settings: Mapping[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "application_name": "edge_sdk",
        "options": f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_LOCK_MS} -c synchronous_commit=on",
    }
    return psycopg.connect(url, autocommit=True, **settings)


def _table_of(day: int) -> str:
    return f"sample_rows_d{day}"


def _sql(query: str) -> bytes:
    return query.replace("?", "%s").encode()


def _said(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unusable(reason: str) -> errors.SettingsError:
    return errors.SettingsError(f"cannot use the PostgreSQL database: {reason}; choose another with --database")
