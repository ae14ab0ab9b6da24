"""Engines that a device built for itself. They lie outside the bundle, so that a signed one stays as it was signed.

A folder of the device's own holds one folder per bundle, named by the bundle's digest: an engine can only be taken for
the very bundle that it was built from. What is in it is compared with this machine as an engine of the bundle's own is.
"""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from edge_sdk import errors
from edge_sdk.engines import registry
from edge_sdk.wire import bundles

_DIGITS = 64
"""Of a bundle's digest; other names there are of a build that runs."""


def folder_of(root: Path, bundle: Path) -> Path:
    """Gives where the engines of a bundle lie, or are to lie, below `root`.

    Raises:
        BundleError: there is no manifest.
    """
    try:
        digest = hashlib.sha256((bundle / bundles.MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise errors.BundleError(f"{bundle} is no bundle: {error.strerror}") from error
    return root / digest


def find(bundle: Path, *, backend: str, root: Path | None) -> Path | None:
    """Gives the engine that `backend` runs here: the bundle's, else the device's own; None where it runs the ONNX.

    No engine's bytes are read.

    Raises:
        BundleError: neither has one for this machine; the message compares what the bundle has field by field.
        UsageError: no such back end here.
    """
    try:
        return registry.find_finished(backend, bundle, bundles.read_manifest(bundle).files)
    except errors.BundleError:
        own = None if root is None else folder_of(root, bundle)
        if own is None or not own.is_dir():
            raise
        return registry.find_finished(backend, own, [file.name for file in own.iterdir()])


def forget_all_but(root: Path, kept: Iterable[Path]) -> None:
    """Removes the engines of all bundles that are not among `kept`; one that loads its engine right now has read it."""
    names = {folder_of(root, bundle).name for bundle in kept}
    for folder in root.iterdir():
        if len(folder.name) == _DIGITS and folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
