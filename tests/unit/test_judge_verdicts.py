"""Is INT8 worth it, is the model well fitted, is the preprocessing right: plain answers from what is known."""

import json

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.host.judge import fit, preparation, sensitivity, targets, worth
from edge_sdk.numerics import scores
from edge_sdk.records.bundle import Preprocess


def known(**changes):
    fields = {
        "precision": "int8",
        "reason": "",
        "drop": 0.2,
        "compute_ratio": 0.98,
        "bound": 1.9,
        "target": None,
        "bench": None,
    }
    return worth.Known(**(fields | changes))


def bench(int8_ms, fp16_ms, int8_j=None, fp16_j=None):
    return worth.Bench("Orin Nano", worth.Figures(int8_ms, int8_j), worth.Figures(fp16_ms, fp16_j))


class TestWorth:
    def test_without_a_measurement_it_stays_open_and_names_an_upper_bound(self):
        found = worth.worth_it(known())
        assert (found.answer, found.basis) == ("not measured", ("accuracy", "compute ratio"))
        assert "at most 1.90 times" in found.reason
        assert "--bench" in found.reason
        assert " ms" not in found.reason

    def test_a_target_adds_the_roofline(self):
        found = worth.worth_it(known(target=("orin-nano", targets.find_target("orin-nano"))))
        assert "roofline" in found.basis
        assert "on orin-nano, by published peaks" in found.reason

    def test_little_arithmetic_in_int8_is_not_worth_it(self):
        found = worth.worth_it(known(compute_ratio=0.1, bound=1.05))
        assert (found.answer, found.reason[:8]) == ("no", "Only 10%")

    @pytest.mark.parametrize(
        ("measured", "answer", "word"),
        [(bench(1.0, 2.0), "yes", "2.00 times as fast"), (bench(2.0, 2.0), "no", "take FP16"),
         (bench(2.0, 2.0, 0.1, 0.2), "yes", "saves energy"), (bench(2.0, 1.0, 0.2, 0.1), "no", "0.2 J against 0.1 J")],
    )  # fmt: skip
    def test_a_measurement_decides(self, measured, answer, word):
        found = worth.worth_it(known(bench=measured))
        assert (found.answer, found.basis[-1]) == (answer, "measured on a device")
        assert word in found.reason

    def test_int8_that_missed_its_budget_is_not_worth_it_however_fast(self):
        found = worth.worth_it(known(precision="fp16", reason="INT8 has top-1 50 %", bench=bench(1.0, 2.0)))
        assert found.answer == "no"
        assert "FP16 is the better choice: INT8 has top-1 50 %" in found.reason

    @pytest.mark.parametrize("precision", ["fp16", "float"])
    @pytest.mark.parametrize("measured", [None, bench(2.0, 1.0)])
    def test_a_precision_that_was_asked_for_is_no_verdict_on_int8(self, precision, measured):
        asked = known(precision=precision, reason=f"{precision} was asked for", bench=measured)
        found = worth.worth_it(asked)
        assert (found.answer, found.reason) == ("not measured", f"INT8 was not tried: {precision} was asked for.")
        assert worth.worth_it(asked._replace(reason="INT8 has top-1 50 %")).answer == "no"  # the control

    def test_the_bound_weighs_layers_by_their_time(self):
        macs, few, many = {"a": 100, "b": 100}, {"a": 1, "b": 1}, {"a": 1, "b": 10**9}
        assert worth.speed_bound(macs, few, {"a", "b"}, None) == 2
        assert worth.speed_bound(macs, few, set(), None) == 1
        assert worth.speed_bound(macs, few, {"a"}, None) == pytest.approx(4 / 3)
        nano = targets.find_target("orin-nano")
        assert worth.speed_bound(macs, many, {"a"}, nano) == pytest.approx(1, abs=1e-6)
        assert worth.speed_bound(macs, many, {"b"}, nano) == pytest.approx(2, abs=1e-6)
        assert worth.speed_bound({}, {}, set(), nano) == 1

    def test_figures_are_read_and_more_than_is_needed_is_passed_over(self, tmp_path):
        file = tmp_path / "bench.json"
        figures = {"latency_p50_ms": 1.5, "energy_per_inference_j": 0.01, "latency_p99_ms": 2}
        file.write_text(json.dumps({"device": "x", "int8": figures, "fp16": figures, "when": "today"}))
        assert worth.read_bench(file).int8 == worth.Figures(1.5, 0.01)

    @pytest.mark.parametrize(
        "content", ["{", "{}", '{"device": "x", "int8": {"latency_p50_ms": 0}, "fp16": {"latency_p50_ms": 1}}']
    )
    def test_figures_that_are_none(self, tmp_path, content):
        (tmp_path / "bench.json").write_text(content)
        with pytest.raises(errors.SettingsError, match="bench.json"):
            worth.read_bench(tmp_path / "bench.json")
        with pytest.raises(errors.SettingsError, match="cannot read"):
            worth.read_bench(tmp_path / "none.json")


class TestTargets:
    def test_every_row_names_its_source_and_is_a_known_module(self):
        for name, row in targets.TARGETS.items():
            assert row.source, name
            assert row.module.source, name
            assert (row.int8_tops is not None) <= row.module.has_int8

    def test_fp16_is_half_of_dense_int8(self):
        for row in targets.TARGETS.values():
            if row.int8_tops is not None:
                assert row.fp16_tflops == row.int8_tops / (4 if row.is_sparse else 2)

    def test_an_unknown_one_names_the_nearest(self):
        with pytest.raises(errors.UsageError, match="did you mean 'orin-nano'"):
            targets.find_target("orin-nanno")


class TestFit:
    def remark(self, train, test, count=1000):
        return fit.remark(
            scores.wilson_score(train, count), scores.wilson_score(test, count), metric="top-1", classes=10
        )

    def test_what_is_well_gets_no_remark(self):
        assert self.remark(920, 910) == ""

    def test_far_better_on_training_data_is_overfitting(self):
        assert self.remark(990, 800).startswith("overfitting: top-1 is 99.0% on the training data and 80.0%")

    def test_chance_is_no_overfitting(self):
        assert fit.remark(scores.wilson_score(19, 20), scores.wilson_score(17, 20), metric="top-1", classes=10) == ""

    def test_poor_on_its_own_training_data_is_underfitting(self):
        assert self.remark(400, 390).startswith("underfitting: top-1 is only 40.0%")


class TestPreparation:
    """A "network" that tells the class of a picture by where its brightest channel or row is."""

    def pictures(self, channels=3, side=3, count=64):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, count)
        pictures = rng.uniform(0.4, 0.5, (count, channels, side, side)).astype(np.float32)
        return pictures, labels

    def coloured(self):
        pictures, labels = self.pictures(side=8)
        pictures[np.arange(64), labels] += 0.4
        return pictures, labels

    def by_colour(self, feeds):
        return {"y": feeds["x"].mean(axis=(2, 3))}

    def finding(self, run, pictures, labels, rule=None, size=64):
        batches = [({"x": pictures[i : i + size]}, labels[i : i + size]) for i in range(0, len(pictures), size)]
        return preparation.finding(run, "y", batches, {"x": rule} if rule else {})

    def test_right_preprocessing_raises_nothing(self):
        assert self.finding(self.by_colour, *self.coloured()) is None
        assert preparation.check_far(None) == ""

    @pytest.mark.parametrize("size", [64, 1])
    def test_colours_in_the_wrong_order_are_refused(self, size):
        pictures, labels = self.coloured()
        found = self.finding(self.by_colour, pictures[:, ::-1].copy(), labels, size=size)
        assert found.is_far
        with pytest.raises(
            errors.DataError, match=r"of 64 samples the float model gets \d+\.\d% right .* 100.0% with .*BGR"
        ):
            preparation.check_far(found)

    def test_values_that_were_not_scaled(self):
        pictures, labels = self.coloured()
        assert "scale 1/255" in self.finding(self.only_if(lambda x: 0 < x.max() < 2), pictures * 255, labels).name
        assert "scale 1)" in self.finding(self.only_if(lambda x: x.max() > 2), pictures, labels).name

    def test_rows_and_columns_swapped(self):
        pictures, labels = self.pictures(channels=1, side=8)
        pictures[np.arange(64), 0, labels * 2] += 0.4
        found = self.finding(
            lambda feeds: {"y": feeds["x"][:, 0, :6:2].mean(axis=2)}, pictures.swapaxes(2, 3).copy(), labels
        )
        assert "rows and columns" in found.name

    def test_the_other_layout_written_into_the_same_shape(self):
        pictures, labels = self.coloured()
        wrong = pictures.transpose(0, 2, 3, 1).reshape(pictures.shape)
        assert "NHWC" in self.finding(self.by_colour, np.ascontiguousarray(wrong), labels).name

    def test_a_mean_that_was_forgotten(self):
        assert "ImageNet" in self.finding(self.only_if(lambda x: x.min() < 0), *self.coloured()).name

    def test_a_mean_too_many(self):
        pictures, labels = self.coloured()
        rule = Preprocess(mean=preparation.IMAGENET_MEAN, std=preparation.IMAGENET_STD)
        mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (rule.mean, rule.std))
        found = self.finding(self.only_if(lambda x: x.min() > 0), (pictures - mean) / std, labels, rule)
        assert "no mean" in found.name

    def only_if(self, is_right):
        """A network that knows colours only in values as it was trained on."""
        blind = np.ones((64, 3))
        return lambda feeds: {"y": feeds["x"].mean(axis=(2, 3)) if is_right(feeds["x"]) else blind}

    def test_a_little_better_by_chance_is_nothing(self):
        rng = np.random.default_rng(1)
        pictures, labels = self.pictures(side=8)
        assert self.finding(lambda feeds: {"y": rng.uniform(size=(64, 3))}, pictures, labels) is None

    def labelled(self, pictures, labels):
        found = self.finding(self.by_colour, pictures, labels)
        assert found.is_far
        with pytest.raises(errors.DataError, match=r"the labels look wrong: of 64 samples"):
            preparation.check_far(found)
        return found

    def test_labels_that_count_from_1_are_refused(self):
        pictures, labels = self.coloured()
        assert "one lower" in self.labelled(pictures, labels + 1).name
        assert "one higher" in self.labelled(pictures, labels - 1).name

    def test_labels_in_another_order_of_the_classes_are_refused(self):
        pictures, labels = self.coloured()
        found = self.labelled(pictures, np.array([1, 0, 2])[labels])
        assert "what the model calls class 0 is labelled 1" in found.name
        assert found.other == 1

    def test_labels_of_other_samples_fit_in_no_order(self):
        pictures, labels = self.coloured()
        assert self.finding(self.by_colour, pictures, np.random.default_rng(5).permutation(labels)) is None

    def test_a_wide_classifier_costs_no_table_of_all_its_classes(self):
        pictures, labels = self.coloured()
        far = np.array([7, 1_000_000_000, 12])[labels]
        assert "is labelled 7" in self.labelled(pictures, far).name

    @pytest.mark.parametrize(
        ("hits", "classes", "is_told"), [(6, 10, True), (0, 1000, True), (38, 2, True), (16, 10, False)]
    )
    def test_a_model_that_does_no_better_than_guessing_is_told(self, hits, classes, is_told):
        assert bool(preparation.remark_on_guessing(scores.wilson_score(hits, 64), classes)) is is_told

    def test_what_is_no_picture_is_tried_for_scale_only(self):
        assert len(list(preparation.variants((4, 100), None))) == 2
        assert len(list(preparation.variants((4, 1, 28, 20), None))) == 2


class TestSensitivity:
    def test_the_most_harmful_comes_first_and_equals_stay_in_order(self):
        noise = {"a": 0.1, "b": 0.5, "c": 0.1}
        found = sensitivity.ranked(noise)
        assert [one.node for one in found] == ["b", "a", "c"]
        assert found[0].sqnr_db == pytest.approx(3.01, abs=0.01)

    @pytest.mark.parametrize("needed", range(1, 12))
    def test_the_fewest_that_hold_are_found_with_few_questions(self, needed):
        asked = []
        found = sensitivity.fewest("abcdefghijk", lambda count: asked.append(count) or count >= needed)
        assert found == needed
        assert len(asked) <= 8

    @pytest.mark.parametrize("order", ["", "a", "abcd"])
    def test_none_where_not_even_all_hold(self, order):
        assert sensitivity.fewest(order, lambda _count: False) is None
