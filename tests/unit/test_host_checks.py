"""What a build says beyond INT8: corrections kept or left out, wrong preprocessing, a bad fit, the verdict on INT8."""

import json

import host_graphs as hg
import numpy as np
import pytest
from test_graph_corrections import uneven

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host import builder
from edge_sdk.records.bundle import CompilerReport, Preprocess

ABSENT = CompilerReport("", "", None, 0, 0.0, ())


def build(folder, **options):
    given = {
        "calibration": folder / "calibration.npz",
        "evaluation": folder / "evaluation.npz",
        "check": lambda _model: ABSENT,
        "allow": ("noise",),
        "max_drop": 50.0,
        "force": True,
    }
    return builder.build_bundle(folder / "net.onnx", folder / "net.edge", **(given | options))


class TestCorrections:
    @pytest.fixture
    def work(self, tmp_path):
        hg.save(uneven(), tmp_path / "net.onnx")
        for name, seed in (("calibration", 1), ("evaluation", 2)):
            values = np.random.default_rng(seed).normal(size=(48, 16, 8, 8)).astype(np.float32)
            np.savez(tmp_path / f"{name}.npz", x=values)
        return tmp_path

    def test_equalisation_is_kept_where_it_helps_and_the_float_model_is_as_it_was(self, work):
        built = build(work)
        equalisation = built.corrections[0]
        assert (equalisation.name, equalisation.layers, equalisation.kept) == ("cross-layer equalisation", 1, True)
        assert equalisation.after_db > equalisation.before_db + 5
        x = np.load(work / "evaluation.npz")["x"]
        source, shipped = (
            ort.runner_from_model((work / f).read_bytes())({"x": x})["y"]
            for f in ("net.onnx", "net.edge/model.float.onnx")
        )
        np.testing.assert_allclose(shipped, source, rtol=1e-5, atol=1e-6)
        int8 = ort.runner_from_model((work / "net.edge" / "model.int8.onnx").read_bytes())({"x": x})["y"]
        assert 10 * np.log10(np.square(source).sum() / np.square(source - int8).sum()) == pytest.approx(
            built.sqnr_db["y"], abs=0.1
        )

    def test_the_report_tells_what_was_tried(self, work):
        built = build(work)
        tried = json.loads((work / "net.edge" / "report.json").read_bytes())["corrections"]
        assert [entry["kept"] for entry in tried] == [entry.kept for entry in built.corrections]
        page = (work / "net.edge" / "report.html").read_text()
        assert "Corrections tried" in page
        assert "cross-layer equalisation" in page

    def test_the_same_inputs_give_the_same_digest(self, work):
        assert build(work).digest == build(work).digest

    def test_a_model_that_is_good_already_is_left_alone(self, work):
        hg.save(uneven_no_more(), work / "net.onnx")
        assert build(work, method="max").corrections == ()


def uneven_no_more():
    nodes = [hg.node("Conv", ["x", "w"], ["y"], "only", pads=[1] * 4)]
    return hg.graph(nodes, [hg.weight("w", 16, 16, 3, 3)], {"x": ["N", 16, 8, 8]}, {"y": ["N", 16, 8, 8]})


def by_colour():
    """A network of three classes, one for each colour: the mean of each channel, compared."""
    identity = np.zeros((16, 3, 3, 3), np.float32)
    identity[[0, 1, 2], [0, 1, 2], 1, 1] = 1
    nodes = [hg.node("Conv", ["image", "w"], ["c"], "stem", pads=[1] * 4), hg.node("Relu", ["c"], ["r"], "relu"),
             hg.node("GlobalAveragePool", ["r"], ["p"], "pool"), hg.node("Flatten", ["p"], ["f"], "flatten"),
             hg.node("Gemm", ["f", "v", "b"], ["logits"], "head", transB=1)]  # fmt: skip
    weights = [
        hg.constant("w", identity),
        hg.constant("v", np.eye(3, 16, dtype=np.float32)),
        hg.constant("b", np.zeros(3, np.float32)),
    ]
    return hg.graph(nodes, weights, {"image": ["N", 3, 8, 8]}, {"logits": ["N", 3]})


def coloured(count, seed, *, order=(0, 1, 2), wrong=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    pictures = rng.integers(0, 100, (count, 3, 8, 8))
    pictures[np.arange(count), np.array(order)[labels]] += 100
    mistaken = rng.choice(count, wrong, replace=False)
    labels[mistaken] = (labels[mistaken] + rng.integers(1, 3, wrong)) % 3
    return {"image": pictures.astype(np.uint8), "labels": labels}


class TestLabelledData:
    RULES = {"image": Preprocess(scale=1 / 255)}  # noqa: RUF012 - never changed

    @pytest.fixture
    def work(self, tmp_path):
        hg.save(by_colour(), tmp_path / "net.onnx")
        np.savez(tmp_path / "calibration.npz", **coloured(64, 1))
        np.savez(tmp_path / "evaluation.npz", **coloured(200, 2))
        return tmp_path

    def notes(self, work):
        return " ".join(json.loads((work / "net.edge" / "report.json").read_bytes())["notes"])

    def test_right_data_raises_no_remark(self, work):
        built = build(work, preprocess=self.RULES)
        assert built.float_value == 1
        assert "preprocessing" not in self.notes(work)

    def test_colours_in_the_wrong_order_are_refused_by_name_and_nothing_is_written(self, work):
        np.savez(work / "evaluation.npz", **coloured(200, 2, order=(2, 1, 0)))
        before = hg.files_below(work)
        with pytest.raises(errors.DataError, match=r"preprocessing looks wrong.*100.0% with.*BGR"):
            build(work, preprocess=self.RULES)
        assert hg.files_below(work) == before

    def test_samples_class_by_class_are_judged_over_all_classes(self, work):
        found = coloured(300, 2)
        order = np.argsort(found["labels"], kind="stable")
        sorted_by_class = {name: values[order] for name, values in found.items()}
        np.savez(work / "evaluation.npz", **sorted_by_class)
        assert build(work, preprocess=self.RULES).float_value == 1
        moved = np.array([1, 2, 0])[sorted_by_class["labels"]]  # all of the first class would be right in BGR
        np.savez(work / "evaluation.npz", image=sorted_by_class["image"][::-1], labels=moved[::-1])
        with pytest.raises(errors.DataError, match=r"labels look wrong.*100.0% with the classes in another order"):
            build(work, preprocess=self.RULES)

    def test_overfitting_is_told(self, work):
        np.savez(work / "train.npz", **coloured(300, 3))
        np.savez(work / "evaluation.npz", **coloured(200, 2, wrong=60))
        build(work, preprocess=self.RULES, train=work / "train.npz")
        assert "overfitting: top-1 is 100.0% on the training data and 70.0% on the evaluation data" in self.notes(work)
        assert "overfitting" in (work / "net.edge" / "report.html").read_text()

    def test_evaluation_samples_that_were_trained_on_are_told(self, work):
        evaluation, more = coloured(200, 2), coloured(100, 3)
        train = {name: np.concatenate([more[name], evaluation[name][:50]]) for name in more}
        np.savez(work / "train.npz", **train)
        build(work, preprocess=self.RULES, train=work / "train.npz")
        assert "50 of 200 evaluation samples are in the training data too" in self.notes(work)

    def test_underfitting_is_told(self, work):
        for name, count in (("train", 300), ("evaluation", 200)):
            np.savez(work / f"{name}.npz", **coloured(count, count, wrong=2 * count // 3))
        build(work, preprocess=self.RULES, train=work / "train.npz")
        assert "underfitting" in self.notes(work)

    def test_training_data_without_labels_is_refused(self, work):
        np.savez(work / "train.npz", image=coloured(64, 3)["image"])
        with pytest.raises(errors.DataError, match=r"train.npz has no labels"):
            build(work, preprocess=self.RULES, train=work / "train.npz")

    def test_a_measurement_settles_whether_int8_is_worth_it(self, work):
        open_answer = build(work, preprocess=self.RULES, target="orin-nano").worth_it
        assert (open_answer.answer, open_answer.basis) == ("not measured", ("accuracy", "compute ratio", "roofline"))
        (work / "bench.json").write_text(
            json.dumps({"device": "Orin Nano", "int8": {"latency_p50_ms": 1.0}, "fp16": {"latency_p50_ms": 1.6}})
        )
        answer = build(work, preprocess=self.RULES, bench=work / "bench.json").worth_it
        assert (answer.answer, answer.basis[-1]) == ("yes", "measured on a device")
        page = (work / "net.edge" / "report.html").read_text()
        assert "Is INT8 worth it?" in page
        assert "1.60 times as fast" in page

    def test_an_unknown_target_is_refused_at_once(self, work):
        with pytest.raises(errors.UsageError, match="did you mean 'orin-nx'"):
            build(work, preprocess=self.RULES, target="orinnx")
