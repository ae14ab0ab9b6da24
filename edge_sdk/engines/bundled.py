"""A verified bundle to a running Engine, in process: no daemon, no queue."""

from pathlib import Path

from edge_sdk.engines import registry
from edge_sdk.engines.engine import Engine
from edge_sdk.wire import bundles

MODELS = {"int8": bundles.INT8_MODEL, "fp16": bundles.FLOAT_MODEL, "float": bundles.FLOAT_MODEL}
"""Which file of a bundle runs, by the precision that the gate decided."""


def open_engine(bundle: str | Path, *, backend: str = "onnxruntime", threads: int = 0) -> Engine:
    """Gives an Engine for a bundle folder, after every byte of it was checked.

    Args:
        bundle: the folder that ``edge-sdk build`` wrote.
        backend: a row of `registry.BACKENDS`, or ``module:Class``.
        threads: for back ends that run on the CPU; 0 leaves the choice to them.

    Raises:
        BundleError: damaged, incomplete, or with files that it does not list.
        UsageError: no such back end here.
        EngineError: the back end could not load the model.

    Example::

        with edge_sdk.open_engine("fashion.edge") as engine:
            logits = engine.infer({"image": pixels})["logits"]
    """
    check_machine(Path(bundle), backend=backend)
    return engine_from_bundle(bundles.read_bundle(Path(bundle)), backend=backend, threads=threads)


def check_machine(bundle: Path, *, backend: str) -> None:
    """Returns when the bundle has what `backend` runs on this machine: compares passports, reads no engine's bytes.

    Raises:
        BundleError: it has no engine for this machine; field by field why, and what to do.
        UsageError: no such back end here.
    """
    registry.find_finished(backend, bundle, bundles.read_manifest(bundle).files)


def engine_from_bundle(checked: bundles.Bundle, *, backend: str = "onnxruntime", threads: int = 0) -> Engine:
    """Gives an Engine for a bundle that was read and checked already; raises as `open_engine` does."""
    finished = registry.find_finished(backend, checked.path, checked.manifest.files)
    model = finished or checked.file(MODELS[checked.manifest.precision])
    return registry.open_backend(backend, model, outputs=checked.manifest.outputs, options={"threads": threads})
