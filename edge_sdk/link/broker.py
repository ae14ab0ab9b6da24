"""A broker for tests and for trying things out: mosquitto where it is installed, else an embedded one from pip.

It lets everybody in, keeps nothing on disk and listens on loopback unless told otherwise; a fleet runs mosquitto
with its own configuration. Whatever happens to us, also ``kill -9``, it goes away with us.
"""

import contextlib
import importlib.metadata
import importlib.util
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple

from edge_sdk import clock, errors

Kind = Literal["auto", "mosquitto", "embedded"]

_START_S = 10.0
_STOP_S = 5.0
_POLL_S = 0.02
_PROBE_S = 1.0
# CONNECT of MQTT 5: clean start, keep alive 10 s, no properties, client id "edge-probe"; then DISCONNECT.
_CONNECT = b"\x10\x17\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x0aedge-probe"
_DISCONNECT = b"\xe0\x00"
_CONNACK = 0x20


class Broker(NamedTuple):
    """A running broker.

    Attributes:
        host, port: where it listens.
        name: ``mosquitto`` or ``iotcore``.
        version: of that program.
        pid: its process.
        keeper: the process around it, which ends when it ends (link/broker_child.py).
    """

    host: str
    port: int
    name: str
    version: str
    pid: int
    keeper: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        """The address for clients on this machine."""
        host = _reachable(self.host)
        return f"mqtt://[{host}]:{self.port}" if ":" in host else f"mqtt://{host}:{self.port}"

    def is_running(self) -> bool:
        """Tells whether its process is alive."""
        return self.keeper.poll() is None


class _Program(NamedTuple):
    kind: str
    path: str
    name: str
    version: str


@contextlib.contextmanager
def open_broker(
    host: str = "127.0.0.1", port: int = 1883, *, kind: Kind = "auto", ticks: clock.Clock | None = None
) -> Iterator[Broker]:
    """Runs a broker while the context is open; when it is entered, the broker answers MQTT 5.

    Args:
        host: address to listen on.
        port: 0 takes a free one.
        kind: ``mosquitto``, ``embedded`` (iotcore), or ``auto``: the first of these that is installed.
        ticks: for the deadline.

    Raises:
        UsageError: the port is taken, the address is not ours, or that kind of broker is not installed.
        LinkError: it did not start within 10 seconds.
    """
    program = _find(kind)
    port = _check_port(host, port)
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(
            [sys.executable, "-m", "edge_sdk.link.broker_child", program.kind, program.path, host, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,  # Ctrl-C at a terminal is for us; we stop the broker when all others are done
        )
        try:
            _wait_until_answering(child, host, port, messages, ticks or clock.SystemClock())
            assert child.stdout is not None
            yield Broker(host, port, program.name, program.version, int(child.stdout.readline()), child)
        finally:
            _stop(child)


def _find(kind: Kind) -> _Program:
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if kind in ("auto", "mosquitto") and mosquitto:
        return _Program("mosquitto", mosquitto, "mosquitto", _mosquitto_version(mosquitto))
    if kind == "mosquitto":
        raise errors.UsageError("mosquitto is not on PATH; install it (apt install mosquitto) or choose kind embedded")
    if importlib.util.find_spec("iotcore") is None:
        raise errors.UsageError("no broker is installed here; pip install 'edge_sdk[broker]', or apt install mosquitto")
    return _Program("embedded", "", "iotcore", importlib.metadata.version("iotcore"))


def _mosquitto_version(program: str) -> str:
    """Gives the version from the first line of its help, ``mosquitto version 2.0.11``."""
    answer = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=_START_S, check=False)
    words = answer.stdout.partition("\n")[0].split()
    return words[-1] if words else "unknown"


def _check_port(host: str, port: int) -> int:
    """Gives the port to use: `port`, or a free one for 0."""
    if not 0 <= port <= 65535:
        raise errors.UsageError(f"cannot listen on {host} port {port}: ports are 1 to 65535, or 0 for a free one")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:
        raise errors.UsageError(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}; "
            f"stop what uses it (`ss -ltnp 'sport = :{port}'` tells), or choose another port (0 takes a free one)"
        ) from error


def _wait_until_answering(
    child: subprocess.Popen[bytes], host: str, port: int, messages: IO[bytes], ticks: clock.Clock
) -> None:
    deadline_s = ticks.boot_s() + _START_S
    while not _answers(host, port):
        code = child.poll()
        if code is not None or ticks.boot_s() > deadline_s:
            messages.seek(0)
            said = messages.read()[-500:].decode(errors="replace").strip()
            problem = f"ended with code {code}" if code is not None else f"did not answer within {_START_S:g} s"
            raise errors.LinkError(f"the broker on {host} port {port} {problem}: {said or 'it said nothing'}")
        ticks.sleep(_POLL_S)


def _answers(host: str, port: int) -> bool:
    """Tells whether an MQTT 5 broker accepts a client there."""
    try:
        with socket.create_connection((_reachable(host), port), timeout=_PROBE_S) as probe:
            probe.sendall(_CONNECT)
            answer = probe.recv(4)
            probe.sendall(_DISCONNECT)
    except OSError:
        return False
    return len(answer) == 4 and answer[0] == _CONNACK and answer[3] == 0


def _reachable(host: str) -> str:
    """Gives an address of this machine for one that stands for all of its own."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Closes the pipe, which ends the broker; kills the whole group if it does not."""
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def is_loopback(host: str) -> bool:
    """Tells whether only this machine reaches `host`."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
