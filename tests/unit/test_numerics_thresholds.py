"""Thresholds from histograms: against direct computation, and on the shapes that fool calibrators."""

import numpy as np
import pytest

from edge_sdk.numerics import quantize, ranges, thresholds

RNG = np.random.default_rng(11)
SHAPES = {
    "normal": RNG.normal(size=200_000),
    "laplace": RNG.laplace(size=200_000),
    "relu": np.maximum(RNG.normal(size=200_000), 0),
    "uniform": RNG.uniform(0, 1, 200_000),
    "outlier": np.append(RNG.normal(size=200_000), 1000.0),
    "tiny": RNG.normal(size=1000) * 1e-20,
    "huge": RNG.normal(size=1000) * 1e20,
    "zero": np.zeros(1000),
    "one value": np.full(1000, 3.0),
}


def histogram(name):
    return ranges.histogram_from_tensor(SHAPES[name].astype(np.float32))


def error(values, threshold):
    scale = quantize.scale_from_threshold(threshold)
    return float(np.square(values - quantize.dequantized(quantize.quantized(values, scale), scale)).mean())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", thresholds.METHODS)
def test_every_threshold_is_positive_and_never_above_the_peak(name, method):
    found = histogram(name)
    threshold = thresholds.METHODS[method](found)
    assert 0 < threshold <= (found.peak or 1.0)
    assert quantize.scale_from_threshold(threshold) > 0


def test_max_is_the_largest_magnitude_exactly():
    values = np.array([0.1, -7.3, 2.0], np.float32)
    assert thresholds.max_threshold(ranges.histogram_from_tensor(values)) == float(np.float32(7.3))


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "uniform"])
def test_percentile_is_numpy_s_within_two_bins(name):
    found = histogram(name)
    wanted = np.quantile(np.abs(SHAPES[name]), thresholds.PERCENTILE / 100)
    assert thresholds.percentile_threshold(found) == pytest.approx(wanted, abs=0.05 * wanted)


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "uniform", "outlier", "tiny"])
def test_mse_is_within_a_percent_of_the_best_error_found_by_trying(name):
    values = SHAPES[name].astype(np.float32)
    peak = float(np.abs(values).max())
    best = min(error(values, peak * share) for share in np.linspace(0.1, 1, 91))
    assert error(values, thresholds.mse_threshold(histogram(name))) <= best * 1.01


def test_mse_of_a_laplace_clips_where_theory_says():
    # Banner, Nahshan, Soudry, "Post training 4-bit quantization" (2019): 9.89 times the scale for 8 bits.
    wide = np.random.default_rng(3).laplace(size=2_000_000).astype(np.float32)
    assert thresholds.mse_threshold(ranges.histogram_from_tensor(wide)) == pytest.approx(9.89, rel=0.05)


def test_entropy_keeps_a_normal_s_bulk_and_a_spike_of_zeros_changes_nothing():
    values = SHAPES["normal"].astype(np.float32)
    threshold = thresholds.entropy_threshold(ranges.histogram_from_tensor(values))
    assert threshold > 3
    with_zeros = np.concatenate([values, np.zeros(1_000_000, np.float32)])
    assert thresholds.entropy_threshold(ranges.histogram_from_tensor(with_zeros)) == threshold


def test_thresholds_scale_with_the_values():
    values = SHAPES["laplace"].astype(np.float32)
    for method in thresholds.METHODS.values():
        one, other = (method(ranges.histogram_from_tensor(values * np.float32(f))) for f in (1, 8))
        assert other == pytest.approx(8 * one)
