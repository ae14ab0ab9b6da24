"""The only door to jtop, a process of its own: ``python -m edge_sdk.device.sense.jtop_reader SOCKET [RETRY_S]``.

It holds jtop's group, has no network, takes no input, and writes numbers as JSON lines to whoever connects to its
socket. jtop (jetson-stats) is AGPL-3.0 and is loaded by name, and only here.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from edge_sdk import clock, errors, imports
from edge_sdk.device.sense.jtop import Line

_LOG = logging.getLogger(__name__)

_INTERVAL_S = 0.5
"""Twice per Sample, so that each finds a new line."""
_HANG_S = 15
"""jtop gave nothing for so long: the process ends (SIGALRM) and systemd starts it anew."""
_RETRY_S = 5.0
_CLIENTS = 8
_NOISE = ("time", "uptime")
"""Made by jtop's client itself on every call, so they move even when its service has stopped."""
_PLACEHOLDER_KHZ = 1
"""jtop's clock of the memory controller where it could not read one."""


def main(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM. Gives the exit code: 2 when jtop is not installed."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        jtop = cast("Callable[..., Any]", imports.object_from_spec("jtop:jtop"))
    except errors.UsageError as error:
        _LOG.error("%s; install it for this Python: pip install 'edge_sdk[jetson]'", error)
        return errors.UsageError.exit_code
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Lines(Path(arguments[0])) as lines:
        retry_s = float(arguments[1]) if len(arguments) > 1 else _RETRY_S
        serve(lambda: jtop(interval=_INTERVAL_S), lines, clock.SystemClock(), retry_s=retry_s)
    return 0


class Lines:
    """A unix socket that anyone of its group may read lines from; a reader that is too slow is let go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clients: list[socket.socket] = []
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # of a process that was killed
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o117)
        try:
            self._server.bind(str(path))
        finally:
            os.umask(before)
        self._server.listen(_CLIENTS)

    def write(self, line: Line) -> None:
        """Sends a line to every reader."""
        with contextlib.suppress(BlockingIOError):
            while len(self._clients) < _CLIENTS:
                self._clients.append(self._server.accept()[0])
        raw = msgspec.json.encode(line) + b"\n"
        for client in self._clients[:]:
            try:
                is_whole = client.send(raw, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(raw)
            except OSError:
                is_whole = False
            if not is_whole:
                self._clients.remove(client)
                client.close()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self._clients, self._server):
            one.close()
        self._path.unlink(missing_ok=True)


def serve(connect: Callable[[], Any], lines: Lines, clocks: clock.Clock, *, retry_s: float) -> None:
    """Passes on what jtop says, for ever; what it refuses is told, and tried again.

    Args:
        connect: gives an open ``jtop.jtop``.
        lines: takes what it says.
        clocks: for the pause after a refusal.
        retry_s: how long that pause is.
    """
    while True:
        signal.alarm(_HANG_S)
        try:
            with connect() as board:
                for line in _lines(board):
                    lines.write(line)
                    signal.alarm(_HANG_S)
            problem = "it has closed the connection"
        except Exception as error:  # noqa: BLE001  # boundary: jtop raises whatever its service sends; it is told
            problem = " ".join(f"{type(error).__name__}: {error}".split())
        _LOG.warning("jtop: %s", problem)
        lines.write(Line(error=problem[:300]))
        clocks.sleep(retry_s)


def _lines(board: Any) -> Iterator[Line]:
    while board.ok():
        readings = readings_of(board)
        stats = {key: value for key, value in dict(getattr(board, "stats", {})).items() if key not in _NOISE}
        yield Line(readings=readings, pulse=zlib.crc32(repr((stats, readings)).encode()))


def readings_of(board: Any) -> dict[str, float | str | None]:
    """Gives what the daemon takes from jtop, in our names and units; None where jtop has nothing."""
    gpu: Any = next(iter(_mapping(board.gpu).values()), None)
    memory = _mapping(board.memory)
    found: dict[str, float | str | None] = {
        "gpu_utilization_ratio": _scaled(gpu, "status", "load", factor=0.01),
        "gpu_frequency_hz": _scaled(gpu, "freq", "cur", factor=1e3),
        "gpu_memory_used_bytes": _scaled(memory, "RAM", "shared", factor=1024.0),
        "emc_frequency_hz": _scaled(memory, "EMC", "cur", factor=1e3),
        "emc_utilization_ratio": _scaled(memory, "EMC", "val", factor=0.01),
        "fan_ratio": _fan(_mapping(board.fan)),
        "power_mode": str(board.nvpmodel.name)[:64] if getattr(board, "nvpmodel", None) else None,
    }
    if found["emc_frequency_hz"] in (None, 0.0, _PLACEHOLDER_KHZ * 1e3):
        found["emc_frequency_hz"] = found["emc_utilization_ratio"] = None
    return found | _accelerators(_mapping(board.engine))


def _accelerators(engines: Mapping[str, Any]) -> dict[str, float | str | None]:
    """Gives the clocks of the accelerators; jtop lists the core and its Falcon, which is no load of ours."""
    cores = {
        name: engine
        for group in engines.values()
        for name, engine in _mapping(group).items()
        if name.upper().startswith("DLA") and "FALCON" not in name.upper()
    }
    return {
        f"dla_frequency_hz.{name.lower().removesuffix('_core')}": (
            _scaled(engine, "cur", factor=1e3) if _mapping(engine).get("online") else None
        )
        for name, engine in cores.items()
    }


def _fan(fans: Mapping[str, Any]) -> float | None:
    speeds = [speed for fan in fans.values() for speed in _mapping(fan).get("speed", ())]
    return max(speeds) / 100 if speeds else None


def _scaled(tree: Any, *path: str, factor: float) -> float | None:
    for step in path:
        tree = _mapping(tree).get(step)
    is_number = isinstance(tree, (int, float)) and not isinstance(tree, bool)
    return float(tree) * factor if is_number else None


def _mapping(value: Any) -> Mapping[str, Any]:
    """Gives jtop's own kinds of dictionaries as one; they are not all subclasses of it."""
    return cast("Mapping[str, Any]", value) if hasattr(value, "items") and hasattr(value, "get") else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
