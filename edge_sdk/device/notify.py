"""Tells systemd how the daemon is: ready, alive, stopping (sd_notify, without its library)."""

import logging
import socket

_LOG = logging.getLogger(__name__)


class Notifier:
    """Speaks to the service manager's socket, or to nobody where there is none.

    Args:
        address: the value of NOTIFY_SOCKET, read by the command line; None or empty means no service manager.
    """

    def __init__(self, address: str | None = None) -> None:
        # A leading '@' stands for the abstract name space of Linux, whose names start with a NUL.
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address

    def ready(self) -> None:
        """Says that requests are taken."""
        self._send(b"READY=1")

    def progress(self) -> None:
        """Feeds the watchdog; call it only after real work was done."""
        self._send(b"WATCHDOG=1")

    def stopping(self) -> None:
        """Says that the end was asked for and is under way."""
        self._send(b"STOPPING=1")

    def _send(self, state: bytes) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify_socket:
                notify_socket.sendto(state, self._address)
        except OSError as error:
            _LOG.warning("systemd's notify socket took no %s: %s", state.decode(), error)
