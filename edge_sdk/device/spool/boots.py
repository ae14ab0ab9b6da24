"""The starts of the daemon of which something is held, or was until a moment ago."""

from collections.abc import Iterable

from edge_sdk.device.spool.queue_file import BootRow


class Boots:
    """Boots by their numbers, and which of them are not in the file as they are now.

    Args:
        own: this start.
    """

    def __init__(self, own: BootRow) -> None:
        self.rows = {own.number: own}
        self.own_number = own.number
        self._unsaved = {own.number}

    def number_of(self, boot: str) -> int | None:
        """Gives the number of a boot by its name; None for one that nothing is known of."""
        return next((row.number for row in self.rows.values() if row.boot == boot), None)

    def dropped(self, number: int) -> int:
        """Gives how many Samples of a boot gave way or were damaged."""
        return self.rows[number].dropped if number in self.rows else 0

    def count_dropped(self, number: int) -> None:
        """Notes that one more did."""
        if row := self.rows.get(number):
            self.rows[number] = row._replace(dropped=row.dropped + 1)
            self._unsaved.add(number)

    def end(self, newest_seq: int) -> None:
        """Notes the newest Sample of this boot: it ends in order."""
        self.rows[self.own_number] = self.rows[self.own_number]._replace(newest_seq=newest_seq)
        self._unsaved.add(self.own_number)

    def take_over(self, earlier: Iterable[BootRow]) -> None:
        """Takes those that a file knows."""
        self.rows = {row.number: row for row in earlier} | self.rows

    def saw(self, number: int, seq: int) -> None:
        """Notes that a Sample of an earlier boot is there: its newest is this one at least."""
        row = self.rows.get(number)
        if row is not None and number != self.own_number:
            self.rows[number] = row._replace(newest_seq=max(row.newest_seq or 0, seq))

    def renumber(self, number: int) -> None:
        """Gives this boot another number; nothing of it is in a file yet."""
        self.rows[number] = self.rows.pop(self.own_number)._replace(number=number)
        self.own_number, self._unsaved = number, {number}

    def unsaved(self) -> list[BootRow]:
        """Gives those that are not in the file as they are now; it is asked once for each change."""
        numbers, self._unsaved = self._unsaved, set()
        return [self.rows[number] for number in sorted(numbers) if number in self.rows]

    def give_back(self, rows: Iterable[BootRow]) -> None:
        """Notes that these were not written after all."""
        self._unsaved.update(row.number for row in rows)
