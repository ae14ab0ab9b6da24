"""The bundle on disk: a flat folder whose manifest lists every file with size and SHA-256.

Reading refuses what is missing, changed, extra, a link or a folder, and hashes every byte before anything is used.
Writing is all or nothing: a staging folder beside the target, synced, then renamed.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_sdk import errors
from edge_sdk.records import bundle

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
INT8_MODEL = "model.int8.onnx"
FLOAT_MODEL = "model.float.onnx"
HALF_MODEL = "model.fp16.onnx"
"""Inputs and outputs as in float; in FP16 bundles only."""

CPU_MODEL = "model.cpu.onnx"
"""The INT8 model for ONNX Runtime's integer kernels; not in every bundle."""

CALIBRATION = "calibration.json"
GOLDEN = "golden.npz"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"

MAX_MANIFEST_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


class Bundle(NamedTuple):
    """A bundle whose every byte was checked against its manifest.

    Attributes:
        path: the folder.
        digest: SHA-256 of the manifest's bytes; names the bundle everywhere.
        manifest: what it says about itself.
    """

    path: Path
    digest: str
    manifest: bundle.Manifest

    def file(self, name: str) -> Path:
        """Gives the path of a file that the manifest lists.

        Raises:
            BundleError: it lists no such file.
        """
        if name not in self.manifest.files:
            raise errors.BundleError(f"{self.path} has no {name}; it lists {', '.join(sorted(self.manifest.files))}")
        return self.path / name


def read_bundle(path: Path) -> Bundle:
    """Gives the bundle in the folder `path` after checking every byte of it.

    Raises:
        BundleError: not a bundle, a schema this SDK does not know, or a file that is missing, changed or not listed.
    """
    manifest_bytes = _manifest_bytes(path)
    manifest = manifest_from_bytes(manifest_bytes, source=str(path / MANIFEST))
    present = {entry.name for entry in os.scandir(path)}
    listed = set(manifest.files) | {MANIFEST}
    if extra := sorted(present - listed - {SIGNATURE}):
        raise errors.BundleError(
            f"{path} holds files that its manifest does not list: {', '.join(extra)}; remove them or build it again"
        )
    if missing := sorted(listed - present):
        raise errors.BundleError(f"{path} lacks files that its manifest lists: {', '.join(missing)}; copy it again")
    for name, entry in manifest.files.items():
        _check_file(path / name, entry)
    return Bundle(path, hashlib.sha256(manifest_bytes).hexdigest(), manifest)


def read_manifest(path: Path) -> bundle.Manifest:
    """Gives what the bundle in the folder `path` says about itself; its files are not looked at.

    Raises:
        BundleError: not a bundle, or a schema this SDK does not know.
    """
    return manifest_from_bytes(_manifest_bytes(path), source=str(path / MANIFEST))


def manifest_from_bytes(payload: bytes, source: str = MANIFEST) -> bundle.Manifest:
    """Gives the Manifest in `payload`.

    Raises:
        BundleError: not JSON, not a manifest, or of a newer schema.
    """
    try:
        schema = msgspec.json.decode(payload, type=_Schema).schema
        if schema > bundle.SCHEMA:
            raise errors.BundleError(
                f"{source} has bundle schema {schema}, this edge_sdk reads up to {bundle.SCHEMA}; update edge_sdk here"
            )
        return msgspec.json.decode(payload, type=bundle.Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BundleError(f"{source} is not a bundle manifest: {error}") from error


def canonical_bytes(record: msgspec.Struct) -> bytes:
    """Gives the one byte form of a record: JSON, keys sorted, no spaces.

    Digests and signatures cover these bytes as written, never a decoded and re-encoded copy.
    """
    return msgspec.json.encode(record, order="sorted")


def file_entry(content: bytes | Path) -> bundle.FileEntry:
    """Gives size and SHA-256 of a file's content, which may lie in a file and is then not held in memory."""
    if isinstance(content, Path):
        return bundle.FileEntry(content.stat().st_size, _sha256(content))
    return bundle.FileEntry(len(content), hashlib.sha256(content).hexdigest())


def write_bundle(
    target: Path, manifest: bundle.Manifest, files: Mapping[str, bytes | Path], *, replace: bool = False
) -> Bundle:
    """Writes a bundle folder: all of it or nothing.

    Args:
        target: the folder to make; its parent must exist.
        manifest: lists exactly `files`.
        files: content by name, or where it lies.
        replace: an existing bundle at `target` gives way.

    Raises:
        UsageError: `target` exists and is no bundle, or `replace` is off; or the disk is full.
    """
    check_target(target, replace=replace)
    assert {name: file_entry(content) for name, content in files.items()} == manifest.files
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, content in {**files, MANIFEST: canonical_bytes(manifest)}.items():
            _write_synced(staging / name, content)
        staging.chmod(0o755)
        sync_folder(staging)
        _put_in_place(staging, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise errors.UsageError(
            f"there is no room for {target} ({error.strerror}); nothing was written: free some, or choose another place"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return read_bundle(target)


def check_target(target: Path, *, replace: bool) -> None:
    """Raises UsageError unless a bundle may be written at `target`; asked before the long work starts."""
    if not target.parent.is_dir():
        raise errors.UsageError(f"the folder {target.parent} does not exist; make it first")
    if not target.exists():
        return
    if not (target / MANIFEST).is_file():
        raise errors.UsageError(f"{target} exists and is not a bundle; choose another name")
    if not replace:
        raise errors.UsageError(f"{target} exists; choose another name or allow it to be replaced (--force)")


class _Schema(msgspec.Struct):
    schema: int


def _manifest_bytes(path: Path) -> bytes:
    if not path.is_dir():
        raise errors.BundleError(f"{path} is not a bundle: expected a folder with {MANIFEST}")
    file = path / MANIFEST
    if not file.is_file() or file.is_symlink():
        raise errors.BundleError(f"{path} is not a bundle: it has no {MANIFEST}")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise errors.BundleError(f"{file} has {file.stat().st_size} bytes; a manifest has at most {MAX_MANIFEST_BYTES}")
    return file.read_bytes()


def _check_file(file: Path, entry: bundle.FileEntry) -> None:
    if file.is_symlink() or not file.is_file():
        raise errors.BundleError(f"{file} is not a plain file; a bundle holds no links and no folders")
    size_bytes = file.stat().st_size
    if size_bytes != entry.size_bytes:
        raise errors.BundleError(f"{file} has {size_bytes} bytes, the manifest says {entry.size_bytes}; copy it again")
    sha256 = _sha256(file)
    if sha256 != entry.sha256:
        raise errors.BundleError(
            f"{file} does not match the manifest: SHA-256 {sha256[:16]}..., "
            f"expected {entry.sha256[:16]}...; "
            "it was changed or damaged after packing, copy the bundle again"
        )


def _sha256(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def _put_in_place(staging: Path, target: Path) -> None:
    """Renames `staging` to `target`; what stood there is whole, under its own name or set aside, until that is done."""
    aside = staging.with_name(f"{staging.name}.old")
    if target.exists():
        target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _write_synced(file: Path, content: bytes | Path) -> None:
    with file.open("wb") as stream:
        if isinstance(content, Path):
            with content.open("rb") as source:
                shutil.copyfileobj(source, stream, _CHUNK_BYTES)
        else:
            stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk: a rename outlives a power cut only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
