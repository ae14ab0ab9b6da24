"""Where results go: lines of JSON, a folder, the device's event topic."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from edge_sdk import errors
from edge_sdk.device.feed.results import Result
from edge_sdk.link.protocol import Link
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, topics

_MESSAGE_CHARS = 500
_RESULT_CHARS = 8192


class Sink(Protocol):
    """Takes results."""

    def take(self, result: Result) -> None:
        """Takes one.

        Raises:
            LinkError: it could not be sent; it is counted, and the next one is tried.
        """
        ...


class JsonLines:
    """One line of JSON for each result."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def take(self, result: Result) -> None:
        """Writes a line."""
        self._write(msgspec.json.encode(result).decode() + "\n")


class FolderSink:
    """One JSON file for each frame, named after it; whole or not there at all."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder.

        Raises:
            UsageError: it can't be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.UsageError(f"cannot make the folder {folder} for results: {error.strerror}") from error
        self._folder = folder

    def take(self, result: Result) -> None:
        """Writes a file.

        Raises:
            UsageError: it can't be written, for example because the disk is full.
        """
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", result.frame).lstrip(".") or "frame"
        staging = self._folder / f".{name}.json"
        try:
            staging.write_bytes(msgspec.json.encode(result) + b"\n")
            staging.replace(self._folder / f"{name}.json")
        except OSError as error:
            raise errors.UsageError(f"cannot write results to {self._folder}: {error.strerror}") from error


class EventSink:
    """One event of kind ``result`` on ``up/event`` of a device; never kept while the broker is away.

    Args:
        link: opened.
        site: first part of the topic.
        device: second part.
        boot: of this run.
    """

    def __init__(self, link: Link, *, site: str, device: str, boot: str) -> None:
        self._link = link
        self._topic = topics.up(site, device, "event")
        self._device = device
        self._boot = boot

    def take(self, result: Result) -> None:
        """Publishes a result.

        Raises:
            LinkError: not connected.
        """
        content = msgspec.json.encode(result).decode()
        event = telemetry.Event(
            v=telemetry.WIRE_VERSION,
            device=self._device,
            boot=self._boot,
            t=result.t,
            kind="result",
            message=_summary(result)[:_MESSAGE_CHARS],
            details={
                "frame": result.frame[:_MESSAGE_CHARS],
                "model": result.model,
                "digest": result.digest,
                "latency_ms": result.latency_ms,
                "result": content if len(content) <= _RESULT_CHARS else None,
            },
        )
        self._link.publish(self._topic, codec.to_bytes(event))


def _summary(result: Result) -> str:
    """Gives a result in a few words."""
    if result.top is not None:
        return f"{result.frame}: {', '.join(f'{one.name} {one.value:.4g}' for one in result.top)}"
    if result.detections is not None:
        return f"{result.frame}: {', '.join(f'{one.name} {one.score:.2f}' for one in result.detections) or 'nothing'}"
    return f"{result.frame}: {', '.join(result.outputs or ())}"
