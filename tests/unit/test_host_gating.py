"""What the gate runs: INT8 as written, float beside it, and golden answers that are those of a single request."""

from pathlib import Path

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.engines import golden, ort
from edge_sdk.host import builder, evaluation
from edge_sdk.records.bundle import CompilerReport, Preprocess
from edge_sdk.wire import bundles

ABSENT = CompilerReport("", "", None, 0, 0.0, ())
RULE = {"image": Preprocess(scale=1 / 255)}


def built(folder, batch):
    """A bundle of a net whose batch is free (None) or fixed, and what its evaluation data is."""
    model = hg.residual()
    for value in (*model.graph.input, *model.graph.output):
        if batch is not None:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    hg.save(model, folder / "net.onnx")
    for name, count, seed in (("calibration", 48, 1), ("evaluation", 60, 2)):
        np.savez(folder / f"{name}.npz", image=hg.pixels(count, seed))
    result = builder.build_bundle(
        folder / "net.onnx",
        folder / "net.edge",
        calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz",
        preprocess=RULE,
        check=lambda _: ABSENT,
        max_drop=100.0,
    )
    return result, bundles.read_bundle(Path(result.bundle))


@pytest.mark.parametrize("batch", [None, 1])
def test_golden_answers_are_those_of_single_requests_to_the_model_as_written(tmp_path, batch):
    _, checked = built(tmp_path, batch)
    known = golden.read_golden(checked.file(bundles.GOLDEN))

    run = ort.runner_from_model(str(checked.file(bundles.INT8_MODEL)), is_simulated=True)
    run_float = ort.runner_from_model(str(checked.file(bundles.FLOAT_MODEL)))

    assert len(known.feeds) == 8
    for index, feeds in enumerate(known.feeds):
        np.testing.assert_allclose(known.answers["int8"][index]["logits"], run(feeds)["logits"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            known.answers["float"][index]["logits"], run_float(feeds)["logits"], rtol=1e-5, atol=1e-6
        )


def test_the_figures_are_of_every_sample_s_own_pair(tmp_path):
    result, checked = built(tmp_path, 1)
    run = ort.runner_from_model(str(checked.file(bundles.INT8_MODEL)), is_simulated=True)
    run_float = ort.runner_from_model(str(checked.file(bundles.FLOAT_MODEL)))
    pixels = hg.pixels(60, 2).astype(np.float32) * np.float32(RULE["image"].scale)

    pairs = [[one({"image": pixels[row : row + 1]})["logits"] for row in range(60)] for one in (run_float, run)]

    wanted, given = (np.concatenate(side).astype(np.float64) for side in pairs)
    sqnr_db = 10 * np.log10((wanted**2).sum() / ((wanted - given) ** 2).sum())
    assert result.sqnr_db["logits"] == pytest.approx(sqnr_db, abs=0.01)


def test_evaluate_on_a_cpu_computes_as_the_gate_did(tmp_path):
    result, checked = built(tmp_path, None)

    found = evaluation.evaluated(checked.path, tmp_path / "evaluation.npz")

    assert found.outputs["logits"].sqnr_db == pytest.approx(result.sqnr_db["logits"], abs=1e-3)
