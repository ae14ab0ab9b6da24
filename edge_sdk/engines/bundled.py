"""A verified bundle to a running Engine, in process: no daemon, no queue."""

from pathlib import Path

from edge_sdk import errors
from edge_sdk.engines import own_engines, registry, variants
from edge_sdk.engines.engine import Engine
from edge_sdk.engines.model_file import WEIGHTS_SUFFIX
from edge_sdk.engines.remembered import Choice
from edge_sdk.wire import bundles

MODELS = {"int8": bundles.INT8_MODEL, "fp16": bundles.HALF_MODEL, "float": bundles.FLOAT_MODEL}
"""Which file of a bundle runs, by the precision that the gate decided."""


def model_names(checked: bundles.Bundle) -> tuple[str, ...]:
    """Gives the files that a compiler takes of a bundle: the model, and its weights where they lie beside it."""
    name = MODELS[checked.manifest.precision]
    weights = f"{name}{WEIGHTS_SUFFIX}"
    return (name, weights) if weights in checked.manifest.files else (name,)


def source_of(folder: Path, names: tuple[str, ...]) -> bytes | Path:
    """Gives the model among `model_names` as compilers take it."""
    return (folder / names[0]).read_bytes() if len(names) == 1 else folder / names[0]


def open_engine(
    bundle: str | Path,
    *,
    backend: str = "onnxruntime",
    threads: int = 0,
    variant: str = variants.AUTO,
    memory: str | Path | None = None,
) -> Engine:
    """Gives an Engine for a bundle folder, after every byte of it was checked.

    On a CPU an INT8 bundle has up to three forms, and by default the fastest runs that answers the bundle's golden
    samples within its tolerance (see `variants`); that takes some tenths of a second. The Engine's name says which,
    for example ``onnxruntime:lowered``.

    Args:
        bundle: the folder that ``edge-sdk build`` wrote.
        backend: a row of `registry.BACKENDS`, or ``module:Class``.
        threads: for back ends that run on the CPU; 0 takes, for an INT8 bundle, one or every core, whichever is faster
            here; every core only where that gains a fifth, since they stay awake between the runs.
        variant: ``int8``, ``lowered``, ``float``, or ``auto``; the bundle's own precision is the model that the
            gate judged.
        memory: folder in which the choice is kept for the next time; None measures each time.

    Raises:
        BundleError: damaged, incomplete, or with files that it does not list.
        UsageError: no such back end here, or the bundle has no such variant.
        EngineError: the back end could not load the model, or gives other answers than the golden samples.

    Example::

        with edge_sdk.open_engine("fashion.edge") as engine:
            logits = engine.infer({"image": pixels})["logits"]
    """
    check_machine(Path(bundle), backend=backend)
    checked = bundles.read_bundle(Path(bundle))
    kept = None if memory is None else Path(memory)
    return engine_from_bundle(checked, backend=backend, threads=threads, variant=variant, memory=kept)


def check_machine(bundle: Path, *, backend: str, engines: Path | None = None) -> None:
    """Returns when the bundle has what `backend` runs on this machine: compares passports, reads no engine's bytes.

    Args:
        bundle: its folder.
        backend: as in `open_engine`.
        engines: folder of the engines that this device built for itself.

    Raises:
        BundleError: it has no engine for this machine; field by field why, and what to do.
        UsageError: no such back end here.
    """
    own_engines.find(bundle, backend=backend, root=engines)


def engine_from_bundle(
    checked: bundles.Bundle,
    *,
    backend: str = "onnxruntime",
    threads: int = 0,
    variant: str = variants.AUTO,
    memory: Path | None = None,
) -> Engine:
    """Gives an Engine for a bundle that was read and checked already; see `open_engine`."""
    choice = chosen(checked, backend=backend, threads=threads, variant=variant, memory=memory, is_alone=True)
    return engine_of_choice(checked, choice, backend=backend, threads=threads)


def chosen(
    checked: bundles.Bundle,
    *,
    backend: str = "onnxruntime",
    threads: int = 0,
    variant: str = variants.AUTO,
    memory: Path | None = None,
    is_alone: bool = False,
) -> Choice | None:
    """Gives the form of a bundle that runs; None where there is nothing to choose. See `open_engine`.

    `is_alone` says that whoever asks the engine is in this process.
    """
    precision = checked.manifest.precision
    if registry.can_choose(backend) and precision == "int8":
        return variants.choose(
            checked, backend=backend, threads=threads, variant=variant, memory=memory, is_alone=is_alone
        )
    if variant in (variants.AUTO, precision):
        return None
    variants.check_variant(variant)
    what = f"{backend} runs" if precision == "int8" else f"a bundle in {precision} has"
    raise errors.UsageError(f"{what} one form of a model only, and not {variant!r}; leave the variant out")


def engine_of_choice(
    checked: bundles.Bundle,
    choice: Choice | None,
    *,
    backend: str = "onnxruntime",
    threads: int = 0,
    engines: Path | None = None,
) -> Engine:
    """Gives another Engine of what `chosen` gave; `engines` is as in `check_machine`."""
    options: dict[str, str | int] = {"threads": threads}
    if choice is not None and not threads:
        options = {"threads": choice.threads, "awake": int(choice.is_awake)}
    label = "" if choice is None else f"{backend}:{choice.variant}"
    model = model_of_choice(checked, choice, backend=backend, engines=engines)
    outputs = checked.manifest.outputs
    return registry.open_backend(backend, model, outputs=outputs, options=options, label=label)


def model_of_choice(
    checked: bundles.Bundle, choice: Choice | None, *, backend: str = "onnxruntime", engines: Path | None = None
) -> Path:
    """Gives the file that the back end loads; raises as `open_engine` does."""
    if choice is not None:
        return checked.file(variants.FILES[choice.variant])
    finished = own_engines.find(checked.path, backend=backend, root=engines)
    return finished or checked.file(MODELS[checked.manifest.precision])
