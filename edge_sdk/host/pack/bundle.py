"""Artefacts and figures to the files of a bundle, its manifest and the folder on disk."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_sdk import errors
from edge_sdk.engines.model_file import ModelFile, Serialized
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.pack import golden, page, report
from edge_sdk.records.bundle import SCHEMA, Calibration, Manifest, Name, Preprocess, Version
from edge_sdk.wire import bundles


class Artefacts(NamedTuple):
    """What goes into a bundle.

    Attributes:
        float_model: serialised ONNX, its weights beside it where it is too large for one message.
        int8_model: the same with explicit Q/DQ; None for a float bundle.
        half_model: the float model in FP16; None for the other precisions.
        cpu_model: INT8 for ONNX Runtime's integer kernels; None where there is none that keeps its promises.
        calibration: how the ranges came about.
        golden: arrays of golden.npz.
        report: figures for people and programs.
        preprocess: by input name.
        classes: names of the classes, if known.
        counter: monotonic, as the owner counts.
        sdk: version of edge_sdk.
    """

    float_model: Serialized
    int8_model: bytes | None
    half_model: bytes | None
    cpu_model: bytes | None
    calibration: Calibration
    golden: Tensors
    report: report.Report
    preprocess: Mapping[str, Preprocess]
    classes: tuple[str, ...]
    counter: int
    sdk: str


def check_names(name: str, version: str) -> None:
    """Raises UsageError unless a manifest can hold this name and version."""
    for what, value, kind in (("name", name, Name), ("version", version, Version)):
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise errors.UsageError(f"the {what} {value!r} can't be used: {error}") from error


def check_counter(counter: int) -> None:
    """Raises UsageError unless a manifest can hold this counter."""
    if counter < 0:
        raise errors.UsageError(f"the counter {counter} can't be used: expected 0 or more")


def name_from_file(file: Path) -> str:
    """Gives a name that a manifest can hold.

    >>> name_from_file(Path("My Model.onnx"))
    'my-model'
    """
    return re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._")[:63] or "model"


def preprocess_digest(preprocess: Mapping[str, Preprocess]) -> str:
    """Gives the SHA-256 of the preprocessing rules in their one byte form."""
    return hashlib.sha256(msgspec.json.encode(preprocess, order="sorted")).hexdigest()


def packed(target: Path, artefacts: Artefacts, *, replace: bool) -> bundles.Bundle:
    """Writes the bundle: all of it or nothing; the same artefacts give the same digest.

    Raises:
        UsageError: something that may not be replaced is at `target`.
    """
    files: dict[str, bytes | Path] = {
        **_float_files(artefacts.float_model),
        bundles.CALIBRATION: bundles.canonical_bytes(artefacts.calibration),
        bundles.GOLDEN: golden.npz_bytes(artefacts.golden),
        bundles.REPORT_JSON: report.report_bytes(artefacts.report),
        bundles.REPORT_HTML: page.page_bytes(artefacts.report),
    }
    if artefacts.int8_model is not None:
        files[bundles.INT8_MODEL] = artefacts.int8_model
    if artefacts.half_model is not None:
        files[bundles.HALF_MODEL] = artefacts.half_model
    if artefacts.cpu_model is not None:
        files[bundles.CPU_MODEL] = artefacts.cpu_model
    entries = {name: bundles.file_entry(content) for name, content in files.items()}
    manifest = Manifest(
        schema=SCHEMA,
        name=artefacts.report.name,
        version=artefacts.report.version,
        counter=artefacts.counter,
        sdk=artefacts.sdk,
        precision=artefacts.report.precision,
        inputs=artefacts.report.inputs,
        outputs=artefacts.report.outputs,
        preprocess=dict(artefacts.preprocess),
        classes=artefacts.classes,
        calibration=entries[bundles.CALIBRATION].sha256,
        verdict=artefacts.report.verdict,
        files=entries,
    )
    return bundles.write_bundle(target, manifest, files, replace=replace)


def _float_files(model: Serialized) -> dict[str, bytes | Path]:
    if isinstance(model, ModelFile):
        return {bundles.FLOAT_MODEL: model.path, model.weights.name: model.weights}
    return {bundles.FLOAT_MODEL: model}
