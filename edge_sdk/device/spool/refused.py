"""Records that no broker takes, kept beside the queue for whoever looks into it."""

import logging
from pathlib import Path

_LOG = logging.getLogger(__name__)

_LIMIT_BYTES = 2**20
"""Of the file; more records are counted and told, but not kept."""


class Refused:
    """What waits to be written. `keep` and `take` go under the spool's lock.

    Args:
        file: the queue.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.with_name(f"{file.name}.refused")
        self._waiting: list[bytes] = []

    def keep(self, payload: bytes) -> None:
        """Has a record written with the writer's next turn."""
        self._waiting.append(payload)

    def take(self) -> list[bytes]:
        """Gives what is to be written now."""
        taken, self._waiting = self._waiting, []
        return taken

    def write(self, payloads: list[bytes]) -> None:
        """Adds records, a line each; where the disk does not take them they are not kept."""
        if not payloads:
            return
        try:
            self._file.touch(mode=0o640)
            with self._file.open("ab") as file:
                for payload in payloads:
                    if file.tell() + len(payload) < _LIMIT_BYTES:
                        file.write(payload + b"\n")
        except OSError as error:
            _LOG.warning("a record that was refused could not be kept aside: %s", error)
