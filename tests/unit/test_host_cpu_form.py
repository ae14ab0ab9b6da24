"""The form for ONNX Runtime's integer kernels in a build: measured, packed if it keeps INT8's promises, else why not."""

import re
from pathlib import Path

import host_graphs as hg
import msgspec
import numpy as np
import onnx
import pytest

from edge_sdk.engines import bundled, golden, ort, variants
from edge_sdk.host import builder, cpu_form
from edge_sdk.host.graph import lowering
from edge_sdk.records.bundle import CompilerReport, Preprocess
from edge_sdk.wire import bundles

ABSENT = CompilerReport("", "", None, 0, 0.0, ())


@pytest.fixture
def build(tmp_path):
    hg.save(hg.residual(), tmp_path / "net.onnx")
    raw = hg.pixels(200, 2)
    answers = ort.runner_from_model((tmp_path / "net.onnx").read_bytes())({"image": raw / np.float32(255)})["logits"]

    def built(**options):
        given = {
            "calibration": {"image": hg.pixels(80, 1)},
            "evaluation": {"image": raw, "labels": answers.argmax(axis=1)},
            "preprocess": {"image": Preprocess(scale=1 / 255)},
            "check": lambda _: ABSENT,
            "max_drop": 5.0,
            "force": True,
        }
        for name in ("calibration", "evaluation"):
            np.savez(tmp_path / f"{name}.npz", **given[name])
            given[name] = tmp_path / f"{name}.npz"
        return builder.build_bundle(tmp_path / "net.onnx", tmp_path / "net.edge", **(given | options))

    return built


def report_of(built):
    return msgspec.json.decode((Path(built.bundle) / bundles.REPORT_JSON).read_bytes())["cpu"]


def test_it_is_packed_with_its_figures(build):
    built = build()

    checked = bundles.read_bundle(Path(built.bundle))
    assert bundles.CPU_MODEL in checked.manifest.files
    assert (built.cpu.is_packed, built.cpu.reason) == (True, "")
    assert built.cpu.rule in lowering.RULES
    assert built.cpu.sqnr_db >= built.cpu.int8_sqnr_db - cpu_form.NOISE_DB
    assert abs(built.cpu.value - built.int8_value) <= 1 / 200 + 1e-9
    assert report_of(built) == msgspec.to_builtins(built.cpu)


def test_it_answers_the_golden_samples_within_what_a_device_allows(build):
    checked = bundles.read_bundle(Path(build().bundle))
    known = golden.read_golden(checked.file(bundles.GOLDEN))

    with bundled.engine_from_bundle(checked, variant="lowered") as engine:
        for index, feeds in enumerate(known.feeds):
            assert golden.excess(known, engine.infer(feeds), index, precision="int8", factor=2.0) == ""


def test_a_method_that_holds_no_samples_out_has_it_too(build):
    assert build(method="max").cpu.is_packed


def test_the_same_inputs_give_the_same_digest(build):
    assert build().digest == build().digest


def test_a_float_bundle_has_none(build):
    built = build(precision="float")

    assert built.cpu is None
    assert bundles.CPU_MODEL not in bundles.read_bundle(Path(built.bundle)).manifest.files


def spoil(source, target, steps):
    """Writes the same model with a bias of the classifier moved by so many steps."""
    proto = onnx.load(source)
    bias = next(t for t in proto.graph.initializer if t.name == "logits_cpu_bias")
    codes = hg.initializer(proto, bias.name).copy()
    codes[3] += steps
    bias.CopyFrom(hg.constant(bias.name, codes))
    onnx.save(proto, target)
    return target


@pytest.mark.parametrize(
    ("steps", "reason"),
    [(2**20, r"^-?[\d.]+ dB SQNR, where INT8 has [\d.]+: more than 1 lost$"), (-(2**20), "1 lost$")],
)
def test_one_that_adds_noise_is_left_out_and_said_why(build, monkeypatch, steps, reason):
    honest = lowering.write_lowered
    monkeypatch.setattr(
        lowering,
        "write_lowered",
        lambda *given: {rule: spoil(file, file, steps) for rule, file in honest(*given).items()},
    )

    built = build()

    assert not built.cpu.is_packed
    assert re.search(reason, built.cpu.reason)
    assert bundles.CPU_MODEL not in bundles.read_bundle(Path(built.bundle)).manifest.files
    assert built.passed


@pytest.mark.parametrize(
    ("factor", "reason"), [(1e9, "points lost against float, 5 allowed"), (2.0, "output 'logits' is ")]
)
def test_one_that_answers_otherwise_is_left_out(build, monkeypatch, factor, reason):
    honest = lowering.write_lowered
    monkeypatch.setattr(cpu_form, "NOISE_DB", 1000.0)
    monkeypatch.setattr(variants, "LOWERED_FACTOR", factor)
    monkeypatch.setattr(
        lowering,
        "write_lowered",
        lambda *given: {rule: spoil(file, file, 2**20) for rule, file in honest(*given).items()},
    )

    built = build()

    assert not built.cpu.is_packed
    assert reason in built.cpu.reason
    assert built.cpu.drop is None or built.cpu.drop > 5


def test_of_several_the_first_that_passes_is_taken(build, monkeypatch):
    honest = lowering.write_lowered

    def made(int8, feeds, folder):
        good = next(iter(honest(int8, feeds, folder).values()))
        return {"max": spoil(good, folder / "spoiled.onnx", 2**20), "mse": good}

    monkeypatch.setattr(lowering, "write_lowered", made)

    assert (build().cpu.is_packed, build().cpu.rule) == (True, "mse")
