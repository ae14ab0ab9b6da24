"""What was sent and has no receipt, and when it is due again."""

import math
from collections.abc import Callable
from typing import NamedTuple

from edge_sdk.device.spool import records
from edge_sdk.device.spool.records import Kind

_EVENT_RESEND_MAX_S = 3600.0
"""An event without a receipt is sent again after twice as long each time, up to this."""
_LONGER_MAX = 16
"""And a Sample, up to so many times the first wait: repeats put a collector that is behind further behind."""
_SETTLED_S = 2.0
"""What was sent this long before a new connection and has no receipt is due again on it."""


class _Sent(NamedTuple):
    last_s: float
    times: int


class Sent:
    """When each record was sent last, and how often.

    Args:
        resend_s: seconds after which what has no receipt is due again; twice as long each further time.
    """

    def __init__(self, resend_s: float) -> None:
        self._resend_s = resend_s
        self._sent: dict[int, _Sent] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._sent

    def note(self, key: int, now_s: float) -> None:
        """Notes that a record is sent now."""
        before = self._sent.get(key)
        self._sent[key] = _Sent(now_s, before.times + 1 if before else 1)

    def forget(self, key: int) -> None:
        """Notes that it was not sent after all, or is not held any more."""
        self._sent.pop(key, None)

    def is_waiting(self, key: int, now_s: float) -> bool:
        """Tells whether a record was sent so lately that its receipt may still be under way."""
        sent = self._sent.get(key)
        if sent is None:
            return False
        return now_s - sent.last_s < self._wait_s(key, sent)

    def repeated(self, now_s: float) -> int:
        """Gives how many are under way for the second time or more."""
        return sum(sent.times > 1 and now_s - sent.last_s < self._wait_s(key, sent) for key, sent in self._sent.items())

    def reconnected(self, now_s: float) -> None:
        """Makes due again what was sent on an earlier connection: nobody knows what of it arrived."""
        for key, sent in self._sent.items():
            if now_s - sent.last_s >= _SETTLED_S:
                self._sent[key] = sent._replace(last_s=-math.inf)

    def rename(self, renamed: Callable[[int], int]) -> None:
        """Gives each record another key."""
        self._sent = {renamed(key): sent for key, sent in self._sent.items()}

    def _wait_s(self, key: int, sent: _Sent) -> float:
        """Gives how long after it was sent a record's receipt is waited for."""
        longest_s = self._resend_s * _LONGER_MAX
        if records.kind_of(key) is Kind.EVENT:  # a collector of an earlier version gives no receipts for them
            longest_s = max(self._resend_s, _EVENT_RESEND_MAX_S)
        return min(self._resend_s * 2.0 ** min(sent.times - 1, 20), longest_s)
