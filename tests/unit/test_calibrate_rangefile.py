"""Range files: what is read is what was written; another model's, a damaged one and shared samples are refused."""

import numpy as np
import pytest
import test_calibrate_collect as one_pass

from edge_sdk import errors
from edge_sdk.host.calibrate import choose, collect, rangefile

KEY = rangefile.Key(model="a" * 64, preprocess="b" * 64)
OTHER = rangefile.Key(model="c" * 64, preprocess="b" * 64)
TENSORS = ("x", "doubled")


def state(values=one_pass.VALUES, first=0):
    def renamed():
        for batch in one_pass.batches(values, 7):
            yield batch._replace(digests=tuple(f"{first + batch.first + i:064x}" for i in range(len(batch.digests))))

    return collect.collected(one_pass.double, TENSORS, renamed(), hold_out=True, expected=len(values)).state()


def same(one, other):
    return (
        one.digests == other.digests
        and one_pass.same(one.fitted, other.fitted)
        and one_pass.same(one.held_out, other.held_out)
        and [m.samples for m in one.marks] == [m.samples for m in other.marks]
        and all(one_pass.same(a.histograms, b.histograms) for a, b in zip(one.marks, other.marks, strict=True))
    )


@pytest.mark.parametrize("is_compressed", [True, False])
def test_what_is_read_is_what_was_written(tmp_path, is_compressed):
    written = state()
    rangefile.write_ranges(tmp_path / "net.ranges", KEY, written, is_compressed=is_compressed)
    key, read = rangefile.read_ranges(tmp_path / "net.ranges")
    assert key == KEY
    assert same(written, read)
    assert len(read.marks) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["net.ranges"]


def test_two_workers_files_give_the_ranges_of_all(tmp_path):
    rangefile.write_ranges(tmp_path / "one", KEY, state(one_pass.VALUES[:37]))
    rangefile.write_ranges(tmp_path / "two", KEY, state(one_pass.VALUES[37:], first=37))
    whole = state()
    for files in (("one", "two"), ("two", "one")):
        found = rangefile.state_from_files([tmp_path / name for name in files], KEY, TENSORS)
        assert sorted(found.digests) == sorted(whole.digests)
        for method in choose.thresholds.METHODS:
            merged, wanted = (
                choose.ranges_by_method(collect.Collected(s.fitted, s.held_out, (), s.digests).histograms(), method)
                for s in (found, whole)
            )
            assert merged == wanted
        assert one_pass.same(found.fitted, whole.fitted)
        assert one_pass.same(found.held_out, whole.held_out)


def test_files_that_share_samples_are_refused(tmp_path):
    for name in ("one", "two"):
        rangefile.write_ranges(tmp_path / name, KEY, state())
    with pytest.raises(errors.DataError, match="100 samples are in two of the range files"):
        rangefile.state_from_files([tmp_path / "one", tmp_path / "two"], KEY, TENSORS)


def test_ranges_of_another_model_or_without_a_tensor_are_refused(tmp_path):
    rangefile.write_ranges(tmp_path / "net", KEY, state())
    with pytest.raises(errors.DataError, match=r"of another model \(aaaaaaaaaaaa..., this one is cccccccccccc...\)"):
        rangefile.state_from_files([tmp_path / "net"], OTHER, TENSORS)
    with pytest.raises(errors.DataError, match="lack the tensor 'more'"):
        rangefile.state_from_files([tmp_path / "net"], KEY, (*TENSORS, "more"))


@pytest.mark.parametrize("schema", [rangefile.SCHEMA - 1, rangefile.SCHEMA + 1])
def test_a_file_of_another_edge_sdk_is_refused(tmp_path, monkeypatch, schema):
    with monkeypatch.context() as patch:
        patch.setattr(rangefile, "SCHEMA", schema)
        rangefile.write_ranges(tmp_path / "net", KEY, state())
    with pytest.raises(errors.DataError, match="of another edge_sdk; write it again"):
        rangefile.read_ranges(tmp_path / "net")


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_a_damaged_file_is_refused(tmp_path, keep):
    rangefile.write_ranges(tmp_path / "net", KEY, state())
    (tmp_path / "net").write_bytes((tmp_path / "net").read_bytes()[:keep])
    with pytest.raises(errors.DataError, match="is not a range file"):
        rangefile.read_ranges(tmp_path / "net")


def test_an_archive_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "net.npz", image=np.zeros(3))
    with pytest.raises(errors.DataError, match="--save-ranges"):
        rangefile.read_ranges(tmp_path / "net.npz")
    with pytest.raises(errors.DataError, match="is not a range file"):
        rangefile.read_ranges(tmp_path / "none")


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(errors.UsageError, match="can't be written"):
        rangefile.write_ranges(tmp_path / "none" / "net", KEY, state())


def test_the_work_folder_goes_with_the_build_but_not_with_ctrl_c(tmp_path):
    def work(error=None):
        with rangefile.work_folder(tmp_path / "net.edge") as folder:
            rangefile.save(folder, KEY, state())
            if error:
                raise error

    work()
    with pytest.raises(ValueError):
        work(ValueError())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        work(KeyboardInterrupt())
    assert same(rangefile.saved(tmp_path / ".net.edge.unfinished", KEY), state())


def test_a_work_folder_with_a_stranger_s_file_in_it_stays(tmp_path):
    with rangefile.work_folder(tmp_path / "net.edge") as folder:
        rangefile.save(folder, KEY, state())
        (folder / "mine.txt").write_text("mine")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
