"""The machine that builds an engine for another one's bundle: the far end of ``edge-sdk compile BUNDLE --on HOST``.

It talks over a pair of pipes (see `parcels`), keeps what it gets in a folder of its own, and leaves nothing behind: not
when it is done, not when it refuses, and not when the other side goes away in the middle.
"""

import contextlib
import logging
import select
import shutil
import socket
import tempfile
import threading
import traceback
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edge_sdk import errors
from edge_sdk.engines import bundled, compilers, nvidia, parcels, plans, registry
from edge_sdk.engines.parcels import Done, Hello, Parcel, Ready, Refused, Step
from edge_sdk.records.bundle import SCHEMA
from edge_sdk.wire import bundles

CPU = "onnxruntime"
_LOG = logging.getLogger(__name__)


class Setting(NamedTuple):
    """What this machine brings.

    Attributes:
        sdk: version of edge_sdk.
        memory: folder in which the choice of a bundle's form is kept.
    """

    sdk: str
    memory: Path | None


class _Client(NamedTuple):
    """What the one who asks says, and what he hears."""

    source: BinaryIO
    sink: BinaryIO


class _Folders(NamedTuple):
    """What came, and what goes back."""

    received: Path
    made: Path


def serve(source: BinaryIO, sink: BinaryIO, setting: Setting) -> int:
    """Builds what one client asks for; gives the exit code.

    Args:
        source: what the client says; when it ends before the work does, the work is dropped.
        sink: what the client hears.
        setting: what this machine brings.
    """
    hello = parcels.read_message(source).message
    try:
        if not isinstance(hello, Hello) or hello.protocol != parcels.PROTOCOL:
            raise errors.UsageError(
                f"`edge-sdk compile -` is the far end of `edge-sdk compile BUNDLE --on HOST` and speaks protocol "
                f"{parcels.PROTOCOL} (edge_sdk {setting.sdk}); use it from there, with the same version on both sides"
            )
        machine = None if hello.compiler == CPU else compilers.machine_here(hello.compiler)
        if hello.compiler == CPU:
            registry.backend_version(CPU)
        with tempfile.TemporaryDirectory(prefix="edge-sdk-") as name:
            ready = Ready(
                protocol=parcels.PROTOCOL,
                sdk=setting.sdk,
                schema=SCHEMA,
                free_bytes=shutil.disk_usage(name).free,
                folder=str(Path(name).parent),
                machine=machine,
            )
            parcels.write_message(sink, ready)
            return _served(_Client(source, sink), hello, setting, Path(name))
    except errors.EdgeError as error:
        parcels.write_message(sink, parcels.refusal_from_error(error))
        return error.exit_code
    except OSError as error:
        text = f"the bundle can't be kept there while its engine is built: {error.strerror}"
        parcels.write_message(sink, Refused("EngineError", f"{text}; free some room, or set TMPDIR there"))
        return errors.EngineError.exit_code


def _served(client: _Client, hello: Hello, setting: Setting, folder: Path) -> int:
    parcel = parcels.read_message(client.source).message
    if not isinstance(parcel, Parcel):
        return 0  # it only wanted to know whether this machine can
    folders = _Folders(folder / "bundle", folder / "made")
    for part in folders:
        part.mkdir()
    parcels.read_files(client.source, parcel.files, folders.received)
    answer = _built_while_asked(client, hello, setting, folders)
    if answer is None:
        _LOG.info("the client went away; its bundle is dropped")
        return errors.LinkError.exit_code
    parcels.write_message(client.sink, answer)
    if isinstance(answer, Refused):
        return errors.EngineError.exit_code
    parcels.write_files(client.sink, (folders.made / name for name in answer.files))
    return 0


def _built_while_asked(client: _Client, hello: Hello, setting: Setting, folders: _Folders) -> Done | Refused | None:
    """Builds in a thread while this one listens; None when the client went away, and the thread with the process."""
    near, far = socket.socketpair()
    found: list[Done | Refused] = []

    def work() -> None:
        try:
            found.append(_built(hello, setting, folders, client.sink))
        except errors.EdgeError as error:
            found.append(parcels.refusal_from_error(error))
        except Exception as error:  # noqa: BLE001 # boundary: a fault of ours is told to the one who waits
            traceback.print_exc()
            found.append(Refused("EngineError", f"internal fault there: {type(error).__name__}: {error}"))
        far.send(b".")

    # The socket pair is not closed here: when the client has gone, the thread may still write to it.
    threading.Thread(target=work, daemon=True).start()
    ready, _, _ = select.select([near.fileno(), client.source.fileno()], [], [])
    return found[0] if near.fileno() in ready else None


def _built(hello: Hello, setting: Setting, folders: _Folders, sink: BinaryIO) -> Done:
    if hello.compiler == CPU:
        return _timed(folders.received, setting)

    def progress(stage: str, done: int, total: int) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more; whoever waits for this thread sees it too
            parcels.write_message(sink, Step(stage, done, total))

    model = _checked_model(folders.received)
    options = nvidia.BuildOptions(timings=folders.received, dla_core=hello.dla_core)
    compiled = compilers.compile_model(
        model, name=hello.compiler, shapes=hello.shapes, progress=progress, options=options
    )
    files = plans.files_from_compiled(compiled)
    for name, content in files.items():
        (folders.made / name).write_bytes(content)
    entries = {name: bundles.file_entry(content) for name, content in files.items()}
    return Done(files=entries, plan=plans.plan_name(compiled.target), report=compiled.report)


def _timed(received: Path, setting: Setting) -> Done:
    """Checks and times every form of a whole bundle on this CPU."""
    checked = bundles.read_bundle(received)
    choice = bundled.chosen(checked, backend=CPU, memory=setting.memory)
    with bundled.engine_of_choice(checked, choice, backend=CPU) as engine:
        return Done(engine=engine.name, choice=choice)


def _checked_model(folder: Path) -> bytes | Path:
    """Gives the model of what came of a bundle, whose bytes are those that its manifest lists."""
    manifest = bundles.read_manifest(folder)
    names = bundled.model_names(bundles.Bundle(folder, "", manifest))
    for name in names:
        file = folder / name
        if name not in manifest.files or not file.is_file() or bundles.file_entry(file) != manifest.files[name]:
            raise errors.BundleError(f"{name} is not the file that the manifest lists; send the bundle again")
    return bundled.source_of(folder, names)
