"""Finishes a bundle on the machine that will run it: the plan goes into the bundle, listed in its manifest."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_sdk import errors
from edge_sdk.engines import bundled, compilers, nvidia, plans
from edge_sdk.engines.nvidia import ShapeRange
from edge_sdk.records.bundle import CompilerReport
from edge_sdk.wire import bundles


class Finished(NamedTuple):
    """The bundle with its new engine, and what the compiler said."""

    bundle: bundles.Bundle
    plan: str
    report: CompilerReport


def compile_bundle(
    path: Path,
    *,
    compiler: str,
    shapes: Mapping[str, ShapeRange] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    dla_core: int | None = None,
) -> Finished:
    """Builds the bundle's engine with one of NVIDIA's compilers and adds it as ``engine.<target>.plan``.

    An engine of TensorRT brings its passport and its timing cache with it; the cache of an earlier build is used.

    The manifest lists every file, so it is written anew and the bundle's digest changes; until the new folder is
    whole, the old one stays as it is.

    Raises:
        BundleError: the bundle does not hold, or it is signed: adding a file would void the signature.
        UsageError: no such compiler here.
        EngineError: the compiler refused the model, in its own words.
    """
    checked = bundles.read_bundle(path)
    check_unsigned(checked)
    model = bundled.source_of(path, bundled.model_names(checked))
    options = nvidia.BuildOptions(timings=path, dla_core=dla_core)
    compiled = compilers.compile_model(model, name=compiler, shapes=shapes, progress=progress, options=options)
    grown = with_files(checked, plans.files_from_compiled(compiled))
    return Finished(grown, plans.plan_name(compiled.target), compiled.report)


def check_unsigned(checked: bundles.Bundle) -> None:
    """Raises BundleError for a signed bundle, to which nothing can be added."""
    if (checked.path / bundles.SIGNATURE).exists():
        raise errors.BundleError(
            f"{checked.path} is signed; an engine can only be added before signing, so compile it first, or let a "
            "daemon with a state folder build its own beside it"
        )


def with_files(checked: bundles.Bundle, made: Mapping[str, bytes | Path]) -> bundles.Bundle:
    """Gives the bundle with more files, its manifest and digest anew; all of it or nothing.

    Raises:
        BundleError: the bundle was changed since it was read.
        UsageError: the disk is full.
    """
    if bundles.read_bundle(checked.path).digest != checked.digest:
        raise errors.BundleError(f"{checked.path} was changed while its engine was built; compile it again")
    files = {name: checked.path / name for name in checked.manifest.files} | dict(made)
    entries = {name: bundles.file_entry(made[name]) for name in made}
    manifest = msgspec.structs.replace(checked.manifest, files={**checked.manifest.files, **entries})
    return bundles.write_bundle(checked.path, manifest, files, replace=True)
