"""The gate: the metric that the data allows, its interval, and a verdict that holds at the very edge."""

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.host.judge import gate, metrics, pairs
from edge_sdk.records.tensors import TensorSpec

CLASSES = (TensorSpec("logits", "float32", (None, 4)),)
MAP = (TensorSpec("map", "float32", (None, 2, 3, 3)),)


def one_hot(classes):
    return np.eye(4, dtype=np.float32)[np.asarray(classes)]


def judged(wanted, given, labels=None, *, outputs=CLASSES, max_drop=0.5, size=16):
    """Judges two models that look their answers up."""
    name = outputs[0].name

    def batches():
        for first in range(0, len(wanted), size):
            index = np.arange(first, min(first + size, len(wanted)))
            yield {"index": index}, None if labels is None else np.asarray(labels)[index]

    return gate.judged(
        lambda feeds: {name: wanted[feeds["index"]]},
        lambda feeds: {name: given[feeds["index"]]},
        batches(),
        outputs=outputs,
        metric=metrics.chosen("auto", outputs, is_labelled=labels is not None),
        max_drop=max_drop,
    )


def test_labels_give_top_1_with_an_interval_around_it():
    truth = np.arange(200) % 4
    wrong_twice = truth.copy()
    wrong_twice[:2] = (truth[:2] + 1) % 4
    verdict = judged(one_hot(truth), one_hot(wrong_twice), truth, max_drop=1).verdict
    assert (verdict.metric, verdict.samples) == ("top-1", 200)
    assert (verdict.float_score.value, verdict.int8_score.value) == (1.0, 0.99)
    assert verdict.int8_score.low < 0.99 < verdict.int8_score.high
    assert verdict.agreement.value == 0.99
    assert verdict.drop == pytest.approx(1.0)
    assert verdict.passed


@pytest.mark.parametrize(("lost", "passed"), [(0, True), (5, True), (6, False)])
def test_half_a_point_of_a_thousand_is_five_samples(lost, passed):
    truth = np.zeros(1000, int)
    given = truth.copy()
    given[:lost] = 1
    assert judged(one_hot(truth), one_hot(given), truth).verdict.passed is passed


def test_int8_may_be_better_than_float():
    truth = np.zeros(100, int)
    worse = truth.copy()
    worse[:3] = 1
    verdict = judged(one_hot(worse), one_hot(truth), truth, max_drop=0).verdict
    assert verdict.drop == pytest.approx(-3)
    assert verdict.passed


def test_without_labels_a_classifier_is_judged_on_agreement():
    classes = np.arange(100) % 4
    other = classes.copy()
    other[0] = 2
    verdict = judged(one_hot(classes), one_hot(other)).verdict
    assert (verdict.metric, verdict.float_score.value, verdict.int8_score.value) == ("agreement", 1.0, 0.99)
    assert not verdict.passed


def test_without_classes_the_share_of_signal_is_judged():
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(64, 2, 3, 3)).astype(np.float32)
    noisy = wanted + np.float32(0.1) * rng.normal(size=wanted.shape).astype(np.float32)
    judgement = judged(wanted, noisy, outputs=MAP, max_drop=5)
    assert judgement.verdict.metric == "signal share"
    assert judgement.verdict.int8_score.value == pytest.approx(0.99, abs=0.005)
    assert judgement.verdict.agreement == judgement.verdict.int8_score
    assert judgement.verdict.passed
    assert judgement.outputs["map"].sqnr_db == pytest.approx(20, abs=1)
    assert judgement.outputs["map"].cosine == pytest.approx(0.995, abs=0.002)


def test_figures_do_not_depend_on_the_batches():
    rng = np.random.default_rng(0)
    wanted, given = rng.normal(size=(2, 50, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 50)
    one, other = (judged(wanted, given, labels, size=size) for size in (1, 50))
    assert one.verdict == other.verdict
    assert one.outputs["logits"] == pytest.approx(other.outputs["logits"])


def test_equal_outputs_have_the_largest_sqnr_and_an_all_zero_output_is_no_accident():
    same = judged(one_hot([0, 1]), one_hot([0, 1]))
    assert (same.outputs["logits"].sqnr_db, same.outputs["logits"].cosine) == (200, 1)
    zeros = np.zeros((4, 2, 3, 3), np.float32)
    assert judged(zeros, zeros, outputs=MAP).verdict.passed
    assert not judged(zeros, zeros + 1, outputs=MAP).verdict.passed


def test_an_int8_output_that_is_not_finite_is_refused():
    with pytest.raises(errors.ModelError, match="'logits'.*NaN or infinite"):
        judged(one_hot([0]), one_hot([0]) * np.float32(np.nan))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_float_output_that_is_not_finite_is_refused_with_its_sample(size):
    wanted = one_hot([0, 1, 1, 0, 1])
    wanted[3] = np.inf
    with pytest.raises(errors.ModelError, match=r"'logits'.*float model.*on sample 3;"):
        judged(wanted, one_hot([0, 1, 1, 0, 1]), size=size)


def test_outputs_whose_shape_depends_on_the_values_are_refused():
    wanted = np.zeros((2, 5, 4), np.float32)
    with pytest.raises(errors.ModelError, match="non-maximum suppression"):
        judged(wanted, wanted[:, :3], outputs=(TensorSpec("boxes", "float32", (None, None, 4)),))


@pytest.mark.parametrize(
    ("shape", "dtype", "count"),
    [((None, 10), "float32", 10), ((None, 10, 1, 1), "float32", 10), ((None, 1), "float32", None),
     ((None, None), "float32", None), ((None, 10, 4), "float32", None), ((None, 10), "int64", None), ((3,), "float32", None)],
)  # fmt: skip
def test_the_number_of_classes_comes_from_the_first_output(shape, dtype, count):
    assert pairs.class_count((TensorSpec("y", dtype, shape),)) == count


def test_labels_need_classes():
    gate.check_labels(CLASSES, is_labelled=True)
    gate.check_labels(MAP, is_labelled=False)
    with pytest.raises(errors.DataError, match="no vector of classes: 'map'"):
        gate.check_labels(MAP, is_labelled=True)


def test_of_a_detector_the_scores_of_its_confident_rows_count_apart_from_boxes_in_pixels():
    rng = np.random.default_rng(0)
    wanted = np.concatenate([rng.uniform(50, 300, (1, 100, 4)), rng.uniform(0, 0.05, (1, 100, 1))], axis=2)
    wanted[0, :5, 4] = 0.9
    outputs = (TensorSpec("rows", "float32", (None, 100, 5)),)

    def sqnr_db(given):
        return gate.worst_sqnr_db(
            lambda _feeds: {"rows": given}, [({"x": np.zeros((1, 1))}, {"rows": wanted})], outputs
        )

    scores_off, empty_off, boxes_off = (wanted.copy() for _ in range(3))
    scores_off[0, :5, 4] = 0.81
    empty_off[0, 5:] *= 1.5
    boxes_off[0, :5, 2] *= 1.01
    assert sqnr_db(scores_off) == pytest.approx(20, abs=1e-6)
    assert sqnr_db(empty_off) == 200
    assert sqnr_db(boxes_off) == pytest.approx(40, abs=1e-6)
    is_no_detector = wanted.copy()
    is_no_detector[0, 50, 4] = 1.5
    found = gate.worst_sqnr_db(
        lambda _feeds: {"rows": scores_off}, [({"x": np.zeros((1, 1))}, {"rows": is_no_detector})], outputs
    )
    assert found > 60
    whole = gate.worst_output_sqnr_db(
        lambda _feeds: {"rows": scores_off}, [({"x": np.zeros((1, 1))}, {"rows": wanted})], outputs
    )
    assert whole > 70


def test_the_worst_output_counts():
    outputs = (*CLASSES, TensorSpec("map", "float32", (None, 2)))
    expected = {"logits": one_hot([0]), "map": np.ones((1, 2), np.float32)}
    given = {"logits": one_hot([0]), "map": np.array([[1.0, 0.9]], np.float32)}
    found = gate.worst_sqnr_db(lambda _feeds: given, [({"x": np.zeros((1, 1))}, expected)], outputs)
    assert found == pytest.approx(10 * np.log10(2 / 0.01), abs=1e-3)
