"""Builds a bundle's engine on the device that will run it, in a process of its own, beside the bundle.

The compiler takes gigabytes and minutes, and may crash: none of that is the daemon's, which serves meanwhile.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import msgspec

from edge_sdk import errors
from edge_sdk.engines import bundled, child, compilers, nvidia, own_engines, plans
from edge_sdk.engines.child import Progress
from edge_sdk.wire import bundles

_PREFIX = ".building-"
_NICER = 10
"""The model that is served goes first."""
_LAST_WORDS = 1000


class _Answer(msgspec.Struct, frozen=True, tag="answer"):
    """How it ended; `refusal` is empty when the engine is there."""

    refusal: str = ""


class Builder:
    """Builds one engine at a time; `stop` ends the one that is being built, from any thread.

    Args:
        root: the device's folder of own engines.
        compiler: a row of `compilers.COMPILERS`.
        limit_s: seconds that its process may take for one engine; then it is ended.
    """

    def __init__(self, root: Path, *, compiler: str, limit_s: float = 3600.0) -> None:
        self._root = root
        self._limit_s = limit_s
        self._compiler = compiler
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def build(self, bundle: Path, progress: Progress) -> None:
        """Builds the engine of a bundle for this machine and puts it in place, whole or not at all.

        Raises:
            BundleError: the bundle does not hold.
            EngineError: the compiler refused, crashed, or was stopped; with its last words. Or the disk takes nothing.
        """
        target = own_engines.folder_of(self._root, bundle)
        try:
            self._build(bundle, target, progress)
        except OSError as error:
            raise errors.EngineError(
                f"the engine of {bundle} can't be kept in {self._root}: {error.strerror or error}"
            ) from error

    def stop(self) -> None:
        """Ends the build that runs, and begins no other."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def _build(self, bundle: Path, target: Path, progress: Progress) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        for left in self._root.glob(f"{_PREFIX}*"):  # of a build that was cut off
            shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._root))
        try:
            self._run(bundle, staging, target, progress)
            if target.exists():
                shutil.rmtree(target)
            staging.rename(target)
            bundles.sync_folder(self._root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _run(self, bundle: Path, staging: Path, earlier: Path, progress: Progress) -> None:
        request = json.dumps([str(bundle), str(staging), str(earlier), self._compiler])
        with tempfile.TemporaryFile() as words:
            with self._lock:
                if self._is_stopped:
                    raise errors.EngineError(f"the engine of {bundle} is not built: the daemon is stopping")
                process = self._process = subprocess.Popen(
                    child.command("building", request),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=words,
                )
            deadline = threading.Timer(self._limit_s, process.kill)
            deadline.daemon = True
            deadline.start()
            try:
                answer = child.read_answer(process, _Answer, progress)
            finally:
                is_late = not deadline.is_alive()
                deadline.cancel()
                process.kill()
                process.communicate()
                with self._lock:
                    self._process = None
            words.seek(0)
            spoken = words.read()[-_LAST_WORDS:].decode(errors="replace").strip()
        if answer is None and is_late:
            raise errors.EngineError(
                f"no engine of {bundle} was built within {self._limit_s:g} s, so the compiler's process was ended; "
                "raise build_limit_s in device.toml if it needs longer"
            )
        if answer is None:
            raise errors.EngineError(
                f"the compiler's process ended with code {process.returncode} on {bundle}, without an answer: {spoken}"
            )
        if answer.refusal:
            raise errors.EngineError(f"no engine of {bundle} can be built here: {answer.refusal}")


def main(request: str) -> None:
    """The child: builds, and writes steps and answer, a line each, to stdout."""
    lines = child.take_lines()
    bundle, staging, earlier, compiler = json.loads(request)
    with contextlib.suppress(OSError):
        os.nice(_NICER)

    def progress(stage: str, done: int, total: int) -> None:
        child.write(lines, child.Step(stage, done, total))

    try:
        checked = bundles.read_bundle(Path(bundle))
        model = bundled.source_of(checked.path, bundled.model_names(checked))
        options = nvidia.BuildOptions(timings=Path(earlier))
        compiled = compilers.compile_model(model, name=compiler, progress=progress, options=options)
        for name, content in plans.files_from_compiled(compiled).items():
            _write_synced(Path(staging) / name, content)
        answer = _Answer()
    except (errors.EdgeError, OSError) as error:
        answer = _Answer(str(error))
    child.write(lines, answer)


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
