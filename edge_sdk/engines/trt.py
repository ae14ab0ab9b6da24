"""TensorRT of a Jetson or a GPU workstation: builds an engine there, and runs it. The only door to it."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorrt as trt
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.engines import cuda, modules, passport, plans, probe
from edge_sdk.engines.network import Network
from edge_sdk.engines.nvidia import BuildOptions, Compiled, Resources, ShapeRange, compile_network
from edge_sdk.engines.protocol import StageTimes, Tensors
from edge_sdk.records import tensors
from edge_sdk.records.passport import SCHEMA, EnginePassport, Passport
from edge_sdk.wire import bundles

WORKSPACE_RATIO = 0.5
"""Of the free memory: on a Jetson the CPU needs the other half, and the model that serves meanwhile."""


class TensorRTBackend:
    """A TensorRT engine on the GPU.

    Before a byte of the engine is read, its passport is compared with this machine; then a child process tries it;
    only then it is loaded here.

    Options:
        root: of the file system, for the board's own facts; ``/``.
        probe: 0 leaves the child process out, for an engine that was tried before.
        probe_timeout_s: how long the child may take.
        graph: 0 keeps from replaying the engine as a CUDA graph.
    """

    def __init__(self, model: Path, options: Mapping[str, str | int]) -> None:
        expected = plans.read_engine_passport(model)
        passport.check_passport(expected, read_here(Path(str(options.get("root", "/")))))
        if options.get("probe", 1):
            timeout_s = int(options.get("probe_timeout_s", probe.TIMEOUT_S))
            probe.check_plan(model, expected, limits=probe.Limits(timeout_s))
        plan = plans.read_plan(model, sha256=expected.sha256, size_bytes=expected.size_bytes)
        use_graph = bool(options.get("graph", 1))
        with contextlib.ExitStack() as undo:
            self._session = cuda.Session()
            undo.callback(self._session.close)
            with self._session:
                self._network = Network(trt, self._session, plan, name=model.name, use_graph=use_graph)
            undo.pop_all()

    def inputs(self) -> tuple[tensors.TensorSpec, ...]:
        """Gives what the engine takes."""
        return self._network.inputs()

    def run(self, feeds: Mapping[str, NDArray[Any]], spent: StageTimes) -> Tensors:
        """Runs once; the outputs are copies, the caller's own. `spent` comes from CUDA events and the host's copies."""
        with self._session:
            return self._network.run(feeds, spent)

    def buffers(self, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
        """Gives the page-locked host side of each input; where host and GPU share memory, the very input."""
        with self._session:
            return self._network.buffers(shapes)

    def close(self) -> None:
        """Gives everything back, from any thread, on a lost device as well."""
        # After a lost device even entering fails; what could not be freed then goes with the process.
        with contextlib.suppress(errors.EngineError), self._session:
            self._network.close()
        self._session.close()


def try_plan(plan: bytes) -> None:
    """Deserialises an engine and runs it once, then drops it; what the probe's child process calls."""
    with contextlib.ExitStack() as undo:
        session = cuda.Session()
        undo.callback(session.close)
        with session:
            Network(trt, session, plan, name="the engine", use_graph=False).close()


def read_here(root: Path = Path("/")) -> Passport:
    """Gives the passport of this machine; raises EngineError when there is no GPU."""
    return passport.read_passport(root, cuda.read_gpu(), tensorrt=str(trt.__version__))


def find_plan(folder: Path, names: Iterable[str]) -> Path:
    """Gives the engine of a bundle that may run here; not a byte of any engine is read. Raises as `plans.find_plan`."""
    return plans.find_plan(folder, names, read_here())


def compile_model(
    model: bytes | Path,
    *,
    shapes: Mapping[str, ShapeRange],
    progress: Callable[[str, int, int], None] | None = None,
    options: BuildOptions | None = None,
    root: Path = Path("/"),
) -> Compiled:
    """Builds `model` for the GPU of this machine, and says in a passport what the engine is tied to.

    Args:
        model: serialised ONNX, or the file of one whose weights lie beside it.
        shapes: for inputs with free axes.
        progress: called as (stage, done, total).
        options: timing cache and accelerator.
        root: of the file system, for the board's own facts.

    Raises:
        UsageError: a DLA is asked for that is not there, or cannot be used; as `compile_network` does besides.
        EngineError: there is no GPU.
    """
    here = read_here(root)
    options = options or BuildOptions()
    _check_dla(here, options.dla_core)
    cache = plans.read_timing_cache(options.timings, here) if options.timings else b""
    with contextlib.closing(cuda.Session()) as session, session:
        resources = Resources(
            workspace_bytes=int(session.free_bytes() * WORKSPACE_RATIO), timing_cache=cache, dla_core=options.dla_core
        )
        compiled = compile_network(
            trt, model, name="tensorrt", target=here.token(), shapes=shapes, progress=progress, resources=resources
        )
    if not compiled.plan:
        return compiled
    made = EnginePassport(
        schema=SCHEMA,
        built_on=here,
        model=bundles.file_entry(model).sha256,
        sha256=hashlib.sha256(compiled.plan).hexdigest(),
        size_bytes=len(compiled.plan),
        dla_core=options.dla_core,
    )
    return compiled._replace(passport=made)


def _check_dla(here: Passport, core: int | None) -> None:
    if core is None:
        return
    if reason := modules.dla_refusal(here.module, tensorrt=str(here.tensorrt), l4t=here.l4t):
        raise errors.UsageError(f"no DLA can be used: {reason}; leave it out, and the engine runs on the GPU")
    if core >= here.dla_cores:
        raise errors.UsageError(f"DLA core {core} was asked for, and this module has {here.dla_cores} (counted from 0)")
