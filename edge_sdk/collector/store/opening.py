"""Which store a setting means: a file is SQLite, ``postgresql://`` is PostgreSQL."""

from pathlib import Path
from typing import Any

from edge_sdk import errors, imports
from edge_sdk.collector.store.asking import Reader
from edge_sdk.collector.store.rows import Store
from edge_sdk.collector.store.sqlite import SqliteReader, SqliteStore


def open_store(database: str, *, refused_kept: int = 1000) -> Store:
    """Gives the store that `database` names, made if it is not there.

    Args:
        database: a path, ``sqlite:///path``, or ``postgresql://user@host/name``.
        refused_kept: most refused messages that are kept as they came.

    Raises:
        SettingsError: it can't be used, or no store has that scheme.
    """
    scheme, rest = parts(database)
    if scheme == "postgresql":
        store: Store = _postgres("PostgresStore")(rest, refused_kept=refused_kept)
        return store
    return SqliteStore(Path(rest), refused_kept=refused_kept)


def open_reader(database: str) -> Reader:
    """Gives the reading half of a store that has been opened before.

    Raises:
        SettingsError: no store has that scheme.
    """
    scheme, rest = parts(database)
    if scheme == "postgresql":
        reader: Reader = _postgres("PostgresReader")(rest)
        return reader
    return SqliteReader(Path(rest))


def parts(database: str) -> tuple[str, str]:
    """Gives the kind of store, and its file or address."""
    scheme, separator, rest = database.partition("://")
    if not separator:
        return "sqlite", database
    if scheme == "sqlite":
        return "sqlite", rest.removeprefix("/")
    if scheme in ("postgresql", "postgres"):
        return "postgresql", database
    raise errors.SettingsError(
        f"no store for {scheme}://; expected a file, sqlite:///FILE or postgresql://USER@HOST/NAME"
    )


def _postgres(name: str) -> Any:
    """Gives a class of the PostgreSQL store, which is loaded only where it is wanted."""
    try:
        return imports.object_from_spec(f"edge_sdk.collector.store.postgres:{name}")
    except ImportError as error:
        raise errors.SettingsError(
            f"PostgreSQL needs psycopg, which is not installed: {error}; pip install 'edge_sdk[postgres]'"
        ) from error
