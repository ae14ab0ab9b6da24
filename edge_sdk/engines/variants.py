"""An INT8 bundle on a CPU: which of its models answers rightly here, and is the fastest.

A bundle may hold the same network in three forms:

- ``int8``: as TensorRT compiles it. On most CPUs ONNX Runtime runs it as float kernels between conversions.
- ``lowered``: the same for ONNX Runtime's integer kernels, which also round what a layer gives.
- ``float``: before quantisation; the fastest where integer kernels gain nothing, as on depthwise convolutions.

All of them passed the gate on the host. What numbers a caller may get is bounded by the bundle's golden samples:
``int8`` is as near to INT8's golden answers as INT8 is to float there (the tolerance in golden.npz), since another CPU
rounds at other places; ``lowered`` at most twice as far, since it rounds about twice as often; ``float`` equals the
float answers to a thousandth of the largest. A form that misses is not run here.
"""

import contextlib
import os
import statistics
from collections.abc import Mapping
from pathlib import Path

from edge_sdk import clock, errors, imports
from edge_sdk.engines import golden, registry, remembered
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.golden import Golden
from edge_sdk.engines.remembered import Choice, Key
from edge_sdk.wire import bundles

AUTO = "auto"
FILES = {"int8": bundles.INT8_MODEL, "lowered": bundles.CPU_MODEL, "float": bundles.FLOAT_MODEL}
"""The forms, the one with the bundle's own numbers first."""

LOWERED_FACTOR = 2.0
"""Times INT8's tolerance that the lowered form may be off."""

GAIN = 1.1
"""A form must be faster than those before it in FILES by this much: less is within what a busy machine makes up."""

CHECK_NS = 100_000_000
"""Golden samples are run through each form for this long; one at least, all of them if they fit."""

BUDGET_NS = 30_000_000
"""For a comparison, one run of each engine in turn, so that a busy moment meets all of them.

A device waits this long twice at its first start with a bundle. Small nets run twenty times or more in it, of large
ones each runs as often as _ROUNDS has it, whatever that takes.
"""

AWAKE_GAIN = 1.2
"""All cores, kept awake between the runs, must be faster than one by this much: they take the power of all."""

_ROUNDS = (3, 200)


def check_variant(variant: str) -> None:
    """Raises UsageError unless `variant` is one that a caller may ask for."""
    if variant != AUTO and variant not in FILES:
        raise errors.UsageError(
            f"no variant {variant!r}{imports.nearest(variant, (AUTO, *FILES))}; known: {', '.join((AUTO, *FILES))}"
        )


def choose(
    checked: bundles.Bundle,
    *,
    backend: str,
    threads: int = 0,
    variant: str = AUTO,
    is_alone: bool = False,
    memory: Path | None = None,
    ticks: clock.Clock | None = None,
) -> Choice:
    """Gives the form of an INT8 bundle that runs here.

    Args:
        checked: the bundle.
        backend: that runs it, a row of `registry.BACKENDS` that runs ONNX on the CPU.
        threads: per engine; 0 leaves the choice to the back end.
        variant: a key of FILES to ask for it by name, or ``auto`` for the fastest.
        is_alone: whoever asks is in this process, and waits meanwhile: then the other cores may wait awake for the next
            run. A client in another process would want them for itself.
        memory: folder in which the measurement is kept for the next time; None measures anew.
        ticks: the clock.

    Raises:
        UsageError: the bundle does not hold the form that was asked for.
        EngineError: the form that was asked for, or every one, is off the golden answers, or can't be run.
    """
    check_variant(variant)
    held = {name: checked.path / file for name, file in FILES.items() if file in checked.manifest.files}
    if variant != AUTO and variant not in held:
        raise errors.UsageError(
            f"{checked.path} holds no {FILES[variant]}; ask for {', '.join(held)} or auto, or build it again"
        )
    wanted = held if variant == AUTO else {variant: held[variant]}
    if bundles.GOLDEN not in checked.manifest.files:
        # Without golden answers nothing can be checked: the form that the gate judged, or the one asked for.
        return Choice(next(iter(wanted)), refused=dict.fromkeys(list(wanted)[1:], "the bundle has no golden samples"))
    key = _key(checked, backend, threads, is_alone=is_alone)
    if variant == AUTO and memory is not None and (known := remembered.recall(memory, key)) and known.variant in held:
        return known
    choice = _measured(
        checked, wanted, backend=backend, threads=threads, is_alone=is_alone, ticks=ticks or clock.SystemClock()
    )
    if variant == AUTO and memory is not None:
        remembered.keep(memory, key, choice)
    return choice


def recalled(checked: bundles.Bundle, *, backend: str, threads: int = 0, memory: Path) -> Choice | None:
    """Gives what was measured here earlier, without measuring; None if nothing was."""
    return remembered.recall(memory, _key(checked, backend, threads))


def _key(checked: bundles.Bundle, backend: str, threads: int, *, is_alone: bool = False) -> Key:
    software = f"{backend} {registry.backend_version(backend)}"
    cores = len(os.sched_getaffinity(0))
    return Key(checked.digest, remembered.cpu_name(), cores, software, threads, is_alone)


def _measured(
    checked: bundles.Bundle,
    wanted: Mapping[str, Path],
    *,
    backend: str,
    threads: int,
    is_alone: bool,
    ticks: clock.Clock,
) -> Choice:
    known = golden.read_golden(checked.file(bundles.GOLDEN))
    refused: dict[str, str] = {}
    with contextlib.ExitStack() as opened:
        engines: dict[str, Engine] = {}
        for name, file in wanted.items():
            try:
                engine = registry.open_backend(backend, file, options={"threads": threads})
                opened.callback(engine.close)
                reason = _fault(engine, known, name, ticks)
            except (errors.EngineError, errors.ModelError) as error:
                reason = str(error)
            if reason:
                refused[name] = reason
            else:
                engines[name] = engine
        if not engines:
            listed = "\n  ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise errors.EngineError(
                f"{checked.path} gives other answers here than its golden samples say:\n  {listed}\n"
                "use another version of the back end, or build the bundle on such a machine"
            )
        spent_ns = _timed(engines, known, ticks) if len(engines) > 1 else {}
        best_ns = {name: min(found) for name, found in spent_ns.items()}
        variant = _fastest(best_ns) if best_ns else next(iter(engines))
        if threads or not best_ns:
            return Choice(variant, best_ns, refused, threads=threads)
        one = registry.open_backend(backend, wanted[variant], options={"threads": 1})
        opened.callback(one.close)
        everyone = engines[variant]
        if is_alone:
            everyone = registry.open_backend(backend, wanted[variant], options={"awake": 1})
            opened.callback(everyone.close)
        count = _fewest_threads(everyone, one, known, ticks, gain=AWAKE_GAIN if is_alone else 1.0)
        return Choice(variant, best_ns, refused, threads=count, is_awake=is_alone and not count)


def _fault(engine: Engine, known: Golden, variant: str, ticks: clock.Clock) -> str:
    """Gives in words what is wrong with an engine's answers to the golden samples; an empty text if they hold."""
    precision = "float" if variant == "float" else "int8"
    if precision not in known.answers:
        return f"golden.npz has no {precision} answers"
    factor = LOWERED_FACTOR if variant == "lowered" else 1.0
    started_ns = ticks.tick_ns()
    for index, feeds in enumerate(known.feeds):
        words = golden.excess(known, engine.infer(feeds), index, precision=precision, factor=factor)
        if words:
            return f"golden sample {index}: {words}"
        if ticks.tick_ns() - started_ns > CHECK_NS:
            break
    return ""


def _fewest_threads(everyone: Engine, one: Engine, known: Golden, ticks: clock.Clock, *, gain: float) -> int:
    """Gives 1 unless all threads are faster by `gain`: waking the others costs a small network more than it gains.

    The usual run decides, not the best one, in which the others happened to be awake.
    """
    spent_ns = _timed({"all": everyone, "one": one}, known, ticks)
    return 1 if statistics.median(spent_ns["one"]) <= gain * statistics.median(spent_ns["all"]) else 0


def _timed(engines: Mapping[str, Engine], known: Golden, ticks: clock.Clock) -> dict[str, list[int]]:
    """Gives the runs of each engine."""
    spent_ns: dict[str, list[int]] = {name: [] for name in engines}
    started_ns = ticks.tick_ns()
    for index in range(_ROUNDS[1]):
        feeds = known.feeds[index % len(known.feeds)]
        for name, engine in engines.items():
            spent_ns[name].append(engine.run(feeds).timings.compute_ns)
        if index + 1 >= _ROUNDS[0] and ticks.tick_ns() - started_ns > BUDGET_NS:
            break
    return spent_ns


def _fastest(best_ns: Mapping[str, int]) -> str:
    """Gives the first in the order of FILES that nothing beats by more than GAIN."""
    fastest_ns = min(best_ns.values())
    return next(name for name in FILES if name in best_ns and best_ns[name] <= fastest_ns * GAIN)
