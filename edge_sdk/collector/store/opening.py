"""Which store a setting means: a file is SQLite, ``postgresql://`` is PostgreSQL."""

from pathlib import Path

from edge_sdk import errors
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
    scheme, rest = _parts(database)
    assert scheme == "sqlite"
    return SqliteStore(Path(rest), refused_kept=refused_kept)


def open_reader(database: str) -> Reader:
    """Gives the reading half of a store that has been opened before.

    Raises:
        SettingsError: no store has that scheme.
    """
    _, rest = _parts(database)
    return SqliteReader(Path(rest))


def _parts(database: str) -> tuple[str, str]:
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
