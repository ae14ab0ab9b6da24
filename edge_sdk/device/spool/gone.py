"""What the file still has and is to delete."""

from collections.abc import Iterable

from edge_sdk.device.spool.queue_file import Range


class Gone:
    """Ranges of keys, in the order in which they went."""

    def __init__(self) -> None:
        self._ranges: list[Range] = []

    def __len__(self) -> int:
        return len(self._ranges)

    def add(self, first: int, last: int) -> None:
        """Takes the keys from `first` to `last`, both included."""
        self._ranges.append(Range(first, last))

    def begin(self, keys: Iterable[int]) -> None:
        """Takes these in place of all before: another file was opened."""
        self._ranges = [Range(key, key) for key in keys]

    def take(self) -> list[Range]:
        """Gives all of it, neighbours joined."""
        ranges, self._ranges = sorted(self._ranges), []
        joined: list[Range] = []
        for one in ranges:
            if joined and one.first <= joined[-1].last + 1:
                joined[-1] = Range(joined[-1].first, max(one.last, joined[-1].last))
            else:
                joined.append(one)
        return joined

    def give_back(self, ranges: Iterable[Range]) -> None:
        """Notes that these were not deleted after all."""
        self._ranges.extend(ranges)
