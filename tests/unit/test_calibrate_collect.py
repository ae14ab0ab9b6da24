"""One pass over the calibration data: the same ranges whatever the batches; held-out samples; the choice of a method."""

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.host.calibrate import choose, collect, data, heldout, inputs, samples
from edge_sdk.numerics import thresholds
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

SPECS = (TensorSpec("x", "float32", (None, 6)),)
VALUES = np.random.default_rng(5).normal(size=(100, 6)).astype(np.float32) ** 3


def double(feeds):
    return {"doubled": feeds["x"] * 2}


def batches(values, size):
    for first in range(0, len(values), size):
        part = values[first : first + size]
        digests = tuple(digest(first + i) for i in range(len(part)))
        yield samples.Batch(first, {"x": part}, {"x": part}, None, digests)


def digest(index):
    """Those of each eighth sample say that it is held out."""
    return f"{index:064x}"


def collected(values=VALUES, size=7, **options):
    return collect.collected(double, ["x", "doubled"], batches(values, size), **options)


def same(one, other):
    return one.keys() == other.keys() and all(
        a[0] == b[0] and np.array_equal(a[1], b[1]) and a[2:] == b[2:] for a, b in ((one[n], other[n]) for n in one)
    )


@pytest.mark.parametrize("size", [1, 8, 32, 100])
def test_batch_size_does_not_matter(size):
    assert same(collected(size=size).histograms(), collected(size=13).histograms())


def test_order_does_not_matter():
    shuffled = np.random.default_rng(1).permutation(VALUES)
    assert same(collected(shuffled).histograms(), collected().histograms())


def test_holding_out_does_not_change_the_ranges_of_all():
    held = collected(hold_out=True)
    assert same(held.histograms(), collected().histograms())
    assert not same(held.fitted, held.histograms())


def test_an_eighth_of_the_samples_is_held_out_whatever_the_batches():
    for size in (1, 7, 64):
        held = collected(size=size, hold_out=True).held_feeds
        np.testing.assert_array_equal(np.concatenate([feeds["x"] for feeds in held]), VALUES[::8])


def rows_kept(widths, order):
    """What is held out of samples with `widths` values each, all of whose digests say so, seen in some order."""
    batches = (
        samples.Batch(place, *[{"x": np.full((1, widths[index]), index, np.float32)}] * 2, None, (digest(8 * index),))
        for place, index in enumerate(order)
    )
    found = collect.collected(lambda _feeds: {}, ["x"], batches, hold_out=True)
    return [int(feeds["x"][0, 0]) for feeds in found.held_feeds]


@pytest.mark.parametrize("widths", [[6] * 100, [2**20] * 30, [2**20, 3 * 2**20, *[2**10] * 10, 2**21, *[2**10] * 10]])
def test_which_held_out_samples_are_kept_does_not_hang_on_their_order(widths):
    count = len(widths)
    kept = rows_kept(widths, range(count))
    assert kept == list(range(len(kept)))
    for seed in range(5):
        assert rows_kept(widths, np.random.default_rng(seed).permutation(count).tolist()) == kept


def test_of_samples_of_any_size_a_few_are_kept():
    assert rows_kept([2**22 + 1] * 8, range(8)) == [0, 1, 2, 3]


def test_what_is_held_out_is_prepared_when_it_is_asked_for():
    pixels = (VALUES * 10).astype(np.int8)
    digests = tuple(map(digest, range(len(pixels))))
    batch = samples.Batch(0, {"x": pixels}, {"x": pixels / np.float32(10)}, None, digests)
    asked = []

    def prepare(raw):
        asked.append(raw["x"].dtype)
        return {"x": raw["x"] / np.float32(10)}

    found = collect.collected(lambda _feeds: {}, ["x"], [batch], hold_out=True, prepare=prepare, answers=lambda v: v)

    assert asked == []
    np.testing.assert_array_equal(
        np.concatenate([feeds["x"] for feeds in found.held_feeds[1:3]]), batch.feeds["x"][8:24:8]
    )
    assert asked == [np.int8, np.int8]
    for given, answer in found.references(2, step=2):
        np.testing.assert_array_equal(given["x"], answer["x"])
    assert len(found.references(1000)) == len(found.held_feeds)


def test_what_is_held_out_is_bounded():
    many = np.ones((1000, 6), np.float32)
    assert len(collected(many, hold_out=True).held_feeds) == heldout.MOST
    large = np.ones((64, 1024 * 1024), np.float32)
    held = collect.collected(lambda _feeds: {}, ["x"], batches(large, 1), hold_out=True).held_feeds
    assert sum(feeds["x"].nbytes for feeds in held) == 16 * 1024 * 1024


def test_a_sample_of_the_evaluation_data_is_refused_with_both_indices():
    with pytest.raises(errors.DataError, match="calibration sample 42 and evaluation sample 9 are the same"):
        collected(evaluated={digest(42): 9})


def test_activations_that_are_not_finite_name_the_tensor():
    broken = {"doubled": np.array([[1.0, np.nan]], np.float32)}
    with pytest.raises(errors.ModelError, match="'doubled'.*NaN or infinite.*from 7 on"):
        collect.collected(lambda feeds: broken if 7 in feeds["x"] else double(feeds), ["doubled"],
                          batches(np.arange(60, dtype=np.float32).reshape(60, 1), 1))  # fmt: skip


def test_progress_counts_samples():
    seen = []
    collected(on_samples=seen.append)
    assert seen[-1] == 100
    assert seen == sorted(seen)


def test_ranges_hold_what_was_seen_and_a_positive_scale():
    for method in thresholds.METHODS:
        found = choose.ranges_by_method(collected().histograms(), method)["x"]
        assert (found.minimum, found.maximum) == (VALUES.min(), VALUES.max())
        assert 0 < found.threshold <= np.abs(VALUES).max()
        assert found.scale == pytest.approx(found.threshold / 127)


def test_a_tensor_that_is_always_zero_still_has_a_scale():
    found = choose.ranges_by_method(collected(np.zeros((40, 6), np.float32)).histograms(), "mse")
    assert found["x"].scale > 0


def test_auto_takes_the_method_with_the_least_error_and_ranges_of_all_samples():
    held = collected(hold_out=True)
    wanted = choose.ranges_by_method(held.fitted, "mse")
    choice = choose.chosen(held, "auto", lambda ranges: 30.0 if ranges == wanted else 20.0)
    assert choice.method == "mse"
    assert choice.sqnr_db["mse"] == 30
    assert choice.sqnr_db.keys() == thresholds.METHODS.keys()
    assert choice.ranges == choose.ranges_by_method(held.histograms(), "mse")


def test_a_named_method_is_taken_without_measuring():
    def never(_ranges):
        raise AssertionError("measured")

    choice = choose.chosen(collected(), "max", never)
    assert (choice.method, choice.sqnr_db, choice.swapped) == ("max", {}, {})
    assert choice.ranges == choose.ranges_by_method(collected().histograms(), "max")


def test_an_unknown_method_names_the_nearest():
    choose.check_method("auto")
    with pytest.raises(errors.UsageError, match="'entropi'.*did you mean 'entropy'"):
        choose.check_method("entropi")


class TestRequests:
    SPECS = (TensorSpec("image", "float32", (None, 1, 8, 8)),)
    RULES = {"image": Preprocess(scale=1 / 255)}  # noqa: RUF012 - never changed

    def test_each_row_of_an_archive_is_one_request(self, tmp_path):
        raw = hg.pixels(3, 1)
        np.savez(tmp_path / "d.npz", image=raw, labels=[99, 99, 99])
        found = list(inputs.requests_from_path(tmp_path / "d.npz", self.SPECS, self.RULES))
        assert [r.feeds["image"].shape for r in found] == [(1, 1, 8, 8)] * 3
        np.testing.assert_allclose(found[2].feeds["image"][0], raw[2] / np.float32(255), rtol=1e-6)
        assert found[1].name.endswith("d.npz[1]")

    def test_a_picture_that_cannot_be_read_is_refused(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no")
        with pytest.raises(errors.DataError, match="a.png can't be read as an image"):
            list(inputs.requests_from_path(tmp_path / "a.png", self.SPECS, self.RULES))

    def test_a_picture_without_a_rule_is_refused(self, tmp_path):
        data.images.Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(errors.DataError, match="--preprocess"):
            list(inputs.requests_from_path(tmp_path / "a.png", self.SPECS, {}))
        assert len(list(inputs.requests_from_path(tmp_path / "a.png", self.SPECS, self.RULES))) == 1
