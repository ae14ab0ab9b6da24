"""Builds an engine from a Q/DQ ONNX with any of NVIDIA's compilers: TensorRT 8.6 to 11, and TensorRT for RTX.

They share one Python API, so the module is a parameter. Building with TensorRT for RTX needs no GPU: it is the
check on every workstation and in CI that NVIDIA's parser and compiler take the graph. Its engines do not run on a
Jetson; there the same code builds with the board's own ``tensorrt``.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from edge_sdk import clock, errors
from edge_sdk.records.bundle import CompilerReport

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
    """

    report: CompilerReport
    plan: bytes
    target: str


def compile_network(
    trt: ModuleType,
    model: bytes,
    *,
    name: str,
    target: str,
    shapes: Mapping[str, ShapeRange],
    progress: Callable[[str, int, int], None] | None,
) -> Compiled:
    """Parses and builds `model`; a refusal is an answer (`report.ok` False), not an exception.

    Args:
        trt: the imported ``tensorrt`` or ``tensorrt_rtx_bindings``.
        model: serialised ONNX.
        name: of the compiler, for the report.
        target: what the plan will be tied to.
        shapes: for inputs with free axes beyond the batch.
        progress: called as (stage, done, total).

    Raises:
        UsageError: an input has a free axis beyond the batch and `shapes` does not say how far it goes.
    """
    ticks = clock.SystemClock()
    started_ns = ticks.tick_ns()
    logger = _logger_class(trt)()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    plan = b""
    if parser.parse(model):
        config = builder.create_builder_config()
        _set_precision(trt, config)
        _add_profile(builder, config, network, shapes)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if progress is not None and hasattr(trt, "IProgressMonitor"):
            # Kept in a local: the config holds only a borrowed reference.
            monitor = _monitor_class(trt)(progress)
            config.progress_monitor = monitor
        serialised = builder.build_serialized_network(network, config)
        plan = b"" if serialised is None else bytes(serialised)
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
    return Compiled(report, plan, target)


def _network_flags(trt: ModuleType) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    bits = 0
    for flag in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):  # 8.x knows the first, 10 both, 11 and RTX only the second
        if hasattr(flags, flag):
            bits |= 1 << int(getattr(flags, flag))
    return bits


def _set_precision(trt: ModuleType, config: Any) -> None:
    """Lets TensorRT before 10, which has no strongly typed networks, use the kernels that Q/DQ asks for."""
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    for flag in ("INT8", "FP16"):
        config.set_flag(getattr(trt.BuilderFlag, flag))


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
            raise errors.UsageError(
                f"input {tensor.name!r} has free axes beyond the batch, {list(axes)}; say how far they go, "
                f"for example --shape {tensor.name}=1x3x320x320:1x3x640x640:4x3x640x640"
            )
        low, usual, high = shapes.get(tensor.name) or tuple((batch, *axes[1:]) for batch in BATCH)
        profile.set_shape(tensor.name, low, usual, high)
    if is_needed:
        config.add_optimization_profile(profile)


def _parser_error_text(error: Any) -> str:
    node = error.node_name() if hasattr(error, "node_name") else ""
    return f"{node}: {error.desc()}" if node else str(error.desc())


def _logger_class(trt: ModuleType) -> Any:
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
