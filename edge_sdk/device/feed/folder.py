"""Frames from a folder of pictures: those that are there, or every new one as it comes."""

import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_sdk import clock, errors
from edge_sdk.device.feed.frames import Frame
from edge_sdk.device.feed.readers import SUFFIXES, Reader

MOST_UNREADABLE = 1000
"""Reasons kept; the rest is only left out."""


class _State(NamedTuple):
    """What tells whether a file has changed."""

    inode: int
    size_bytes: int
    modified_ns: int


class FolderSource:
    """Pictures of a folder, in the order of their names.

    With `is_watched`, those that are there at the start are passed over, and each new or changed file is given once,
    when it has stayed as it is for a whole `poll_s`: whoever writes it may take several steps.

    Args:
        folder: with pictures.
        reader: of one file.
        ticks: for the time of a frame.
        is_watched: go on until `close`.
        poll_s: seconds between two looks.
    """

    is_live = False

    def __init__(
        self, folder: Path, reader: Reader, *, ticks: clock.Clock, is_watched: bool = False, poll_s: float = 0.5
    ) -> None:
        if not folder.is_dir():
            raise errors.UsageError(f"{folder} is not a folder of pictures")
        self._folder = folder
        self._reader = reader
        self._clock = ticks
        self._is_watched = is_watched
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._unreadable: dict[str, str] = {}
        self._done: dict[str, _State] = _look(folder) if is_watched else {}

    def frames(self) -> Iterator[Frame]:
        """Gives the frames; a file that can't be read is passed over and its reason kept."""
        before: dict[str, _State] = {} if self._is_watched else _look(self._folder)
        while not self._stop.is_set():
            now = _look(self._folder)
            # Forgetting files that are gone bounds the memory of a folder that is emptied all the time.
            self._done = {name: state for name, state in self._done.items() if name in now}
            for name, state in sorted(now.items()):
                if self._stop.is_set():
                    return
                if self._done.get(name) != state and before.get(name) == state:
                    self._done[name] = state
                    if (frame := self._read(name)) is not None:
                        yield frame
            before = now
            if not self._is_watched:
                return
            self._stop.wait(self._poll_s)

    def unreadable(self) -> dict[str, str]:
        """Gives what was passed over so far, with the reason."""
        return dict(self._unreadable)

    def close(self) -> None:
        """Ends `frames` soon."""
        self._stop.set()

    def _read(self, name: str) -> Frame | None:
        try:
            pixels = self._reader(self._folder / name)
        except errors.DataError as error:
            if len(self._unreadable) < MOST_UNREADABLE:
                self._unreadable[name] = str(error)
            return None
        self._unreadable.pop(name, None)
        return Frame(name, pixels, self._clock.wall_s())


class FileSource:
    """One picture."""

    is_live = False

    def __init__(self, file: Path, reader: Reader, *, ticks: clock.Clock) -> None:
        self._file = file
        self._reader = reader
        self._clock = ticks

    def frames(self) -> Iterator[Frame]:
        """Gives the picture.

        Raises:
            UsageError: it can't be read.
        """
        try:
            pixels = self._reader(self._file)
        except errors.DataError as error:
            raise errors.UsageError(f"{self._file} can't be read as a picture: {error}") from error
        yield Frame(self._file.name, pixels, self._clock.wall_s())

    def unreadable(self) -> dict[str, str]:
        """Gives nothing: one picture that can't be read is an error."""
        return {}

    def close(self) -> None:
        """Does nothing: there is one picture only."""


def _look(folder: Path) -> dict[str, _State]:
    """Gives the picture files of a folder; a leading dot marks what is being written."""
    found: dict[str, _State] = {}
    for file in folder.iterdir():
        if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
            continue
        try:
            status = file.stat()
        except OSError:
            continue  # it has gone since
        if stat.S_ISREG(status.st_mode):
            found[file.name] = _State(status.st_ino, status.st_size, status.st_mtime_ns)
    return found
