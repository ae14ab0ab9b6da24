"""Where the commands keep what outlives them, where systemd gives them no place."""

import contextlib
import os
from pathlib import Path


def variants_folder() -> Path:
    """Gives the folder for which form of a bundle is the fastest here: below systemd's state, else the user's cache."""
    state = os.environ.get("STATE_DIRECTORY")  # noqa: TID251 - the command line is the one place that reads it
    if state:
        return Path(state) / "variants"
    cache = os.environ.get("XDG_CACHE_HOME")  # noqa: TID251 - as above
    return (Path(cache) if cache else Path.home() / ".cache") / "edge_sdk" / "variants"


def state_folders(root: Path) -> list[Path]:
    """Gives the state folders of daemons on a machine: the service's, and of this user's those started by hand."""
    home = os.environ.get("XDG_STATE_HOME")  # noqa: TID251 - as above
    found = [root / "var/lib/edge-sdk"]
    if root == Path("/"):
        with contextlib.suppress(OSError, RuntimeError):
            found += sorted(((Path(home) if home else Path.home() / ".local" / "state") / "edge-sdk").iterdir())
    return found


def state_folder(site: str, device: str) -> Path | None:
    """Gives the folder of a daemon that was started by hand, made if need be; None where the user has no place for it.

    One for each device: a queue is one device's, and one daemon's at a time.
    """
    home = os.environ.get("XDG_STATE_HOME")  # noqa: TID251 - as above
    try:
        folder = (Path(home) if home else Path.home() / ".local" / "state") / "edge-sdk" / f"{site}.{device}"
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home is known
        return None
    return folder
