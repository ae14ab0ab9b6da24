"""Data that can't be real is refused with the samples named; what is odd but honest passes on record."""

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.host.calibrate import inspect, samples
from edge_sdk.records.tensors import TensorSpec

PICTURES = (TensorSpec("image", "float32", (None, 3, 32, 32)),)
LAST = (TensorSpec("image", "float32", (None, 32, 32, 3)),)
TABLE = (TensorSpec("x", "float32", (None, 12)),)


def pictures(count, seed=0):
    return hg.pixels(count, seed, shape=(3, 32, 32))


def batches(values, name="image", size=16):
    for first in range(0, len(values), size):
        part = {name: values[first : first + size]}
        digests = tuple(f"{hash(row.tobytes()) & (2**64 - 1):064x}" for row in values[first : first + size])
        yield samples.Batch(first, part, part, None, digests)


def seen(values, inputs=PICTURES, **options):
    inspector = inspect.Inspector("DATA", inputs, **options)
    for batch in batches(values, inputs[0].name):
        inspector.look(batch)
    return inspector.finish()


def refused(values, *words, inputs=PICTURES, **options):
    with pytest.raises(errors.DataError) as caught:
        seen(values, inputs, **options)
    for word in words:
        assert word in str(caught.value)


def test_real_looking_pictures_pass_without_a_word():
    found = seen(pictures(64))
    assert found.notes == ()
    assert len(found.fingerprints.hashes) == 64


def test_many_constant_samples_are_refused_and_a_few_are_not():
    values = pictures(64)
    values[[3, 9, 30]] = 7
    assert "copies" in " ".join(seen(values).notes)
    values[10:20] = np.arange(10, dtype=np.uint8)[:, None, None, None]
    refused(values, "13 of 64 samples of DATA are of one single value", "sample 3, 9, 10, 11, 12 and 8 more")


@pytest.mark.parametrize("draw", ["uniform", "normal"])
@pytest.mark.parametrize("inputs", [PICTURES, LAST])
def test_noise_is_no_picture(draw, inputs):
    rng = np.random.default_rng(0)
    shape = (64, *inputs[0].shape[1:])
    values = (rng.uniform(0, 255, shape) if draw == "uniform" else rng.normal(size=shape)).astype(np.float32)
    refused(values, "64 of 64 pictures of DATA look like random noise", "--allow noise", inputs=inputs)
    assert "random noise" in seen(values, inputs, allowed={"noise"}).notes[0]


def test_some_noise_among_pictures_is_told():
    values = pictures(64)
    values[:4] = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32))
    assert "4 of 64 pictures of DATA look like random noise" in seen(values).notes[0]


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_noise_in_a_table_is_told_and_never_refused(kind):
    rng = np.random.default_rng(0)
    values = getattr(rng, kind)(size=(4000, 12)).astype(np.float32)
    assert f"'x' of DATA are distributed like {kind} random numbers" in seen(values, TABLE).notes[0]


def test_measured_tables_and_few_values_pass_without_a_word():
    rng = np.random.default_rng(0)
    assert seen(rng.gamma(2.0, size=(4000, 12)).astype(np.float32), TABLE).notes == ()
    assert seen(rng.normal(size=(100, 12)).astype(np.float32), TABLE).notes == ()
    one_feature = (TensorSpec("x", "float32", (None, 1)),)
    assert seen(rng.gamma(2.0, size=(64, 1)).astype(np.float32), one_feature).notes == ()


def test_copies_are_told_and_too_many_of_them_refused():
    values = pictures(64)
    values[40] = values[4]
    assert seen(values).notes == ("1 of 64 samples of DATA are copies of others (sample 40 is sample 4)",)
    values[20:40] = values[:20]
    refused(values, "21 of 64 samples of DATA are copies of others", "20 is sample 0", "--allow duplicates")
    assert "21 of 64" in seen(values, allowed={"duplicates"}).notes[0]


def test_pictures_that_look_like_evaluation_pictures_are_named_with_both_indices():
    evaluation = pictures(40, seed=1)
    values = pictures(64, seed=2)
    values[17] = np.minimum(evaluation[31].astype(int) + 8, 255)
    values[50] = evaluation[5] // 10 * 9
    against = seen(evaluation).fingerprints
    refused(values, "2 pairs of pictures look the same: calibration sample 17 and evaluation sample 31, calibration "
            "sample 50 and evaluation sample 5", "--allow similar", against=against)  # fmt: skip
    assert "2 pairs" in seen(values, against=against, allowed={"similar"}).notes[0]
    assert seen(pictures(64, seed=3), against=against).notes == ()


def test_after_what_is_certain_to_be_refused_no_more_work_is_done():
    evaluation = pictures(40, seed=1)
    inspector = inspect.Inspector("DATA", PICTURES, against=seen(evaluation).fingerprints)
    assert not inspector.is_refused
    inspector.look(next(batches(evaluation)))
    assert inspector.is_refused


def test_an_unknown_allowance_names_the_nearest():
    inspect.check_allowed(inspect.ALLOWANCES)
    with pytest.raises(errors.UsageError, match="'similiar'.*did you mean 'similar'"):
        inspect.check_allowed(["similiar"])
