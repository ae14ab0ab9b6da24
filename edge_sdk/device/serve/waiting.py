"""Waiting for a peer that answers at once: a short while awake, before the thread sleeps.

To wake a thread takes longer than a small model does: up to 50 us on an idle core of a virtual machine, for each
message. Whoever asked again at once will do so again, so the next wait begins awake; whoever lets time pass, as a
camera does between two frames, is waited for asleep, and costs no more than before.
"""

import os
import socket
from collections.abc import Callable

AWAKE_NS = 400_000
"""Longest wait of a server awake. A peer that needs longer gains little: a wake-up is an eighth of its time."""

CLIENT_AWAKE_NS = 200_000
"""Of a client, whose answer takes as long as the model does: a larger one may want this core for itself."""

_ATTEMPTS = 2000
"""More than fit into that time, for clocks that stand still."""

Buffer = bytearray | memoryview


class Company:
    """All that wait for clients of one server; only one that is alone there stays awake."""

    __slots__ = ("can_wait_awake", "last")

    def __init__(self) -> None:
        self.last: Wait | None = None
        # On one core the peer could not run meanwhile.
        self.can_wait_awake = len(os.sched_getaffinity(0)) > 1


class Wait:
    """How one thread waits on its socket. The socket has no timeout of Python's."""

    def __init__(
        self, peer: socket.socket, tick_ns: Callable[[], int], company: Company, awake_ns: int = AWAKE_NS
    ) -> None:
        self._peer = peer
        self._awake_ns = awake_ns
        self._tick_ns = tick_ns
        self._company = company
        self._is_quick = False

    def receive_into(self, view: Buffer) -> int:
        """Gives how many bytes came; 0 at the end of the connection. Raises as ``recv_into`` does."""
        started_ns = self._tick_ns()
        company = self._company
        try:
            if self._is_quick and company.last is self and company.can_wait_awake:
                count = self._awake(view, started_ns + self._awake_ns)
                if count >= 0:
                    return count
            return self._peer.recv_into(view)
        finally:
            self._is_quick = self._tick_ns() - started_ns < self._awake_ns
            company.last = self

    def _awake(self, view: Buffer, until_ns: int) -> int:
        """Gives how many bytes came; -1 when the time is over, or someone else was served."""
        receive, tick_ns, company = self._peer.recv_into, self._tick_ns, self._company
        for _ in range(_ATTEMPTS):
            if company.last is not self or tick_ns() >= until_ns:
                break
            try:
                return receive(view, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()  # the peer may be waiting for this very core
        return -1
