"""Scales do not depend on how samples arrive: one by one, in batches, mixed, or at several workers."""

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.host.calibrate import choose, collect, samples
from edge_sdk.numerics import quantize, ranges, thresholds

SMALL, LARGE = 40, ranges.SAMPLED_ABOVE + 777
WEIGHTS = np.random.default_rng(0).laplace(size=LARGE).astype(np.float32)


def run(feeds):
    return {"large": feeds["x"][:, :1] * WEIGHTS, "small": feeds["x"] ** 3}


def batches(values, size):
    for first in range(0, len(values), size):
        part = {"x": values[first : first + size]}
        digests = tuple(f"{int(row.view(np.uint32)[0]):064x}" for row in part["x"])
        yield samples.Batch(first, part, part, None, digests)


def state(values, size):
    return collect.collected(run, ("x", "small", "large"), batches(values, size), hold_out=True).state()


def scales(state, method):
    total = collect.Collected(state.fitted, state.held_out, (), state.digests).histograms()
    return {name: found.scale for name, found in choose.ranges_by_method(total, method).items()}


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 18), st.sampled_from(sorted(thresholds.METHODS)))
def test_batches_order_and_workers_leave_the_scales_as_they_are(seed, cut, method):
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=(20, SMALL)).astype(np.float32)
    mixed = rng.permutation(values)
    wanted = scales(state(values, 1), method)
    for found in (
        state(values, 8),
        state(values, 32),
        state(mixed, 8),
        collect.merged([state(mixed[:cut], 3), state(mixed[cut:], 8)]),
    ):
        for name, scale in scales(found, method).items():
            assert abs(scale / wanted[name] - 1) <= 1e-6, (name, method)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2**63))
def test_a_large_tensor_s_extremes_are_of_all_its_elements(seed, sample):
    values = np.random.default_rng(seed).normal(size=LARGE).astype(np.float32)
    values[int(seed) % LARGE] = -123.0
    found = ranges.histogram_from_samples(values, ranges.draws_from_seeds([sample]))
    assert (found.minimum, found.maximum) == (-123.0, values.max())
    assert found.counts.sum() + found.zeros == ranges.SAMPLED


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(ranges.SAMPLED_ABOVE + 1, LARGE), st.integers(1, 5))
def test_what_is_drawn_of_a_sample_depends_on_no_other(seed, size, count):
    values = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    seeds = [seed + 2**63 + row for row in range(count)]
    together = ranges.histogram_from_samples(values, ranges.draws_from_seeds(seeds))
    single = [
        ranges.histogram_from_samples(row[None], ranges.draws_from_seeds([own]))
        for row, own in zip(values, seeds, strict=True)
    ]
    apart = functools.reduce(ranges.merge, single)
    assert np.array_equal(together.counts, apart.counts)
    assert (together.minimum, together.maximum) == (apart.minimum, apart.maximum)


def test_every_part_of_a_large_tensor_is_drawn_as_often():
    parts, blocks = 400, (ranges.SAMPLED_ABOVE + 16) // 16
    values = np.repeat(np.arange(blocks) % parts + 1, 16).astype(np.float32)[None]
    draws = ranges.draws_from_seeds(range(300))
    found = functools.reduce(ranges.merge, (ranges.histogram_from_samples(values, one[None]) for one in draws))
    counts = found.counts[found.counts > 0] / 16
    expected = 300 * (ranges.SAMPLED / 16) * np.bincount(np.arange(blocks) % parts) / blocks
    assert len(counts) == parts
    assert np.mean(np.square(counts - expected) / expected) < 1.3  # 1 is what chance gives


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_over_some_samples_large_tensors_lose_next_to_nothing_by_being_sampled(seed):
    values = np.random.default_rng(seed).laplace(size=(16, 2 * ranges.SAMPLED)).astype(np.float32)
    drawn = functools.reduce(
        ranges.merge,
        (ranges.histogram_from_samples(one, ranges.draws_from_seeds([seed + i])) for i, one in enumerate(values)),
    )
    whole = ranges.histogram_from_tensor(values)
    lost = [_error(values, thresholds.mse_threshold(found)) for found in (whole, drawn)]
    assert lost[1] <= 1.05 * lost[0]


def _error(values, threshold):
    scale = quantize.scale_from_threshold(threshold)
    return float(np.square(values - quantize.dequantized(quantize.quantized(values, scale), scale)).mean())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, ranges.SAMPLED_ABOVE), st.integers(0, 2**63))
def test_a_small_tensor_is_never_sampled(size, seed):
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    draws = ranges.draws_from_seeds([seed])
    whole, found = ranges.histogram_from_tensor(values), ranges.histogram_from_samples(values, draws)
    assert np.array_equal(whole.counts, found.counts)
