"""The whole build on a small residual network: what comes out, that it is reproducible, and that a refusal writes nothing."""

import json
import re

import host_graphs as hg
import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image

from edge_sdk import errors
from edge_sdk.engines import bundled, ort
from edge_sdk.host import builder
from edge_sdk.records.bundle import Calibration, CompilerReport, Preprocess
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import bundles

RULES = {"image": Preprocess(scale=1 / 255)}
ABSENT = CompilerReport("", "", None, 0, 0.0, ())
TAKES_IT = CompilerReport("tensorrt-rtx", "1.7", True, 1234, 0.5, ("a warning",))
REFUSES = CompilerReport("tensorrt-rtx", "1.7", False, 0, 0.5, ("Assertion failed: shiftIsAllZeros(zeroPoint)",))


def absent(_model):
    return ABSENT


@pytest.fixture
def work(tmp_path):
    """A folder with model, calibration and labelled evaluation data; labels are what the float model says."""
    hg.save(hg.residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "calibration.npz", image=hg.pixels(80, 1))
    raw = hg.pixels(200, 2)
    answers = bundled_answers(tmp_path / "net.onnx", raw)
    np.savez(tmp_path / "evaluation.npz", image=raw, labels=answers)
    return tmp_path


def bundled_answers(model, raw):
    engine = ort.runner_from_model(model.read_bytes())
    return engine({"image": raw / np.float32(255)})["logits"].argmax(axis=1)


def build(work, output="net.edge", **options):
    given = {
        "calibration": work / "calibration.npz",
        "evaluation": work / "evaluation.npz",
        "preprocess": RULES,
        "check": absent,
        "max_drop": 5.0,
    }
    return builder.build_bundle(work / "net.onnx", work / output, **(given | options))


def refused(work, kind, *words, **options):
    before = hg.files_below(work)
    with pytest.raises(kind) as caught:
        build(work, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    assert hg.files_below(work) == before


def test_a_build_gives_a_bundle_that_runs_and_figures_that_are_those_of_the_bundle(work):
    built = build(work, check=lambda _model: TAKES_IT)
    checked = bundles.read_bundle(work / "net.edge")
    verdict = checked.manifest.verdict
    assert built.digest == checked.digest
    assert (built.precision, checked.manifest.precision) == ("int8", "int8")
    assert (built.metric, built.samples, built.evaluation_samples) == ("top-1", 80, 200)
    assert (
        (built.float_value, built.int8_value)
        == (verdict.float_score.value, verdict.int8_score.value)
        == (1.0, built.agreement)
    )
    assert built.passed
    assert built.sqnr_db["logits"] > 20
    assert built.int8_compute_ratio == 1
    assert built.compiler == TAKES_IT
    assert built.seconds.keys() == {
        "convert",
        "read",
        "scan",
        "fold",
        "check",
        "calibrate",
        "choose",
        "coverage",
        "correct",
        "place",
        "compile",
        "gate",
        "pack",
        "lower",
    }
    assert built.peak_rss_bytes > 1e6

    evaluation = np.load(work / "evaluation.npz")
    with bundled.open_engine(work / "net.edge", variant="int8") as engine:
        parts = [evaluation["image"][first : first + 32] for first in range(0, 200, 32)]  # as the gate runs them
        logits = [engine.infer({"image": part / np.float32(255)})["logits"] for part in parts]
    answers = np.concatenate(logits).argmax(axis=1)
    # Integer kernels of this CPU round elsewhere than the gate, which computes as TensorRT does.
    assert (answers == evaluation["labels"]).mean() == pytest.approx(built.int8_value, abs=1.01 / 200)


def test_the_bundle_holds_every_file_that_is_promised(work):
    build(work)
    assert hg.files_below(work / "net.edge") == sorted(
        [
            "calibration.json",
            "golden.npz",
            "manifest.json",
            "model.float.onnx",
            "model.int8.onnx",
            "model.cpu.onnx",
            "report.html",
            "report.json",
        ]
    )
    manifest = bundles.read_bundle(work / "net.edge").manifest
    assert manifest.preprocess == RULES
    assert (manifest.name, manifest.version, manifest.counter) == ("net", "1", 0)


def test_calibration_json_tells_how_the_ranges_came_about(work):
    built = build(work, method="mse")
    calibration = msgspec.json.decode((work / "net.edge" / "calibration.json").read_bytes(), type=Calibration)
    assert (calibration.method, calibration.count, built.method) == ("mse", 80, "mse")
    assert len(set(calibration.samples)) == 80
    assert calibration.ranges["image"].minimum == 0
    assert calibration.ranges["image"].maximum == pytest.approx(hg.pixels(80, 1).max() / 255)
    other = build(work, "other.edge", preprocess={"image": Preprocess(scale=1 / 128)}, method="mse")
    assert other.digest != built.digest
    again = msgspec.json.decode((work / "other.edge" / "calibration.json").read_bytes(), type=Calibration)
    assert again.preprocess != calibration.preprocess
    assert again.samples == calibration.samples


def test_scales_in_the_model_are_those_of_calibration_json(work):
    build(work, method="max")
    calibration = msgspec.json.decode((work / "net.edge" / "calibration.json").read_bytes(), type=Calibration)
    model = onnx.load(work / "net.edge" / "model.int8.onnx")
    for name, found in calibration.ranges.items():
        assert hg.initializer(model, f"{name}_scale") == np.float32(found.scale)


def test_the_same_inputs_and_seed_give_the_same_digest_at_any_time_and_place(work, tmp_path):
    first = build(work, ticks=FakeClock(), check=lambda _model: TAKES_IT)
    (tmp_path / "elsewhere").mkdir()
    later = msgspec.structs.replace(TAKES_IT, seconds=99.0)
    second = build(work, "elsewhere/copy.edge", ticks=FakeClock(), check=lambda _model: later)
    assert first.digest == second.digest
    for file in (work / "net.edge").iterdir():
        assert file.read_bytes() == (work / "elsewhere" / "copy.edge" / file.name).read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes()


def test_another_seed_picks_other_golden_samples(work):
    build(work, "one.edge", seed=0)
    build(work, "two.edge", seed=1)
    one, two = (np.load(work / name / "golden.npz")["raw.image"] for name in ("one.edge", "two.edge"))
    assert len(one) == len(two) == 8
    assert not np.array_equal(one, two)


def test_golden_answers_are_those_of_the_bundle(work):
    build(work)
    golden = np.load(work / "net.edge" / "golden.npz")
    with bundled.open_engine(work / "net.edge") as engine:
        given = engine.infer({"image": golden["prepared.image"]})["logits"]
    np.testing.assert_allclose(golden["prepared.image"], golden["raw.image"] / np.float32(255), rtol=1e-6)
    assert np.abs(given - golden["int8.logits"]).max() <= golden["tolerance.logits"]
    assert np.abs(golden["float.logits"] - golden["int8.logits"]).max() <= golden["tolerance.logits"]
    assert golden["tolerance.logits"] > 0


def test_auto_measures_every_method_and_takes_the_best(work):
    built = build(work)
    measured = json.loads((work / "net.edge" / "report.json").read_bytes())["method_sqnr_db"]
    assert measured.keys() == {"max", "percentile", "percentile-99.99", "mse", "entropy"}
    assert built.method == "mixed" or measured[built.method] == max(measured.values())


def test_a_float_bundle_has_no_int8_model_and_loses_nothing(work):
    built = build(work, precision="float")
    assert (built.precision, built.method, built.drop, built.int8_compute_ratio) == ("float", "none", 0, 0)
    assert "model.int8.onnx" not in hg.files_below(work / "net.edge")
    with bundled.open_engine(work / "net.edge") as engine:
        engine.infer({"image": np.zeros((1, 1, 8, 8), np.float32)})


def test_without_labels_agreement_is_judged(work):
    np.savez(work / "evaluation.npz", image=hg.pixels(50, 3))
    assert build(work).metric == "agreement"


def test_a_model_that_misses_its_budget_is_not_packed_and_both_numbers_are_told(work):
    # Ranges from pictures a hundred times too dark clip everything that the evaluation shows.
    np.savez(work / "calibration.npz", image=hg.pixels(80, 1) // 100)
    refused(work, errors.GateError, r"INT8 has top-1 \d+\.\d\d%, float 100.00%", "200 samples", "0.5 allowed",
            "nothing was written", "--max-drop", max_drop=0.5, method="max", precision="int8")  # fmt: skip


def test_the_compiler_s_refusal_fails_the_build_in_its_own_words(work):
    refused(work, errors.EngineError, "tensorrt-rtx 1.7 refused", "shiftIsAllZeros", check=lambda _model: REFUSES)


def test_a_sample_in_both_data_sets_is_refused_with_both_indices(work):
    shared = np.concatenate([hg.pixels(80, 1)[:50], np.load(work / "evaluation.npz")["image"][7:8]])
    np.savez(work / "calibration.npz", image=shared)
    refused(work, errors.DataError, "calibration sample 50 and evaluation sample 7 are the same")


def test_too_few_calibration_samples_unless_allowed(work):
    np.savez(work / "calibration.npz", image=hg.pixels(31, 1))
    refused(work, errors.DataError, "gave 31 samples", "at least 32", "--min-samples")
    assert build(work, min_samples=31).calibration_samples == 31


def test_unreadable_pictures_are_left_out_counted_and_named(work):
    folder = work / "pictures"
    folder.mkdir()
    for index, raw in enumerate(hg.pixels(40, 1)):
        Image.fromarray(raw[0]).save(folder / f"{index:02}.png")
    (folder / "13.png").write_bytes(b"not a picture")
    built = build(work, calibration=folder)
    assert built.samples == built.calibration_samples == 39
    assert built.skipped["calibration"] == {"13.png": "not an image"}
    calibration = json.loads((work / "net.edge" / "calibration.json").read_bytes())
    assert calibration["skipped"] == {"13.png": "not an image"}
    assert "13.png" in (work / "net.edge" / "report.html").read_text()


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (errors.UsageError, {"precision": "int4"}, ("int4", "auto, int8, fp16, float")),
        (errors.UsageError, {"method": "magic"}, ("magic", "entropy")),
        (errors.UsageError, {"max_drop": -1}, ("max_drop",)),
        (errors.UsageError, {"max_drop": float("nan")}, ("max_drop",)),
        (errors.UsageError, {"name": "Bad Name"}, ("Bad Name",)),
        (errors.UsageError, {"version": "../1"}, ("version",)),
        (errors.UsageError, {"output": "none/net.edge"}, ("does not exist",)),
        (errors.UsageError, {"classes": ("a", "b")}, ("2 class names", "10 classes")),
        (errors.DataError, {"preprocess": {"imgae": Preprocess()}}, ("did you mean 'image'",)),
        (errors.DataError, {"preprocess": None}, ("--preprocess",)),
        (errors.DataError, {"calibration": "none.npz"}, ("does not exist",)),
    ],
)
def test_wrong_arguments_are_refused_before_the_long_work(work, kind, options, words):
    refused(work, kind, *words, **options, progress=None, check=None)


def test_a_counter_that_no_manifest_holds_is_refused_before_any_stage(work):
    begun = []
    refused(work, errors.UsageError, "counter -1", "0 or more", counter=-1, progress=lambda *step: begun.append(step))
    assert begun == []


@pytest.mark.parametrize(
    ("name", "arrays", "word"),
    [
        ("evaluation", {"image": hg.pixels(40, 5), "labels": np.full(40, 10)}, "label 10"),
        ("evaluation", {"image": hg.pixels(40, 5), "labels": np.zeros(39, int)}, "unequal lengths"),
        ("evaluation", {"image": hg.pixels(40, 5).astype("U1")}, "image"),
        ("calibration", {"image": hg.pixels(40, 5, shape=(8, 8))}, "takes float32"),
        ("calibration", {"pixels": hg.pixels(40, 5)}, "'pixels'"),
        ("calibration", {"image": np.zeros((0, 1, 8, 8), np.uint8)}, "no samples"),
        ("calibration", {"image": np.full((40, 1, 8, 8), np.nan, np.float32)}, "NaN"),
    ],
)
def test_wrong_data_is_refused(work, name, arrays, word):
    np.savez(work / f"{name}.npz", **arrays)
    refused(work, errors.DataError, word)


def test_a_model_with_nothing_to_quantise(work):
    nodes = [hg.node("Flatten", ["image"], ["f"], "flat"), hg.node("MatMul", ["f", "w"], ["logits"], "one")]
    hg.save(
        hg.graph(nodes, [hg.weight("w", 64, 1)], {"image": ["N", 1, 8, 8]}, {"logits": ["N", 1]}), work / "net.onnx"
    )
    np.savez(work / "evaluation.npz", image=hg.pixels(50, 3))
    refused(work, errors.ModelError, "no layer", "one", "--precision float", precision="int8")
    assert build(work).precision == "float"


def test_a_bundle_that_is_there_gives_way_only_to_force(work):
    first = build(work)
    refused(work, errors.UsageError, "exists", "--force")
    assert build(work, force=True).digest == first.digest
    (work / "mine").mkdir()
    refused(work, errors.UsageError, "not a bundle", output="mine", force=True)


def test_a_failed_build_leaves_the_old_bundle_as_it_was(work):
    first = build(work)
    refused(work, errors.EngineError, "refused", check=lambda _model: REFUSES, force=True)
    assert bundles.read_bundle(work / "net.edge").digest == first.digest


def interrupt_at(wanted, after=0):
    def interrupt(stage, done, _total):
        if stage == wanted and done > after:
            raise KeyboardInterrupt

    return interrupt


def test_ctrl_c_before_the_ranges_leaves_nothing_behind(work):
    before = hg.files_below(work)
    with pytest.raises(KeyboardInterrupt):
        build(work, progress=interrupt_at("scan"))
    assert hg.files_below(work) == before


@pytest.mark.parametrize("stage", ["calibrate", "gate"])
def test_an_interrupted_build_goes_on_and_ends_the_same(work, stage):
    before = hg.files_below(work)
    uninterrupted = build(work, "other.edge", name="net")
    with pytest.raises(KeyboardInterrupt):
        build(work, progress=interrupt_at(stage, after=30))
    left = work / ".net.edge.unfinished"
    assert sorted(hg.files_below(left)) == ["README.txt", "state.npz"]
    assert "--resume" in (left / "README.txt").read_text()
    assert not (work / "net.edge").exists()
    assert build(work, resume=True).digest == uninterrupted.digest
    assert {name.split("/")[0] for name in hg.files_below(work)} == {*before, "other.edge", "net.edge"}


def test_a_build_anew_forgets_what_an_interrupted_one_left(work):
    with pytest.raises(KeyboardInterrupt):
        build(work, progress=interrupt_at("gate"))
    np.savez(work / "calibration.npz", image=hg.pixels(80, 5))
    with pytest.raises(errors.DataError, match=r"sample 0 is not the one.*without --resume"):
        build(work, resume=True)
    with pytest.raises(KeyboardInterrupt):
        build(work, progress=interrupt_at("gate"))
    assert build(work).calibration_samples == 80
    assert not (work / ".net.edge.unfinished").exists()


def test_what_an_interrupted_build_left_is_not_for_another_model(work):
    with pytest.raises(KeyboardInterrupt):
        build(work, progress=interrupt_at("gate"))
    with pytest.raises(errors.DataError, match="another model or preprocessing"):
        build(work, resume=True, preprocess={"image": Preprocess(scale=1 / 128)})


def test_nothing_to_resume_is_a_build_anew(work):
    assert build(work, resume=True).digest == build(work, "other.edge", name="net").digest


def test_progress_goes_through_the_stages_to_their_ends(work):
    seen = []
    built = build(work, progress=lambda *step: seen.append(step))
    most = {stage: max((total, done) for name, done, total in seen if name == stage) for stage, *_ in seen}
    assert most.keys() == built.seconds.keys()
    assert {"scan": (200, 200), "calibrate": (80, 80), "gate": (200, 200), "lower": (200, 200)}.items() <= most.items()
    for stage, (total, done) in most.items():
        assert done == total, stage
        assert (stage, 0, 1) in seen, stage
    last = {stage: (done, total) for stage, done, total in seen}
    assert all(done == total for done, total in last.values())


@pytest.mark.parametrize(
    ("stage", "options"),
    [("choose", {}), ("coverage", {}), ("correct", {"method": "max"}), ("lower", {}), ("lower", {"method": "max"})],
)
def test_a_long_stage_tells_its_steps_and_never_goes_back(work, stage, options):
    np.savez(work / "calibration.npz", image=np.where(np.arange(80)[:, None, None, None] % 8, 1, 4) * hg.pixels(80, 1))
    seen = []
    build(work, progress=lambda *step: seen.append(step), **options)
    runs = []
    for name, done, total in seen:
        if name == stage and (done, total) == (0, 1):
            runs.append([])
        elif name == stage:
            runs[-1].append((done, total))
    steps = runs[0]
    assert len(steps) > 3
    assert steps == sorted(steps)
    assert len({total for _, total in steps}) == 1
    assert steps[-1][0] == steps[-1][1]


def test_data_from_functions(work):
    built = build(
        work,
        calibration=lambda: ({"image": row} for row in hg.pixels(40, 1)),
        evaluation=lambda: (({"image": row}, index % 10) for index, row in enumerate(hg.pixels(40, 2))),
        max_drop=100,
    )
    assert (built.samples, built.evaluation_samples, built.metric) == (40, 40, "top-1")


def test_an_engine_s_missing_range_is_told_before_the_data_is_read(work):
    hg.save(hg.with_free_sides(hg.residual()), work / "net.onnx")
    stages = set()
    words = (r"'image' has free axes beyond the batch, \[-1, 1, -1, -1\]", "--shape image=")
    refused(work, errors.UsageError, *words, shapes={}, progress=lambda stage, *_: stages.add(stage))
    assert not stages & {"scan", "fold", "calibrate"}
    given = {"image": ((1, 1, 8, 8), (1, 1, 8, 8), (1, 1, 16, 16))}
    assert build(work, shapes=given, method="max").precision == "int8"  # the control


def test_a_model_without_a_free_batch_axis(work):
    model = hg.residual()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    hg.save(model, work / "net.onnx")
    assert build(work).evaluation_samples == 200
