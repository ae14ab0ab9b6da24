"""Which form of a bundle was fastest on this machine, kept on disk, so that it is measured once."""

import hashlib
import logging
import os
import re
import tempfile
from pathlib import Path

import msgspec

_LOG = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024


class Key(msgspec.Struct, frozen=True):
    """What a measurement holds for.

    Attributes:
        bundle: its digest.
        cpu: model of the processor.
        cores: that this process may use.
        backend: name and version.
        threads: asked for.
        is_alone: whoever asks is in this process.
    """

    bundle: str
    cpu: str
    cores: int
    backend: str
    threads: int
    is_alone: bool = False


class Choice(msgspec.Struct, frozen=True):
    """Which form of a bundle runs on this machine, and why.

    Attributes:
        variant: that runs.
        best_ns: shortest run seen, by variant; empty where there was nothing to choose.
        threads: for the back end, where the caller left that to it: 1 where one thread is as fast as all of them.
        is_awake: they stay awake between two runs.
        refused: why a variant is out of the question, by variant.
        is_remembered: it was measured earlier.
    """

    variant: str
    best_ns: dict[str, int] = {}
    refused: dict[str, str] = {}
    is_remembered: bool = False
    threads: int = 0
    is_awake: bool = False


class _Entry(msgspec.Struct, frozen=True):
    key: Key
    choice: Choice


def cpu_name(root: Path = Path("/")) -> str:
    """Gives the processor's model as the kernel names it; on ARM implementer and part; "unknown" if it does not say."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return "unknown"
    rows = re.findall(r"^(model name|CPU implementer|CPU part)\s*:\s*(.*)$", text, re.MULTILINE)
    return ", ".join(dict.fromkeys(value.strip() for _, value in rows)) or "unknown"


def recall(folder: Path, key: Key) -> Choice | None:
    """Gives what was measured earlier; None if nothing was, or it can't be read."""
    try:
        with _file(folder, key).open("rb") as stream:
            entry = msgspec.json.decode(stream.read(MAX_BYTES), type=_Entry)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return msgspec.structs.replace(entry.choice, is_remembered=True) if entry.key == key else None


def keep(folder: Path, key: Key, choice: Choice) -> None:
    """Writes a measurement, whole or not at all; a folder that can't be written only costs time at the next start."""
    file = _file(folder, key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=folder)
        with os.fdopen(handle, "wb") as stream:
            stream.write(msgspec.json.encode(_Entry(key, choice)))
        Path(name).replace(file)
    except OSError as error:
        _LOG.info("the choice is not kept for the next start: %s", error)


def _file(folder: Path, key: Key) -> Path:
    return folder / f"variant.{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:24]}.json"
