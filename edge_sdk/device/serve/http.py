"""A small HTTP/1.1 server: one blocking thread per connection.

It knows sockets and limits; what is answered is the business of the function that it is given. Blocking threads
with receives in place were the fastest of the stacks that need no further package.
"""

import socket
import threading

from edge_sdk import clock
from edge_sdk.device.serve.connection import Answering, Connection, HttpLimits
from edge_sdk.device.serve.listening import Acceptor
from edge_sdk.device.serve.waiting import Company


def http_server(listener: socket.socket, answering: Answering, *, limits: HttpLimits, clocks: clock.Clock) -> Acceptor:
    """Gives a server that takes over the listening socket; it begins to answer with `start`."""
    stopping, company = threading.Event(), Company()

    def connect(peer: socket.socket) -> Connection:
        return Connection(peer, answering, limits=limits, clocks=clocks, stopping=stopping, company=company)

    return Acceptor(
        listener,
        connect,
        name="http",
        connections=limits.connections,
        stop_s=limits.stop_s,
        stopping=stopping,
        clocks=clocks,
    )
