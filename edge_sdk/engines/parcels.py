"""What two machines say to each other while one builds an engine for the other: lines of JSON, and files after them.

The one who asks: Hello, then Parcel with its files. The one who builds: Ready, then Step by Step, then Done with its
files, or Refused at any time. Every file's size and SHA-256 stand in the line before it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import msgspec

from edge_sdk import errors
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.engines.remembered import Choice
from edge_sdk.records.bundle import CompilerReport, FileEntry, FileName
from edge_sdk.records.passport import Passport

PROTOCOL = 1
"""Version of this conversation."""

LINE_BYTES_MAX = 4 * 2**20
_CHUNK_BYTES = 2**20

Files: TypeAlias = dict[FileName, FileEntry]


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """What is asked for.

    Attributes:
        protocol: of the one who asks.
        compiler: a row of `compilers.COMPILERS`, or ``onnxruntime`` to check and time the bundle's forms.
        shapes: of inputs with free axes.
        dla_core: accelerator to use.
    """

    protocol: int
    compiler: str
    shapes: dict[str, ShapeRange] = {}
    dla_core: int | None = None


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """What the other machine offers.

    Attributes:
        protocol: that it speaks.
        sdk: version of edge_sdk.
        schema: newest bundle schema that it reads.
        free_bytes: room in `folder`.
        folder: where it will put what it gets.
        machine: what its engines are tied to; None where the compiler does not say.
    """

    protocol: int
    sdk: str
    schema: int
    free_bytes: int
    folder: str
    machine: Passport | None = None


class Parcel(msgspec.Struct, frozen=True, kw_only=True, tag="parcel"):
    """Files that follow, in this order; the manifest is one of them."""

    files: Files


class Step(msgspec.Struct, frozen=True, tag="step"):
    """How far the compiler is."""

    stage: str
    done: int
    total: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """What came out; `files` follow, in this order.

    Attributes:
        files: engine, passport and timing cache.
        plan: which of them is the engine; empty for ``onnxruntime``.
        report: of NVIDIA's compiler; None for ``onnxruntime``.
        engine: what runs, for ``onnxruntime``.
        choice: of the bundle's forms, for ``onnxruntime``.
    """

    files: Files = {}
    plan: str = ""
    report: CompilerReport | None = None
    engine: str = ""
    choice: Choice | None = None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why nothing comes out: a class of `edge_sdk.errors` and its message."""

    kind: str
    text: str


Message: TypeAlias = Hello | Ready | Parcel | Step | Done | Refused
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Received(NamedTuple):
    """A message, and what stood before it that was none (greetings of a login shell)."""

    message: Message | None
    noise: bytes


def write_message(stream: BinaryIO, message: Message) -> None:
    """Writes one line."""
    stream.write(msgspec.json.encode(message) + b"\n")
    stream.flush()


def read_message(stream: BinaryIO) -> Received:
    """Gives the next message; None when the other side has gone. What is no message is passed over, and kept."""
    noise = b""
    while len(noise) < LINE_BYTES_MAX:
        line = stream.readline(LINE_BYTES_MAX)
        if not line:
            return Received(None, noise)
        try:
            return Received(_DECODER.decode(line), noise)
        except (msgspec.DecodeError, UnicodeDecodeError):
            noise += line
    return Received(None, noise)


def write_files(stream: BinaryIO, sources: Iterable[Path]) -> None:
    """Writes the contents of files, one after the other."""
    for source in sources:
        with source.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                stream.write(chunk)
    stream.flush()


def read_files(stream: BinaryIO, files: Mapping[str, FileEntry], folder: Path) -> None:
    """Reads announced files into `folder`.

    Raises:
        BundleError: the stream ended before, or the bytes are others than announced.
        OSError: the folder takes no more.
    """
    for name, entry in files.items():
        found = hashlib.sha256()
        left = entry.size_bytes
        with (folder / name).open("wb") as target:
            while left:
                chunk = stream.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise errors.BundleError(f"the connection ended {left} bytes before the end of {name}; try again")
                target.write(chunk)
                found.update(chunk)
                left -= len(chunk)
        if found.hexdigest() != entry.sha256:
            raise errors.BundleError(f"{name} arrived with other bytes than were announced; try again")


def refusal_from_error(error: errors.EdgeError) -> Refused:
    """Gives an error as it travels."""
    return Refused(type(error).__name__, str(error))


def error_from_refusal(refused: Refused, *, where: str) -> errors.EdgeError:
    """Gives the error back, of the same class where there is one, with the machine's name before it."""
    kind: Any = getattr(errors, refused.kind, errors.EngineError)
    is_known = isinstance(kind, type) and issubclass(kind, errors.EdgeError)
    made: errors.EdgeError = (kind if is_known else errors.EngineError)(f"{where}: {plain(refused.text)}")
    return made


def plain(text: str) -> str:
    r"""Gives what another machine said without what could upset a terminal.

    >>> plain("no\x1b[31m room")
    'no[31m room'
    """
    return "".join(letter for letter in text if letter.isprintable() or letter == "\n")
