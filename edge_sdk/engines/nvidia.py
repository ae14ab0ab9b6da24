"""Builds an engine from a Q/DQ ONNX with any of NVIDIA's compilers: TensorRT 8.6 to 11, and TensorRT for RTX.

They share one Python API, so the module is a parameter. Building with TensorRT for RTX needs no GPU: it is the
check on every workstation and in CI that NVIDIA's parser and compiler take the graph. Its engines do not run on a
Jetson; there the same code builds with the board's own ``tensorrt``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from edge_sdk import clock, errors
from edge_sdk.records.bundle import CompilerReport
from edge_sdk.records.passport import EnginePassport

ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, usual and largest shape of one input."""

BATCH = (1, 8, 32)
"""Smallest, usual and largest batch of an input whose first axis is free, unless the caller says otherwise."""

_MESSAGES_MAX = 50


class Compiled(NamedTuple):
    """What the compiler made and said; `plan` is empty when it refused.

    Attributes:
        report: goes into `build --json` and report.json.
        plan: the serialised engine.
        target: what the plan is tied to, as used in ``engine.<target>.plan``.
        passport: what a TensorRT engine is tied to, field by field; None for other compilers.
        timing_cache: what the compiler measured; makes the next build on such a machine fast and the same.
    """

    report: CompilerReport
    plan: bytes
    target: str
    passport: EnginePassport | None = None
    timing_cache: bytes = b""


class BuildOptions(NamedTuple):
    """What a person may ask of a build on the target.

    Attributes:
        timings: folder with the timing cache of an earlier build; used if its passport is this machine's.
        dla_core: deep learning accelerator to use, with the GPU for what it cannot do; None is the GPU alone.
    """

    timings: Path | None = None
    dla_core: int | None = None


class Resources(NamedTuple):
    """What a build may use.

    Attributes:
        workspace_bytes: scratch memory of the engine's kernels at most; None leaves it to the compiler.
        timing_cache: of an earlier build on the same kind of machine; None keeps no cache.
        dla_core: deep learning accelerator to use, with the GPU for what it cannot do; None is the GPU alone.
    """

    workspace_bytes: int | None = None
    timing_cache: bytes | None = None
    dla_core: int | None = None


def compile_network(
    trt: ModuleType,
    model: bytes | Path,
    *,
    name: str,
    target: str,
    shapes: Mapping[str, ShapeRange],
    progress: Callable[[str, int, int], None] | None,
    resources: Resources | None = None,
) -> Compiled:
    """Parses and builds `model`; a refusal is an answer (`report.ok` False), not an exception.

    Args:
        trt: the imported ``tensorrt`` or ``tensorrt_rtx_bindings``.
        model: serialised ONNX, or the file of one whose weights lie beside it.
        name: of the compiler, for the report.
        target: what the plan will be tied to.
        shapes: for inputs with free axes beyond the batch.
        progress: called as (stage, done, total).
        resources: what the build may use; None leaves it to the compiler.

    Raises:
        UsageError: an input has a free axis beyond the batch and `shapes` does not say how far it goes.
    """
    ticks = clock.SystemClock()
    started_ns = ticks.tick_ns()
    logger = logger_class(trt)()
    builder = trt.Builder(logger)
    resources = resources or Resources()
    is_typed = _is_strongly_typed(trt, resources)
    network = builder.create_network(_network_flags(trt, is_typed=is_typed))
    parser = trt.OnnxParser(network, logger)
    plan = timing_cache = b""
    is_parsed = parser.parse_from_file(str(model)) if isinstance(model, Path) else parser.parse(model)
    if is_parsed:
        config = builder.create_builder_config()
        if not is_typed:
            _set_precision(trt, config)
        cache = _set_resources(trt, config, resources, logger)
        _add_profile(builder, config, network, shapes)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        # Lets 2:4 weights use sparse tensor cores (Orin and later); the builder looks for the pattern itself.
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        if progress is not None and hasattr(trt, "IProgressMonitor"):
            # Kept in a local: the config holds only a borrowed reference.
            monitor = _monitor_class(trt)(progress)
            config.progress_monitor = monitor
        serialised = builder.build_serialized_network(network, config)
        plan = b"" if serialised is None else bytes(serialised)
        timing_cache = b"" if cache is None else bytes(cache.serialize())
    else:
        logger.messages[:0] = [_parser_error_text(parser.get_error(i)) for i in range(parser.num_errors)]
    report = CompilerReport(
        name=name,
        version=str(trt.__version__),
        ok=bool(plan),
        engine_bytes=len(plan),
        seconds=round((ticks.tick_ns() - started_ns) / 1e9, 3),
        messages=tuple(dict.fromkeys(logger.messages))[:_MESSAGES_MAX],
    )
    return Compiled(report, plan, target, timing_cache=timing_cache)


def _is_strongly_typed(trt: ModuleType, resources: Resources) -> bool:
    """From 10 on the graph's own types decide. Up to 10.7 the DLA is driven by flags, so not for it."""
    flags = trt.NetworkDefinitionCreationFlag
    return hasattr(flags, "STRONGLY_TYPED") and (resources.dla_core is None or not hasattr(trt.BuilderFlag, "INT8"))


def _network_flags(trt: ModuleType, *, is_typed: bool) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    names = ["EXPLICIT_BATCH"] if hasattr(flags, "EXPLICIT_BATCH") else []  # 8.x needs it, 11 and RTX lack it
    return sum(1 << int(getattr(flags, name)) for name in (*names, *(["STRONGLY_TYPED"] if is_typed else [])))


def _set_precision(trt: ModuleType, config: Any) -> None:
    """Lets a network that is not strongly typed use the kernels that Q/DQ asks for."""
    for flag in ("INT8", "FP16"):
        config.set_flag(getattr(trt.BuilderFlag, flag))


def _set_resources(trt: ModuleType, config: Any, resources: Resources, logger: Any) -> Any:
    """Sets workspace, accelerator and timing cache; gives the cache, which fills while building, or None."""
    if resources.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, resources.workspace_bytes)
    if resources.dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = resources.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if resources.timing_cache is None:
        return None
    cache = config.create_timing_cache(resources.timing_cache)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return cache
    logger.messages.append("the timing cache is of another machine or version; it was discarded")
    cache = config.create_timing_cache(b"")
    return cache if config.set_timing_cache(cache, ignore_mismatch=False) else None


def _add_profile(builder: Any, config: Any, network: Any, shapes: Mapping[str, ShapeRange]) -> None:
    profile = builder.create_optimization_profile()
    is_needed = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        axes = tuple(tensor.shape)
        if -1 not in axes:
            continue
        is_needed = True
        if tensor.name not in shapes and -1 in axes[1:]:
            raise errors.UsageError(free_axes_text(tensor.name, axes))
        low, usual, high = shapes.get(tensor.name) or tuple((batch, *axes[1:]) for batch in BATCH)
        profile.set_shape(tensor.name, low, usual, high)
    if is_needed:
        config.add_optimization_profile(profile)


def free_axes_text(name: str, axes: Sequence[int]) -> str:
    """Asks for the range of an input; its free axes are -1."""
    return (
        f"input {name!r} has free axes beyond the batch, {list(axes)}; say how far they go, "
        f"for example --shape {name}=1x3x320x320:1x3x640x640:4x3x640x640"
    )


def _parser_error_text(error: Any) -> str:
    node = error.node_name() if hasattr(error, "node_name") else ""
    return f"{node}: {error.desc()}" if node else str(error.desc())


def logger_class(trt: ModuleType) -> Any:
    """Gives a logger class for `trt` that keeps warnings and errors in `messages`."""

    class Collector(trt.ILogger):  # type: ignore[misc, name-defined]  # the base exists only once TensorRT is imported
        """Keeps the compiler's warnings and errors for the report."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Takes one message; called by the compiler."""
            if severity <= trt.ILogger.Severity.WARNING:
                self.messages.append(message.strip())

    return Collector


def _monitor_class(trt: ModuleType) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # as above
        """Hands the compiler's steps to a progress callback."""

        def __init__(self, progress: Callable[[str, int, int], None]) -> None:
            trt.IProgressMonitor.__init__(self)
            self._progress = progress
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Begins a phase."""
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Counts a step; True lets the build go on."""
            if phase_name in self._steps:
                self._progress("compile", step + 1, self._steps[phase_name] + 1)
            return True

        def phase_finish(self, phase_name: str) -> None:
            """Ends a phase."""
            if steps := self._steps.pop(phase_name, 0):
                self._progress("compile", steps + 1, steps + 1)

    return Monitor
