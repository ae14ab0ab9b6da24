"""Which of nvpmodel's modes is set: it caps power and clocks, so that figures of two modes can't be compared."""

import re
from pathlib import Path

from edge_sdk.device.sense import files
from edge_sdk.records.telemetry import Reading

_STATUS = "var/lib/nvpmodel/status"
_TABLE = "etc/nvpmodel.conf"
_MODE_CHARS = 64


class ModeSensor:
    """nvpmodel's mode, from the files that it keeps; the program itself is never called."""

    def __init__(self, root: Path) -> None:
        self._status = root / _STATUS
        self._table = root / _TABLE

    def collect(self) -> list[Reading]:
        """Gives the mode's name, or its number where nothing names it."""
        try:
            status = files.text(self._status)
        except OSError as error:
            return files.absent(files.reason_from_error(error), "power_mode")
        mode = re.search(r"pmode:(\d+)", status)
        if mode is None:
            return files.absent(f"{self._status} names no mode", "power_mode")
        number = int(mode[1])
        return [Reading("power_mode", (mode_names(files.text_or_empty(self._table)).get(number) or str(number)))]


def mode_names(table: str) -> dict[int, str]:
    """Gives the names of modes by number, from the text of nvpmodel.conf.

    >>> mode_names("< POWER_MODEL ID=2 NAME=MODE_15W >")
    {2: 'MODE_15W'}
    """
    rows = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", table)
    return {int(number): name[:_MODE_CHARS] for number, name in rows}
