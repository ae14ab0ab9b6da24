"""What looks made up and what does not."""

import numpy as np
import pytest

from edge_sdk.numerics import noise

RNG = np.random.default_rng(4)


def test_pixels_of_noise_are_unrelated_and_those_of_pictures_are_not():
    ramp = np.linspace(0, 1, 32)
    smooth = np.sin(6 * ramp[:, None] + 4 * ramp)[None, None]
    for values, is_noise in ((RNG.normal(size=(20, 3, 32, 32)), True), (smooth, False)):
        first = noise.neighbour_correlations(values, is_channels_first=True)
        last = noise.neighbour_correlations(np.moveaxis(values, 1, 3), is_channels_first=False)
        np.testing.assert_allclose(first, last, atol=1e-6)
        assert ((first < noise.UNRELATED) == is_noise).all()


def test_a_checkerboard_is_no_picture_and_a_flat_one_is_not_judged():
    board = (np.indices((16, 16)).sum(axis=0) % 2)[None, None]
    assert noise.neighbour_correlations(board, is_channels_first=True)[0] < -0.9
    assert noise.neighbour_correlations(np.full((1, 1, 9, 9), 5), is_channels_first=True)[0] == 1


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RNG.uniform(-3, 9, 40_000), "uniform"),
        (RNG.integers(0, 1000, 40_000), "uniform"),
        (RNG.normal(5, 0.1, 40_000).astype(np.float32), "normal"),
        (RNG.gamma(2, size=40_000), ""),
        (RNG.laplace(size=40_000), ""),
        (np.concatenate([RNG.normal(0, 1, 20_000), RNG.normal(6, 1, 20_000)]), ""),
        (RNG.integers(0, 10, 40_000), ""),
        (np.zeros(40_000), ""),
        (RNG.normal(size=1000), ""),
        (np.zeros(0), ""),
    ],
)
def test_textbook_distributions_are_named(values, kind):
    assert noise.textbook_noise(values) == kind
