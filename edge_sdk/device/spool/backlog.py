"""The Samples that are on disk: the keys of all of them, and the payloads of the oldest, which are due first.

A key is 8 bytes, so a day offline costs no memory to speak of, and counts stay exact without asking the disk.
"""

import bisect
from array import array
from collections.abc import Iterable, Iterator

from edge_sdk.device.spool import records
from edge_sdk.device.spool.queue_file import Range, Row
from edge_sdk.device.spool.records import Kind


class Backlog:
    """Keys in order, and a window of payloads at their beginning.

    Args:
        window: most payloads in memory.
    """

    def __init__(self, window: int) -> None:
        self.keys = array("q")
        self.cache: dict[int, bytes] = {}
        self._window = window

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def is_all_in_memory(self) -> bool:
        """Whether nothing has to be read, so that what comes after the backlog may go out as well."""
        return len(self.cache) == len(self.keys) < self._window

    def first_of(self, boot_number: int) -> int | None:
        """Gives the key of the oldest Sample of a boot; None if there is none."""
        place = bisect.bisect_left(self.keys, records.key_of(Kind.SAMPLE, boot_number, 0))
        if place < len(self.keys) and records.boot_number_of(self.keys[place]) == boot_number:
            return self.keys[place]
        return None

    def due(self) -> Iterator[tuple[int, bytes]]:
        """Gives the oldest, as far as they were read: what comes after a gap waits, as receipts go in order."""
        for key in self.keys[: self._window]:
            payload = self.cache.get(key)
            if payload is None:
                return
            yield key, payload

    def add(self, key: int, payload: bytes) -> None:
        """Takes a Sample that was committed; it is newer than all before it."""
        if self.is_all_in_memory:
            self.cache[key] = payload
        self.keys.append(key)

    def take_out(self, keys: Range) -> list[int]:
        """Takes out what lies in a range; gives its keys."""
        first, end = bisect.bisect_left(self.keys, keys.first), bisect.bisect_right(self.keys, keys.last)
        taken = self.keys[first:end].tolist()
        del self.keys[first:end]
        for key in taken:
            self.cache.pop(key, None)
        return taken

    def begin(self, keys: Iterable[int]) -> None:
        """Takes the keys of a file that was opened, in their order."""
        self.keys = array("q", keys)
        self.cache.clear()

    def keep(self, there: set[int]) -> list[int]:
        """Takes out what a file that was opened anew lacks; gives its keys."""
        lost = [key for key in self.keys if key not in there]
        self.keys = array("q", (key for key in self.keys if key in there))
        for key in lost:
            self.cache.pop(key, None)
        return lost

    def wanted(self) -> Range | None:
        """Gives the keys whose payloads are due next and not in memory; None if enough are."""
        missing = [key for key in self.keys[: self._window] if key not in self.cache]
        if not missing or (len(missing) < self._window // 2 and len(self.keys) > self._window):
            return None
        return Range(missing[0], missing[-1])

    def load(self, rows: Iterable[Row], asked: Range) -> list[int]:
        """Takes what the file read; gives the keys of what is damaged or not there."""
        self.cache.update((row.key, row.payload) for row in rows if row.payload is not None)
        first, end = bisect.bisect_left(self.keys, asked.first), bisect.bisect_right(self.keys, asked.last)
        known = self.keys[first:end]
        for key in {key for key in self.cache if asked.first <= key <= asked.last}.difference(known):
            del self.cache[key]  # it had its receipt while it was read
        return [key for key in known if key not in self.cache]
