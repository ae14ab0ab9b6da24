"""Wires the store's questions, the HTTP API and the Prometheus page; runs beside the collector's service."""

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from edge_sdk import __version__, clock, errors
from edge_sdk.collector.export import prometheus
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.asking import Scope
from edge_sdk.collector.store.query import Queries
from edge_sdk.collector.web import openapi, questions
from edge_sdk.collector.web.questions import Reply
from edge_sdk.collector.web.server import Server


class Answering:
    """Answers questions over HTTP from the moment it is made until `close`."""

    def __init__(
        self, settings: CollectorSettings, counts: Callable[[], Mapping[str, float]], clocks: clock.Clock
    ) -> None:
        """Starts answering; the collector's database must have been opened before.

        Args:
            settings: which database, where to listen.
            counts: the collector's own, for Prometheus.
            clocks: for what ``now`` is.

        Raises:
            UsageError: that address can't be listened on.
        """
        self._counts = counts
        self._clock = clocks
        host, port = _address(settings.web)
        self._reader = opening.open_reader(settings.database)
        self._queries = Queries(self._reader, clocks, minute_days=settings.minute_days)
        self._paths = questions.questions(self._sources())
        self._document = msgspec.json.encode(openapi.document(self._paths, version=__version__))
        try:
            self._server = Server(host, port, self._reply)
        except errors.UsageError:
            self._reader.close()
            raise
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._server.port}"

    def close(self) -> None:
        """Stops listening, and gives the database back."""
        self._server.close()
        self._reader.close()

    def metrics_page(self) -> str:
        """Gives the page for Prometheus."""
        return prometheus.page(self._queries.latest(), self._counts(), self._clock.wall_s())

    def _reply(self, target: str) -> Reply:
        if target == "/openapi.json":
            return Reply(200, questions.JSON, self._document)
        if target == "/metrics":
            try:
                return Reply(200, prometheus.CONTENT_TYPE, self.metrics_page().encode())
            except errors.StoreError as error:
                return questions.refusal(503, str(error))
        return questions.reply(self._paths, target)

    def _sources(self) -> questions.Sources:
        asked = self._queries
        return questions.Sources(
            latest=lambda devices, site: asked.latest(Scope(tuple(devices), site)),
            series=lambda metric, since_t, until_t, devices, site, step_s: asked.series(
                metric, since_t, until_t, scope=Scope(tuple(devices), site), step_s=step_s
            ),
            quantiles=lambda shares, since_t, until_t, devices, site, model, by: asked.quantiles(
                shares, since_t, until_t, scope=Scope(tuple(devices), site), model=model, by=by
            ),
            energy=lambda since_t, until_t, devices, site, by: asked.energy(
                since_t, until_t, scope=Scope(tuple(devices), site), by=by
            ),
            gaps=lambda devices, site: asked.gaps(Scope(tuple(devices), site)),
            now_t=self._clock.wall_s,
        )


def _address(text: str) -> tuple[str, int]:
    """Gives host and port of ``HOST:PORT``.

    Raises:
        SettingsError: it is not of that form.
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise errors.SettingsError(f"web must be HOST:PORT, for example 127.0.0.1:8780, but was given {text[:100]!r}")
    return host, port
