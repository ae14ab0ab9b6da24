"""The bundle on disk: every damage is refused before a byte is used, and writing is all or nothing."""

import hashlib
import os
import resource

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.records import bundle
from edge_sdk.wire import bundles


def snapshot(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def refused(path, *words):
    before = snapshot(path) if path.is_dir() else None
    with pytest.raises(errors.BundleError) as caught:
        bundles.read_bundle(path)
    for word in words:
        assert word in str(caught.value)
    assert (snapshot(path) if path.is_dir() else None) == before


def rewritten(checked, **changes):
    """Writes the manifest again with fields changed."""
    manifest = msgspec.structs.replace(checked.manifest, **changes)
    (checked.path / bundles.MANIFEST).write_bytes(bundles.canonical_bytes(manifest))
    return checked.path


def test_a_good_bundle_is_read_and_named_by_its_manifest(tiny_bundle):
    read = bundles.read_bundle(tiny_bundle.path)
    assert read == tiny_bundle
    assert read.digest == hashlib.sha256((read.path / bundles.MANIFEST).read_bytes()).hexdigest()
    assert read.file(bundles.FLOAT_MODEL).is_file()


@pytest.mark.parametrize("position", [0, 100, -1])
def test_one_flipped_byte(tiny_bundle, position):
    file = tiny_bundle.path / bundles.FLOAT_MODEL
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(bytes(content))
    refused(tiny_bundle.path, bundles.FLOAT_MODEL, "does not match the manifest")


def test_a_byte_too_many_or_too_few(tiny_bundle):
    file = tiny_bundle.path / bundles.FLOAT_MODEL
    content = file.read_bytes()
    for changed in (content + b"x", content[:-1]):
        file.write_bytes(changed)
        refused(tiny_bundle.path, f"has {len(changed)} bytes", f"says {len(content)}")


def test_a_missing_file(tiny_bundle):
    (tiny_bundle.path / bundles.CALIBRATION).unlink()
    refused(tiny_bundle.path, "lacks", bundles.CALIBRATION)


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "engine.sm87.plan"])
def test_a_file_that_is_not_listed(tiny_bundle, name):
    (tiny_bundle.path / name).write_bytes(b"x")
    refused(tiny_bundle.path, "does not list", name)


def test_a_folder_that_is_not_listed(tiny_bundle):
    (tiny_bundle.path / "sub").mkdir()
    refused(tiny_bundle.path, "does not list", "sub")


def test_a_link_to_the_very_same_bytes(tiny_bundle, tmp_path):
    file = tiny_bundle.path / bundles.FLOAT_MODEL
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    refused(tiny_bundle.path, "no links")


def test_a_linked_manifest(tiny_bundle, tmp_path):
    file = tiny_bundle.path / bundles.MANIFEST
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    refused(tiny_bundle.path, "no manifest.json")


def test_a_folder_or_a_pipe_in_place_of_a_file(tiny_bundle):
    file = tiny_bundle.path / bundles.CALIBRATION
    file.unlink()
    file.mkdir()
    refused(tiny_bundle.path, "not a plain file")
    file.rmdir()
    os.mkfifo(file)
    with pytest.raises(errors.BundleError, match="not a plain file"):
        bundles.read_bundle(tiny_bundle.path)


def test_a_signature_may_lie_beside_the_manifest(tiny_bundle):
    (tiny_bundle.path / bundles.SIGNATURE).write_bytes(b"not checked here")
    assert bundles.read_bundle(tiny_bundle.path).digest == tiny_bundle.digest


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"schema": 1}', b'{"schema": "1"}', b"[" * 100_000]
)
def test_a_manifest_that_is_none(tiny_bundle, content):
    (tiny_bundle.path / bundles.MANIFEST).write_bytes(content)
    refused(tiny_bundle.path, "not a bundle manifest")


def test_a_manifest_without_end(tiny_bundle):
    with (tiny_bundle.path / bundles.MANIFEST).open("ab") as stream:
        stream.truncate(bundles.MAX_MANIFEST_BYTES + 1)
    refused(tiny_bundle.path, "at most")


def test_a_newer_schema_says_to_update(tiny_bundle):
    refused(rewritten(tiny_bundle, schema=bundle.SCHEMA + 1), "update edge_sdk")


@pytest.mark.parametrize("name", ["../outside", "a/b", "/etc/passwd", "", ".hidden", "x" * 200])
def test_a_manifest_cannot_name_files_outside(tiny_bundle, name):
    entry = next(iter(tiny_bundle.manifest.files.values()))
    refused(rewritten(tiny_bundle, files={**tiny_bundle.manifest.files, name: entry}), "not a bundle manifest")


@pytest.mark.parametrize("field", ["name", "version"])
def test_a_manifest_cannot_hold_a_name_with_a_path(tiny_bundle, field):
    refused(rewritten(tiny_bundle, **{field: "../x"}), "not a bundle manifest")


def test_no_bundle_at_all(tmp_path):
    refused(tmp_path / "none", "not a bundle")
    refused(tmp_path, "no manifest.json")


def test_a_file_that_is_not_listed_is_not_given(tiny_bundle):
    with pytest.raises(errors.BundleError, match="has no model.int8.onnx"):
        tiny_bundle.file(bundles.INT8_MODEL)


class TestWriting:
    def write(self, checked, target, **options):
        files = {name: (checked.path / name).read_bytes() for name in checked.manifest.files}
        return bundles.write_bundle(target, checked.manifest, files, **options)

    def test_the_same_contents_have_the_same_digest(self, tiny_bundle, tmp_path):
        assert self.write(tiny_bundle, tmp_path / "copy.edge").digest == tiny_bundle.digest

    def test_contents_may_lie_in_files(self, tiny_bundle, tmp_path):
        files = {name: tiny_bundle.file(name) for name in tiny_bundle.manifest.files}
        assert bundles.write_bundle(tmp_path / "copy.edge", tiny_bundle.manifest, files).digest == tiny_bundle.digest

    def test_a_full_disk_is_told_and_leaves_what_was_there(self, tiny_bundle, make_bundle, tmp_path):
        other = make_bundle("other")
        before = sorted(path.name for path in tmp_path.iterdir())
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # the nearest to a full disk that needs no root
        try:
            with pytest.raises(errors.UsageError, match=r"no room for .*nothing was written"):
                self.write(tiny_bundle, other.path, replace=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert bundles.read_bundle(other.path).digest == other.digest

    def test_nothing_but_the_bundle_is_left(self, tiny_bundle, tmp_path):
        folder = tmp_path / "out"
        folder.mkdir()
        self.write(tiny_bundle, folder / "copy.edge")
        assert [path.name for path in folder.iterdir()] == ["copy.edge"]

    def test_a_bundle_gives_way_only_when_allowed(self, tiny_bundle, make_bundle, tmp_path):
        other = make_bundle("other")
        with pytest.raises(errors.UsageError, match="exists"):
            self.write(tiny_bundle, other.path)
        assert bundles.read_bundle(other.path).digest == other.digest
        assert self.write(tiny_bundle, other.path, replace=True).digest == tiny_bundle.digest

    def test_what_is_no_bundle_never_gives_way(self, tiny_bundle, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(errors.UsageError, match="not a bundle"):
            self.write(tiny_bundle, tmp_path / "mine", replace=True)
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

    def test_a_missing_parent_is_told(self, tiny_bundle, tmp_path):
        with pytest.raises(errors.UsageError, match="does not exist"):
            self.write(tiny_bundle, tmp_path / "none" / "copy.edge")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_disk_that_refuses_leaves_nothing(self, tiny_bundle, tmp_path):
        folder = tmp_path / "locked"
        folder.mkdir()
        folder.chmod(0o500)
        with pytest.raises(OSError):
            self.write(tiny_bundle, folder / "copy.edge")
        assert list(folder.iterdir()) == []
