"""What a build does with its calibration data: refusals that write nothing, allowances on record, ranges used again."""

import json
import re
from pathlib import Path

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.engines import compilers
from edge_sdk.host import builder
from edge_sdk.host.calibrate import collect
from edge_sdk.records.bundle import Preprocess

RULES = {"image": Preprocess(scale=1 / 255)}


@pytest.fixture
def work(tmp_path):
    hg.save(hg.residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "calibration.npz", image=hg.pixels(80, 1))
    np.savez(tmp_path / "evaluation.npz", image=hg.pixels(64, 2))
    return tmp_path


def build(work, output="net.edge", **options):
    given = {
        "calibration": work / "calibration.npz",
        "evaluation": work / "evaluation.npz",
        "preprocess": RULES,
        "check": lambda _model: compilers.ABSENT.report,
        "max_drop": 100.0,
        "name": "net",
    }
    return builder.build_bundle(options.pop("model", work / "net.onnx"), work / output, **(given | options))


def refused(work, kind, *words, **options):
    before = hg.files_below(work)
    with pytest.raises(kind) as caught:
        build(work, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    assert hg.files_below(work) == before


def report(work, name="net.edge"):
    return json.loads((work / name / "report.json").read_bytes())


def noise(count):
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def with_copies():
    values = hg.pixels(80, 1)
    values[40:] = values[:40]
    return values


def constant():
    return np.arange(64, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 8, 8), np.uint8)


@pytest.mark.parametrize("which", ["calibration", "evaluation"])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (constant(), "64 of 64 samples .* one single value"),
        (noise(64), "look like random noise"),
        (with_copies(), "40 of 80 samples .* are copies .*40 is sample 0"),
    ],
    ids=["constant", "noise", "copies"],
)
def test_data_that_cannot_be_real_is_refused_and_nothing_is_written(work, which, values, words):
    np.savez(work / f"{which}.npz", image=values)
    refused(work, errors.DataError, words, which)


@pytest.mark.parametrize("place", [33, 0])  # of the first one no sample is run, and still it is what is told
def test_pictures_that_look_like_the_evaluation_s_are_refused_and_nothing_is_written(work, place):
    calibration, evaluation = hg.pixels(80, 1), hg.pixels(64, 2)
    calibration[place] = np.minimum(evaluation[12].astype(int) + 1, 255)
    np.savez(work / "calibration.npz", image=calibration)
    refused(work, errors.DataError, f"calibration sample {place} and evaluation sample 12", "--allow similar")
    built = build(work, allow=["similar"])
    assert f"calibration sample {place} and evaluation sample 12" in " ".join(built.notes)
    assert report(work)["allowed"] == ["similar"]
    assert "let pass on purpose: similar" in (work / "net.edge" / "report.html").read_text()


def test_a_sample_that_is_in_both_is_refused_whatever_is_allowed(work):
    np.savez(work / "calibration.npz", image=np.concatenate([hg.pixels(80, 1), hg.pixels(64, 2)[:1]]))
    refused(work, errors.DataError, "80 and evaluation sample 0 are the same", allow=["similar", "duplicates", "noise"])


def test_an_unknown_allowance_is_refused(work):
    refused(work, errors.UsageError, "did you mean 'noise'", allow=["nose"])


def test_the_report_tells_where_the_model_came_from_and_whether_more_data_would_help(work):
    built = build(work)
    found = report(work)
    assert built.origin == found["origin"] == "ONNX opset 17 net.onnx"
    assert "cleaned" in " ".join(found["conversion"])
    assert [point["samples"] for point in found["coverage"]["points"]] == [10, 20, 40, 80]
    assert found["coverage"]["points"][-1]["moved_share"] == 0
    assert built.coverage.sentence in (work / "net.edge" / "report.html").read_text()


def test_an_old_opset_is_raised_on_the_way(work):
    nodes = [
        hg.node("Conv", ["image", "w"], ["c"], "conv", pads=[1] * 4),
        hg.node("GlobalAveragePool", ["c"], ["p"], "pool"),
        hg.node("Flatten", ["p"], ["logits"], "flat"),
    ]
    model = hg.graph(nodes, [hg.weight("w", 16, 1, 3, 3)], {"image": ["N", 1, 8, 8]}, {"logits": ["N", 16]}, opset=11)
    hg.save(model, work / "old.onnx")
    built = build(work, model=work / "old.onnx")
    assert built.precision == "int8"
    assert any("raised from opset 11 to 17" in note for note in built.notes)


def test_a_model_that_is_none_is_refused_and_nothing_is_written(work):
    (work / "net.onnx").write_bytes(b"no model")
    refused(work, errors.ModelError, "net.onnx")
    (work / "weights.pth").write_bytes(b"\x80\x04.")
    refused(work, errors.ModelError, "pickled checkpoint", model=work / "weights.pth")


class TestRanges:
    def test_saved_ranges_give_the_same_bundle_without_running_the_model_again(self, work, monkeypatch):
        first = build(work, save_ranges=work / "net.ranges")
        runs = []
        real = collect._Pass._observe

        def counted(self, batch, rows, total):
            runs.extend(rows.tolist())
            real(self, batch, rows, total)

        monkeypatch.setattr(collect._Pass, "_observe", counted)
        assert build(work, "again.edge", ranges=[work / "net.ranges"]).digest == first.digest
        assert runs == []

    def test_workers_and_order_leave_the_method_and_the_scales_as_they_are(self, work):
        pixels = np.load(work / "calibration.npz")["image"]
        whole = build(work)
        for name, part in zip(("one", "two"), np.split(pixels, [48]), strict=True):
            np.savez(work / f"{name}.npz", image=part)
            build(work, f"{name}.edge", calibration=work / f"{name}.npz", save_ranges=work / name)
        merged = build(work, "merged.edge", ranges=[work / "one", work / "two"])
        np.savez(work / "mixed.npz", image=np.random.default_rng(0).permutation(pixels))
        mixed = build(work, "mixed.edge", calibration=work / "mixed.npz")
        wanted, *others = (
            json.loads((Path(b.bundle) / "calibration.json").read_bytes())["ranges"] for b in (whole, merged, mixed)
        )
        assert whole.method == merged.method == mixed.method
        for ranges in others:
            assert ranges.keys() == wanted.keys()
            for name, found in wanted.items():
                assert ranges[name]["scale"] == pytest.approx(found["scale"], rel=1e-6)

    def test_new_samples_are_added_to_known_ones(self, work):
        build(work, save_ranges=work / "net.ranges")
        np.savez(work / "calibration.npz", image=np.concatenate([hg.pixels(80, 1), hg.pixels(20, 7)]))
        assert build(work, "more.edge", ranges=[work / "net.ranges"]).calibration_samples == 100

    def test_ranges_of_another_model_or_preprocessing_are_refused(self, work):
        build(work, save_ranges=work / "net.ranges")
        other = {"image": Preprocess(scale=1 / 128)}
        refused(work, errors.DataError, "another preprocessing", ranges=[work / "net.ranges"], output="o.edge",
                preprocess=other)  # fmt: skip
        hg.save(hg.residual(classes=7), work / "net.onnx")
        refused(work, errors.DataError, "another model", ranges=[work / "net.ranges"], output="o.edge")

    def test_ranges_that_saw_an_evaluation_sample_are_refused(self, work):
        np.savez(work / "other.npz", image=hg.pixels(64, 3))
        build(work, save_ranges=work / "net.ranges")
        np.savez(work / "evaluation.npz", image=hg.pixels(80, 1)[:40])
        refused(work, errors.DataError, "40 of the evaluation samples", ranges=[work / "net.ranges"],
                calibration=work / "other.npz", output="o.edge")  # fmt: skip
