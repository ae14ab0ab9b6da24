"""Served models in process: preprocessing where it is due, every request counted once, refusals that run nothing."""

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.device.serve.models import Model
from edge_sdk.device.serve.served import Models
from edge_sdk.device.slots import loading

X = np.array([[51, 102, 255]], np.uint8)


@pytest.fixture
def models(tiny_bundle):
    (slot,) = loading.load_slots([tiny_bundle.path], backend="onnxruntime", threads=1)
    models = Models([Model(slot.bundle.manifest, slot.bundle.digest, slot.engines, SystemClock())])
    yield models
    models.close()


def window_of(models):
    return models.find("tiny").recorder.window(1.0)


def test_float_input_goes_in_as_it_is(models):
    y = models.infer("tiny", {"x": np.array([[1, 2, 3]], np.float32)})["y"]
    np.testing.assert_allclose(y, [[5, 9]])


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_raw_input_goes_through_the_bundles_preprocessing(models, dtype):
    y = models.infer("tiny", {"x": X.astype(dtype)})["y"]
    np.testing.assert_allclose(y, [[0.2 + 2 * 0.4, -0.2 + 0.5 * 0.4 + 3.0]], rtol=1e-6)


def test_every_answer_is_recorded_with_its_stages(models):
    for _ in range(5):
        models.infer("tiny", {"x": X})
    window = window_of(models)
    assert window.count == 5
    assert window.stage_ms["pre"] > 0
    assert window.stage_ms["compute"] > 0
    assert window.digest == models.find("tiny").digest[:12]


@pytest.mark.parametrize(
    "feeds",
    [
        {"z": X},
        {},
        {"x": X, "z": X},
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 4), np.uint8)},
        {"x": np.zeros(3, np.float32)},
        {"x": np.zeros((1, 3), np.bool_)},
        {"x": np.zeros((1, 3), np.float64)},  # may be prepared already: never scaled a second time
        {"x": np.zeros((1, 3), np.complex64)},
        {"x": np.array([["a", "b", "c"]])},
    ],
)
def test_what_does_not_fit_is_refused_counted_and_not_run(models, feeds):
    with pytest.raises(errors.InputError):
        models.infer("tiny", feeds)
    window = window_of(models)
    assert (window.count, window.errors) == (0, {"input": 1})
    assert models.infer("tiny", {"x": X})["y"].shape == (1, 2)


def test_an_unknown_model_names_the_nearest(models):
    with pytest.raises(errors.UsageError, match=r"no model 'tinny' \(did you mean 'tiny'\?\); served here: tiny"):
        models.infer("tinny", {"x": X})


def test_after_the_end_a_request_is_an_engine_error(models):
    models.close()
    assert not models.is_ready
    with pytest.raises(errors.EngineError, match="closed"):
        models.infer("tiny", {"x": X})
    assert window_of(models).errors == {"engine": 1}
