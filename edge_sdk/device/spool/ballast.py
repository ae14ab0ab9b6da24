"""Room kept for a full disk: a file that is given up so that the queue can still delete.

A full disk locks a WAL queue shut: to delete a record, SQLite has to write first.
"""

import contextlib
import os
from pathlib import Path

BALLAST_BYTES = 1024 * 1024
"""Twice what the write-ahead log grows to before it is folded in."""
_SPARE_FACTOR = 2
"""It is laid down again when the disk has this many times its size free."""


class Ballast:
    """The file beside the queue.

    Args:
        file: made by `lay_down`.
        size_bytes: of the file.
    """

    def __init__(self, file: Path, *, size_bytes: int = BALLAST_BYTES) -> None:
        self._file = file
        self._size_bytes = size_bytes

    @property
    def is_there(self) -> bool:
        """Whether there is still something to give up."""
        return self._file.exists()

    def lay_down(self) -> bool:
        """Takes the room, if the disk has plenty; tells whether it is taken."""
        if self.is_there:
            return True
        try:
            status = os.statvfs(self._file.parent)
            if status.f_bavail * status.f_frsize < _SPARE_FACTOR * self._size_bytes:
                return False
            descriptor = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
            finally:
                os.close(descriptor)
        except OSError:
            self.give_up()
            return False
        return True

    def give_up(self) -> None:
        """Gives the room back to the disk."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
