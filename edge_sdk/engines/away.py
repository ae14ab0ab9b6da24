"""Finishes a bundle on another machine, over ssh: the board builds, the engine comes back into the bundle.

Only ``ssh`` is needed here, and edge_sdk there. The board gets the manifest and the one model that it compiles, and
keeps nothing.
"""

import contextlib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from edge_sdk import errors
from edge_sdk.engines import bundled, finish, guest, modules, parcels, plans
from edge_sdk.engines.finish import Finished
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.engines.parcels import Done, Hello, Message, Parcel, Ready, Refused, Step
from edge_sdk.records.passport import Passport
from edge_sdk.wire import bundles

Progress = Callable[[str, int, int], None]
_M = TypeVar("_M", Ready, Done)

SLACK_BYTES = 64 * 2**20
"""Room that the other machine needs besides the files that it gets: an engine, a timing cache."""

OLDEST = (8, 6)
"""TensorRT before this is not known to build what a bundle holds."""

_OPTIONS = ("-T", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
_BROUGHT_BACK = re.compile(r"(engine\.[A-Za-z0-9._-]+\.(plan|json)|timing\.[A-Za-z0-9._-]+\.cache)")
_UNREACHABLE, _NOT_EXECUTABLE, _NOT_FOUND = 255, 126, 127
_WORDS_BYTES_MAX = 2000
_END_S = 10


class Host(NamedTuple):
    """Another machine.

    Attributes:
        target: as ssh takes it: ``user@host``, or a name from its configuration.
        ssh: the command and its options.
        command: how edge-sdk is called there; a path where it is not on the PATH of a login without a terminal.
    """

    target: str
    ssh: tuple[str, ...] = ("ssh",)
    command: str = "edge-sdk"


class Timed(NamedTuple):
    """What ONNX Runtime on the other machine said: which form of the bundle runs there, and how fast all are."""

    bundle: bundles.Bundle
    done: Done


def check_host(host: Host, *, compiler: str, dla_core: int | None = None) -> Ready:
    """Gives what a machine offers, when it can build with `compiler`.

    Raises:
        LinkError: it can't be reached.
        UsageError: there is no edge-sdk, no such compiler, or it speaks another protocol.
        EngineError: it has no GPU.
    """
    with _conversation(host) as talk:
        return _greeted(talk, Hello(protocol=parcels.PROTOCOL, compiler=compiler, dla_core=dla_core))


def compile_bundle_on(
    path: Path,
    host: Host,
    *,
    compiler: str,
    shapes: Mapping[str, ShapeRange] | None = None,
    progress: Progress | None = None,
    dla_core: int | None = None,
) -> Finished:
    """Builds a bundle's engine on `host` and adds engine, passport and timing cache to the bundle here.

    The manifest is written anew, as `finish.compile_bundle` does. Whatever goes wrong, the bundle stays as it was.

    Raises:
        BundleError: the bundle does not hold, is signed, was changed meanwhile, or something else came back.
        CompatibilityError: the machine can't build it; field by field.
        LinkError, UsageError, EngineError: as `check_host`; and what the compiler there refused, in its own words.
    """
    checked = bundles.read_bundle(path)
    finish.check_unsigned(checked)
    models = bundled.model_names(checked)
    hello = Hello(protocol=parcels.PROTOCOL, compiler=compiler, shapes=dict(shapes or {}), dla_core=dla_core)
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as name, _conversation(host) as talk:
        ready = _greeted(talk, hello)
        done = _asked(talk, ready, checked, (*models, *_earlier(checked, ready)), progress)
        _check_brought(done)
        made = Path(name)
        parcels.read_files(talk.source, done.files, made)
        _check_passport(checked, done, made, models[0])
        assert done.report is not None
        return Finished(finish.with_files(checked, {file: made / file for file in done.files}), done.plan, done.report)


def time_bundle_on(path: Path, host: Host, *, progress: Progress | None = None) -> Timed:
    """Checks and times a bundle's forms on the CPU of `host`, which remembers the fastest; nothing comes back.

    Raises:
        As `compile_bundle_on`.
    """
    checked = bundles.read_bundle(path)
    with _conversation(host) as talk:
        ready = _greeted(talk, Hello(protocol=parcels.PROTOCOL, compiler=guest.CPU))
        return Timed(checked, _asked(talk, ready, checked, tuple(checked.manifest.files), progress))


class _Talk(NamedTuple):
    """A conversation: what the other side says, what it hears, and what ssh says about it."""

    host: Host
    process: "subprocess.Popen[bytes]"
    words: Path

    @property
    def source(self) -> BinaryIO:
        """What the other side says."""
        return cast("BinaryIO", self.process.stdout)

    @property
    def sink(self) -> BinaryIO:
        """What it hears."""
        return cast("BinaryIO", self.process.stdin)

    def say(self, message: Message, files: tuple[Path, ...] = ()) -> None:
        """Says something; when the other side has gone, `hear` tells why."""
        with contextlib.suppress(BrokenPipeError):
            parcels.write_message(self.sink, message)
            parcels.write_files(self.sink, files)

    def hear(self, kind: type[_M], progress: Progress | None = None) -> _M:
        """Gives the next message of that kind; raises what the other side refused, or how it ended."""
        noise = b""
        while True:
            received = parcels.read_message(self.source)
            noise += received.noise
            message = received.message
            if isinstance(message, Step):
                if progress is not None:
                    progress(parcels.plain(message.stage), message.done, message.total)
            elif isinstance(message, Refused):
                raise parcels.error_from_refusal(message, where=self.host.target)
            elif isinstance(message, kind):
                return message
            else:
                raise self._ended(noise)

    def _ended(self, noise: bytes) -> errors.EdgeError:
        """Words how the other side ended without an answer."""
        with contextlib.suppress(BrokenPipeError):
            self.sink.close()
        try:
            code = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            code = None
        target, command = self.host.target, self.host.command
        words = parcels.plain((self.words.read_bytes() + noise).decode("utf-8", "replace").strip()[-_WORDS_BYTES_MAX:])
        said = f": {words}" if words else ""
        if code == _UNREACHABLE:
            return errors.LinkError(f"{target} can't be reached{said}; try `{shlex.join(self.host.ssh)} {target} true`")
        if code in (_NOT_FOUND, _NOT_EXECUTABLE):
            return errors.UsageError(
                f"{target} has no {command!r}{said}; install edge_sdk there, or say where it is with --there"
            )
        return errors.EngineError(
            f"{command!r} on {target} ended with code {code} and no answer{said}; it needs the same edge_sdk as here"
        )


@contextlib.contextmanager
def _conversation(host: Host) -> Iterator[_Talk]:
    """Starts edge-sdk over there; leaving the block ends it, and it cleans up after itself."""
    if host.target.startswith("-") or not host.target.strip():
        raise errors.UsageError(f"{host.target!r} is not a machine; expected user@host")
    command = [*host.ssh, *_OPTIONS, "--", host.target, f"{host.command} compile -"]
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        words = Path(folder) / "words.txt"
        with words.open("wb") as log:
            try:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            except OSError as error:
                raise errors.UsageError(
                    f"{host.ssh[0]!r} can't be started ({error.strerror}): sudo apt install openssh-client"
                ) from error
        try:
            yield _Talk(host, process, words)
        finally:
            # The end of its input is the sign to stop; it removes what it keeps, and ends.
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    cast("BinaryIO", stream).close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.terminate()
            process.wait()


def _greeted(talk: _Talk, hello: Hello) -> Ready:
    talk.say(hello)
    return talk.hear(Ready)


def _asked(
    talk: _Talk, ready: Ready, checked: bundles.Bundle, names: tuple[str, ...], progress: Progress | None
) -> Done:
    """Sends files and gives the answer."""
    manifest = checked.path / bundles.MANIFEST
    files = {bundles.MANIFEST: bundles.file_entry(manifest)} | {name: checked.manifest.files[name] for name in names}
    _check_ready(talk.host, ready, checked, sum(entry.size_bytes for entry in files.values()))
    talk.say(Parcel(files=files), (manifest, *(checked.path / name for name in names)))
    return talk.hear(Done, progress)


def _check_ready(host: Host, ready: Ready, checked: bundles.Bundle, sent_bytes: int) -> None:
    """Raises CompatibilityError where the other machine can't take the bundle; says everything that stands against."""
    needed_bytes = sent_bytes + SLACK_BYTES
    against = []
    if ready.schema < checked.manifest.schema:
        against.append(
            f"bundle schema: this one has {checked.manifest.schema}, edge_sdk {ready.sdk} there reads up to "
            f"{ready.schema}; update edge_sdk there"
        )
    if ready.free_bytes < needed_bytes:
        against.append(
            f"room in {parcels.plain(ready.folder)}: {needed_bytes / 1e6:.0f} MB are needed, "
            f"{ready.free_bytes / 1e6:.0f} MB are free; free some, or set TMPDIR there"
        )
    against += _against_machine(ready.machine, checked.manifest.precision)
    if against:
        raise errors.CompatibilityError(f"{host.target} can't build this bundle:\n  " + "\n  ".join(against))


def _against_machine(machine: Passport | None, precision: str) -> list[str]:
    """Gives what speaks against building a bundle of that precision for a machine, a field each."""
    if machine is None:
        return []
    against = []
    module = modules.find_module(machine.module)
    if precision == "int8" and module is not None and not module.has_int8:
        against.append(
            f"module: TensorRT has no INT8 for {module.name} ({machine.module}); build the bundle with --precision fp16"
        )
    version = machine.tensorrt
    if version is not None and modules.version_parts(version)[: len(OLDEST)] < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        against.append(f"TensorRT: {version} is there, explicit Q/DQ is built from {oldest} on; update JetPack there")
    return against


def _earlier(checked: bundles.Bundle, ready: Ready) -> tuple[str, ...]:
    """Gives what the bundle holds of an earlier build on that very machine: it makes the next one fast and the same."""
    if ready.machine is None:
        return ()
    token = ready.machine.token()
    wanted = (plans.passport_name(token), plans.timing_name(token))
    return wanted if all(name in checked.manifest.files for name in wanted) else ()


def _check_brought(done: Done) -> None:
    """Raises BundleError when something else than an engine and what belongs to it is to come into the bundle."""
    odd = [name for name in done.files if not _BROUGHT_BACK.fullmatch(name)]
    if odd or done.plan not in done.files or done.report is None:
        raise errors.BundleError(f"the other machine gave {', '.join(odd) or 'no engine'}; nothing was changed")


def _check_passport(checked: bundles.Bundle, done: Done, made: Path, model: str) -> None:
    """Raises BundleError when the engine is not the one of its passport, or of another model."""
    name = done.plan.removesuffix(".plan") + ".json"
    if name not in done.files:
        return
    passport = plans.passport_from_bytes((made / name).read_bytes(), source=name)
    if passport.sha256 != done.files[done.plan].sha256 or passport.model != checked.manifest.files[model].sha256:
        raise errors.BundleError(f"{done.plan} is not the engine of its passport, or of another model; try again")
