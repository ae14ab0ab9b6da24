"""The metrics: what each counts, its interval, and what is refused."""

import sys
import types

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.host.judge import metrics
from edge_sdk.host.judge.pairs import Pair
from edge_sdk.numerics import detections, f1, intervals, scores
from edge_sdk.records.tensors import TensorSpec

CLASSES = (TensorSpec("logits", "float32", (None, 4)),)
ROWS = (TensorSpec("rows", "float32", (None, 100, 7)),)
MAP = (TensorSpec("map", "float32", (None, 1, 4, 4)),)


def one_hot(classes):
    return np.eye(4, dtype=np.float32)[np.asarray(classes)]


def figures(name, wanted, given, labels=None, *, outputs=CLASSES, sizes=(7,)):
    metric = metrics.chosen(name, outputs, is_labelled=labels is not None)
    rows, first = [], 0
    for size in sizes * (len(wanted) // sum(sizes) + 1):
        part = slice(first, first + size)
        if len(wanted[part]):
            key = outputs[0].name
            one_labels = None if labels is None else np.asarray(labels)[part]
            rows.append(metric.rows(Pair(len(wanted[part]), {key: wanted[part]}, {key: given[part]}, one_labels)))
        first += size
    return metric.figures(np.concatenate(rows))


def boxes(count=100, *, seed=0):
    """An image's rows: centres, sizes, objectness 0 and two classes."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, 7), np.float32)
    rows[:, :2] = rng.uniform(0, 100, (count, 2))
    rows[:, 2:4] = 10
    rows[:, 5] = 1
    return rows


def found(rows, *which, score=0.9):
    rows = rows.copy()
    rows[list(which), 4] = score
    return rows


class TestClasses:
    def test_f1_is_the_mean_over_classes_not_over_samples(self):
        labels = np.array([0] * 90 + [1] * 10)
        always = np.zeros(100, int)
        result = figures("f1", one_hot(labels), one_hot(always), labels)
        assert result.first.value == 1
        assert result.second.value == pytest.approx((2 * 90 / 190 + 0) / 2)
        assert result.drop.low < result.drop.value < result.drop.high

    def test_top_1_of_a_hundred_and_two_samples_in_uneven_batches(self):
        labels = np.arange(102) % 4
        given = labels.copy()
        given[:3] = (given[:3] + 1) % 4
        result = figures("top-1", one_hot(labels), one_hot(given), labels, sizes=(5, 1, 9))
        assert (result.first.value, result.second.value) == (1, pytest.approx(99 / 102))
        assert result.drop.value == pytest.approx(3 / 102)

    def test_the_interval_of_a_drop_is_paired(self):
        labels = np.zeros(1000, int)
        answers = labels.copy()
        answers[:300] = 1  # both models are wrong on the same samples
        drop = figures("top-1", one_hot(answers), one_hot(answers), labels).drop
        alone = scores.wilson_score(700, 1000)
        assert drop.value == 0
        assert 0 < drop.high < alone.high - alone.low

    def test_agreement_needs_no_labels(self):
        classes = np.arange(50) % 4
        other = classes.copy()
        other[0] = 3
        result = figures("agreement", one_hot(classes), one_hot(other))
        assert (result.first.value, result.second.value) == (1, 0.98)
        assert result.drop.low <= 0.02 <= result.drop.high


class TestDetections:
    def test_a_detection_that_is_lost_and_one_that_is_new(self):
        wanted, given = (found(boxes(), *rows)[None] for rows in ((1, 2, 3), (2, 3, 4)))
        assert figures("detection", wanted, given, outputs=ROWS).second.value == pytest.approx(4 / 6)

    @pytest.mark.parametrize(("shift", "kept"), [(0, 1), (2, 1), (5, 0)])
    def test_a_box_must_overlap_by_half(self, shift, kept):
        wanted = found(boxes(), 7)
        given = wanted.copy()
        given[7, 0] += shift
        assert figures("detection", wanted[None], given[None], outputs=ROWS).second.value == kept

    def test_the_class_must_be_the_same(self):
        wanted = found(boxes(), 7)
        given = wanted.copy()
        given[7, 5:] = 0, 1
        assert figures("detection", wanted[None], given[None], outputs=ROWS).second.value == 0

    def test_sizes_as_logarithms(self):
        wanted = found(boxes(), 7)
        wanted[:, 2:4] = np.log(0.5)
        given = wanted.copy()
        given[7, 2] += 0.3
        assert figures("detection", wanted[None], given[None], outputs=ROWS).second.value == 1
        given[7, 2] += 0.5
        assert figures("detection", wanted[None], given[None], outputs=ROWS).second.value == 0

    def test_columns_first_have_no_objectness(self):
        columns = np.zeros((6, 100), np.float32)
        columns[2:4] = 10
        columns[4, 3] = columns[5, 9] = 0.9
        outputs = (TensorSpec("rows", "float32", (None, 6, 100)),)
        given = columns.copy()
        given[5, 9] = 0
        result = figures("detection", columns[None], given[None], outputs=outputs)
        assert result.second.value == pytest.approx(2 / 3)

    def test_the_threshold_can_be_set(self):
        wanted, given = found(boxes(), 7, score=0.2)[None], boxes()[None]
        assert figures("detection@0.1", wanted, given, outputs=ROWS).second.value == 0
        with pytest.raises(errors.DataError, match="nothing above 0.25.*detection@0.1"):
            figures("detection", wanted, given, outputs=ROWS)

    def test_images_without_detections_do_not_break_the_interval(self):
        empty, one = boxes()[None], found(boxes(), 1)[None]
        wanted = np.concatenate([one, *[empty] * 3])
        result = figures("detection", wanted, wanted, outputs=ROWS)
        assert (result.second.value, result.second.low) == (1, 1)

    def test_auto_knows_a_detector_by_its_rows(self):
        probe = {"rows": np.stack([found(boxes(), 1, 2)] * 2)}
        assert metrics.chosen("auto", ROWS, is_labelled=False, probe=probe).title == "detection agreement"
        features = {"rows": np.random.default_rng(0).normal(size=(2, 100, 7)).astype(np.float32)}
        assert metrics.chosen("auto", ROWS, is_labelled=False, probe=features).title == "signal share"

    def test_boxes_without_area_do_not_overlap(self):
        assert detections.overlaps(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [0]


class TestMaps:
    def test_iou_of_thresholded_maps(self):
        wanted = np.zeros((2, 1, 4, 4), np.float32)
        wanted[0, 0, 0] = 0.9
        given = wanted.copy()
        given[0, 0, 0, 0] = 0.4
        assert figures("iou", wanted, given, outputs=MAP).second.value == pytest.approx((3 / 4 + 1) / 2)
        assert figures("iou@0.3", wanted, given, outputs=MAP).second.value == 1

    def test_the_worst_output_counts(self):
        outputs = (*MAP, TensorSpec("other", "float32", (None, 2)))
        metric = metrics.chosen("signal", outputs, is_labelled=False)
        wanted = {"map": np.ones((3, 1, 4, 4)), "other": np.ones((3, 2))}
        given = {"map": np.ones((3, 1, 4, 4)), "other": np.array([[1, 0.5]] * 3)}
        result = metric.figures(metric.rows(Pair(3, wanted, given, None)))
        assert result.second.value == pytest.approx(1 - 0.25 / 2)

    def test_cosine(self):
        wanted, given = np.ones((4, 1, 4, 4)), -np.ones((4, 1, 4, 4))
        assert figures("cosine", wanted, given, outputs=MAP).second.value == pytest.approx(-1)
        assert figures("cosine", np.zeros((4, 1, 4, 4)), np.zeros((4, 1, 4, 4)), outputs=MAP).second.value == 1


class TestOwn:
    @pytest.fixture(autouse=True)
    def own(self, monkeypatch):
        module = types.ModuleType("own_metrics_of_a_user")
        module.share = lambda outputs, labels: (outputs["logits"].argmax(axis=1) >= labels).astype(float)
        module.total = lambda outputs, labels: outputs["logits"].sum()
        module.broken = lambda outputs, labels: 1 / 0
        module.number = 3
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def test_it_scores_both_models_sample_by_sample(self):
        labels = np.array([0, 1, 2, 3] * 10)
        result = figures("own_metrics_of_a_user:share", one_hot(labels), one_hot([0] * 40), labels)
        assert (result.first.value, result.second.value, result.drop.value) == (1, 0.25, 0.75)
        assert result.drop.low < 0.75 < result.drop.high

    @pytest.mark.parametrize(
        ("name", "word"),
        [("total", "expected one finite figure per sample"), ("broken", "ZeroDivisionError")],
    )
    def test_its_mistakes_are_the_user_s(self, name, word):
        with pytest.raises(errors.DataError, match=word):
            figures(f"own_metrics_of_a_user:{name}", one_hot([0]), one_hot([0]), [0])

    @pytest.mark.parametrize("spec", ["own_metrics_of_a_user:none", "no_such_module:x", "own_metrics_of_a_user:number"])
    def test_what_is_no_function_is_refused_early(self, spec):
        with pytest.raises(errors.UsageError):
            metrics.check_metric(spec)


@pytest.mark.parametrize(
    ("name", "word"),
    [("top1", "did you mean 'top-1'"), ("iou@2", "between 0 and 1"), ("iou@x", "iou@0.5"), ("f1@0.5", "no such threshold"),
     ("iou@", "no such threshold"), ("", "no metric")],
)  # fmt: skip
def test_a_metric_that_does_not_exist(name, word):
    with pytest.raises(errors.UsageError, match=word):
        metrics.check_metric(name)


@pytest.mark.parametrize(
    ("name", "outputs", "labelled", "word"),
    [("top-1", CLASSES, False, "needs labels"), ("f1", MAP, True, "vector of classes"), ("agreement", MAP, False, "'map'")],
)  # fmt: skip
def test_a_metric_that_the_data_does_not_allow(name, outputs, labelled, word):
    with pytest.raises(errors.UsageError, match=word):
        metrics.chosen(name, outputs, is_labelled=labelled)


def test_detection_of_a_classifier_is_refused():
    with pytest.raises(errors.UsageError, match="rows of boxes"):
        metrics.chosen("detection", CLASSES, is_labelled=False, probe={"logits": one_hot([0, 1])})


class TestIntervals:
    def test_a_bootstrap_is_the_same_each_time_and_has_about_the_right_width(self):
        values = np.random.default_rng(0).normal(size=(2000, 1))
        one, other = (intervals.bootstrap_score(values, lambda means: means[:, 0]) for _ in range(2))
        assert one == other
        assert (one.high - one.low) == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.15)

    def test_one_sample_has_no_width(self):
        found = intervals.bootstrap_score(np.array([[0.5]]), lambda means: means[:, 0])
        assert (found.low, found.high) == (0.5, 0.5)

    def test_a_paired_difference_worked_out_by_hand(self):
        # Shares 48/50 and 38/50, Wilson 0.8654 to 0.9890 and 0.6259 to 0.8570, correlation -24 / sqrt(48 * 2 * 38 * 12).
        found = intervals.paired_drop(36, 12, 2, 0)
        assert (found.value, round(found.low, 4), round(found.high, 4)) == (0.2, 0.0569, 0.3404)

    def test_no_difference_still_has_a_width(self):
        found = intervals.paired_drop(100, 0, 0, 0)
        assert found.value == 0
        assert found.low < 0 < found.high

    def test_f1_of_absent_classes_is_not_counted(self):
        labels = np.array([5, 5, 9])
        first, _, _ = f1.macro_f1_scores(labels, labels, labels)
        assert first.value == 1


@pytest.mark.parametrize(
    ("name", "outputs", "labelled", "points"),
    [("top-1", CLASSES, True, 0.5), ("f1", CLASSES, True, 0.5), ("agreement", CLASSES, False, 2), ("iou@0.4", MAP, False, 5),
     ("detection@0.3", ROWS, False, 5), ("signal", MAP, False, 1), ("cosine", MAP, False, 0.5), ("auto", CLASSES, True, 0.5),
     ("auto", CLASSES, False, 2), ("auto", MAP, False, 1), ("math:hypot", MAP, False, 0.5)],
)  # fmt: skip
def test_each_metric_has_a_budget_of_its_own(name, outputs, labelled, points):
    assert metrics.chosen(name, outputs, is_labelled=labelled).budget == points
    assert metrics.BUDGETS.keys() == metrics.TITLES.keys()
    for metric, budget in metrics.BUDGETS.items():
        assert f"{metric} {budget:g}" in metrics.BUDGETS_TEXT
