"""Where the commands keep what they need not measure again."""

import os
from pathlib import Path


def variants_folder() -> Path:
    """Gives the folder for which form of a bundle is the fastest here: below systemd's state, else the user's cache."""
    state = os.environ.get("STATE_DIRECTORY")  # noqa: TID251 - the command line is the one place that reads it
    if state:
        return Path(state) / "variants"
    cache = os.environ.get("XDG_CACHE_HOME")  # noqa: TID251 - as above
    return (Path(cache) if cache else Path.home() / ".cache") / "edge_sdk" / "variants"
