"""Which store a setting means: a file is SQLite, ``postgresql://`` is PostgreSQL."""

from pathlib import Path

from edge_sdk import errors
from edge_sdk.collector.store.rows import Store
from edge_sdk.collector.store.sqlite import SqliteStore


def open_store(database: str, *, refused_kept: int = 1000) -> Store:
    """Gives the store that `database` names, made if it is not there.

    Args:
        database: a path, ``sqlite:///path``, or ``postgresql://user@host/name``.
        refused_kept: most refused messages that are kept as they came.

    Raises:
        SettingsError: it can't be used, or no store has that scheme.
    """
    scheme, separator, rest = database.partition("://")
    if not separator:
        return SqliteStore(Path(database), refused_kept=refused_kept)
    if scheme == "sqlite":
        return SqliteStore(Path(rest.removeprefix("/")), refused_kept=refused_kept)
    raise errors.SettingsError(
        f"no store for {scheme}://; expected a file, sqlite:///FILE or postgresql://USER@HOST/NAME"
    )
