"""Every way in which requests reach the daemon, opened by its settings."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

from edge_sdk import clock, errors, imports
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.feed import readers
from edge_sdk.device.serve import listening
from edge_sdk.device.serve.connection import HttpLimits
from edge_sdk.device.serve.frame_server import frame_server
from edge_sdk.device.serve.http import http_server
from edge_sdk.device.serve.regions import Regions
from edge_sdk.device.serve.routes import Routes
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.records import telemetry

_GRPC = "edge_sdk.device.serve.grpc_server:open_server"
"""By name: only a daemon that is told to speak gRPC loads the package."""


_DETECTOR = "edge_sdk.device.serve.zmq_detector:open_detector"
"""By name, likewise."""


class Entrance(Protocol):
    """One way in."""

    def start(self) -> None:
        """Begins to answer."""
        ...

    def stop(self) -> None:
        """Takes no more, and lets running requests finish."""
        ...


class Entrances:
    """The daemon's listening sockets; all of them or none.

    Attributes:
        urls: where requests are taken, HTTP first.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        deployment: Deployment,
        *,
        clocks: clock.Clock,
        sample: Callable[[], telemetry.Sample | None],
    ) -> None:
        """Binds every address.

        Raises:
            UsageError: one can't be bound, or gRPC is asked for and not installed.
        """
        self._settings = settings
        self._deployment = deployment
        self._clock = clocks
        self._limits = HttpLimits(body_bytes=settings.http_body_bytes, connections=settings.http_connections)
        self._regions = Regions(is_allowed=settings.shared_memory)
        self._open: list[Entrance] = []
        self.urls: tuple[str, ...] = ()
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self._open_http(sample)
            if settings.frames_socket is not None:
                listener = self._listening(*listening.unix_listener(Path(settings.frames_socket)), scheme="frames+")
                self._open.append(frame_server(listener, deployment.models, limits=self._limits, clocks=clocks))
            if settings.grpc_port is not None or settings.grpc_socket is not None:
                self._open_grpc()
            if settings.zmq_address is not None:
                self._open_detector(settings.zmq_address)
            undo.pop_all()

    def start(self) -> None:
        """Begins to answer."""
        for entrance in self._open:
            entrance.start()

    def stop(self) -> None:
        """Takes no more, lets running requests finish, all ways at once, and forgets the registered regions."""
        stopping = [threading.Thread(target=entrance.stop, name="stop entrance") for entrance in self._open]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        self._regions.unregister()

    def _open_http(self, sample: Callable[[], telemetry.Sample | None]) -> None:
        routes = Routes(
            self._deployment.models,
            regions=self._regions,
            repository=self._deployment,
            decode=readers.decode_picture,
            device=self._settings.device or "",
            sample=sample,
        )
        found = [listening.tcp_listener(self._settings.http_host, self._settings.http_port)]
        self._add_http(routes, *found[0])
        if self._settings.http_socket is not None:
            self._add_http(routes, *listening.unix_listener(Path(self._settings.http_socket)))

    def _add_http(self, routes: Routes, listener: socket.socket, url: str) -> None:
        self._listening(listener, url)
        self._open.append(http_server(listener, routes.answer, limits=self._limits, clocks=self._clock))

    def _listening(self, listener: socket.socket, url: str, *, scheme: str = "") -> socket.socket:
        self.urls += (scheme + url,)
        return listener

    def _open_detector(self, address: str) -> None:
        try:
            make = cast("Callable[..., tuple[Entrance, tuple[str, ...]]]", imports.object_from_spec(_DETECTOR))
        except ModuleNotFoundError as error:
            raise errors.UsageError(
                f"zmq_address needs the package {error.name!r}: pip install 'edge_sdk[zmq]', or leave it out"
            ) from error
        detector, urls = make(
            self._deployment.models,
            address=address,
            model=self._settings.zmq_model,
            body_bytes=self._settings.http_body_bytes,
        )
        self._open.append(detector)
        self.urls += urls

    def _open_grpc(self) -> None:
        try:
            open_server = cast("Callable[..., tuple[Entrance, tuple[str, ...]]]", imports.object_from_spec(_GRPC))
        except ModuleNotFoundError as error:
            raise errors.UsageError(
                f"gRPC needs the package {error.name!r}: pip install 'edge_sdk[grpc]', or leave grpc_port and "
                "grpc_socket out"
            ) from error
        server, urls = open_server(
            self._deployment.models,
            self._regions,
            self._deployment,
            host=self._settings.http_host,
            port=self._settings.grpc_port,
            path=self._settings.grpc_socket,
            decode=readers.decode_picture,
            body_bytes=self._settings.http_body_bytes,
            workers=min(self._settings.http_connections, 64),
        )
        self._open.append(server)
        self.urls += urls
