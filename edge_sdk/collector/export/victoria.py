"""Stored Samples as Influx lines, and a VictoriaMetrics server that takes them.

The names are those of the page for Prometheus, with the time of the Sample itself: ``edge_power_watts{device, site}``,
``edge_model_latency_p99_seconds{device, site, model}``. Quantiles of a group are asked of the collector: it has the
histograms, and no server can make them of percentiles.
"""

import base64
import http.client
import math
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from edge_sdk import errors
from edge_sdk.collector.export import prometheus
from edge_sdk.records import metrics

_TIMEOUT_S = 10.0
_STARTED = re.compile(rb"^process_start_time_seconds (\S+)", re.MULTILINE)
_SPECIAL = re.compile(r"[,= \\]")

_FIELDS = tuple(metrics.prometheus_name(metric.name).removeprefix("edge_") for metric in prometheus.GAUGES)
_MODEL_FIELDS = tuple((name.removeprefix("edge_model_"), factor) for name, _, factor in prometheus.MODELS)


def lines(samples: Iterable[tuple[str, str, float, str]]) -> bytes:
    """Gives the Influx lines, in milliseconds, of (device, site, t, payload); an unreadable payload has none."""
    out: list[str] = []
    for device, site, t, payload in samples:
        try:
            windows, *values = msgspec.structs.astuple(prometheus.DECODER.decode(payload))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        tags, end = f"device={device},site={site}", f" {round(t * 1000)}"
        numbers = _fields(zip(_FIELDS, values, strict=True))
        if numbers:
            out.append(f"edge,{tags} {numbers}{end}")
        for window in windows:
            model, *found = msgspec.structs.astuple(window)
            shown = [
                (name, None if value is None else value * factor)
                for (name, factor), value in zip(_MODEL_FIELDS, found, strict=True)
            ]
            if model and (numbers := _fields(shown)):
                out.append(f"edge_model,{tags},model={_escaped(model)} {numbers}{end}")
    out.append("")
    return "\n".join(out).encode(errors="replace")


def _fields(values: Iterable[tuple[str, float | None]]) -> str:
    return ",".join(f"{name}={float(value)!r}" for name, value in values if value is not None and math.isfinite(value))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", " ".join(text.splitlines()))


class Victoria:
    """A VictoriaMetrics server, over one connection. Used by one thread at a time."""

    def __init__(self, url: str) -> None:
        """Takes the address; nothing is sent yet.

        Args:
            url: ``http://HOST:8428`` or ``https://USER:PASSWORD@HOST``, a path in front of its API included.

        Raises:
            SettingsError: it is no such URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}.get(parts.scheme)
        if kind is None or not parts.hostname:
            shown = url.rpartition("@")[2][:100]
            raise errors.SettingsError(f"victoria must be http://HOST:8428 or https://HOST, but was given {shown!r}")
        self._path = parts.path.rstrip("/")
        self._headers = {"Content-Type": "text/plain"}
        if parts.username is not None:
            secret = base64.b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"
        self._connection = kind(parts.hostname, port, timeout=_TIMEOUT_S)
        self._is_open = False

    def started(self) -> float | None:
        """Gives when the server's process started, as it says itself; None while the connection has held since.

        Raises:
            LinkError: it does not answer.
        """
        if self._is_open:
            return None
        found = _STARTED.search(self._reply("GET", "/metrics", b"", wanted=(200,)))
        self._is_open = True
        return float(found[1]) if found else math.nan

    def write(self, body: bytes) -> None:
        """Gives the server Influx lines.

        Raises:
            LinkError: it did not take them, or the connection is gone; whether it has some of them is not known.
        """
        self._reply("POST", "/write?precision=ms", body, wanted=(200, 204))

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()
        self._is_open = False

    def _reply(self, method: str, path: str, body: bytes, *, wanted: Sequence[int]) -> bytes:
        try:
            # A connection that the server has closed meanwhile is an error here, never opened again in silence.
            self._connection.auto_open = 0 if self._is_open else 1
            self._connection.request(method, self._path + path, body, self._headers)
            reply = self._connection.getresponse()
            content: bytes = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise errors.LinkError(f"VictoriaMetrics does not answer: {error or type(error).__name__}") from error
        if reply.status not in wanted:
            self.close()
            said = " ".join(content[:200].decode(errors="replace").split())
            raise errors.LinkError(f"VictoriaMetrics answers {reply.status} to {path}: {said}")
        if reply.will_close:
            self.close()
        return content
