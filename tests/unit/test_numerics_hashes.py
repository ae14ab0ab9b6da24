"""Perceptual fingerprints: what stays near when a picture is changed, and what does not come near by chance."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edge_sdk.numerics import hashes


def drawn(seed, side=96):
    """A scene of shapes on a gradient, [3, side, side]."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, side)
    ground = np.stack([ramp[:, None] * a + ramp * (1 - a) for a in rng.uniform(0, 1, 3)], axis=2)
    image = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, w, h = rng.integers(0, side, 2).tolist() + rng.integers(side // 8, side // 2, 2).tolist()
        draw.ellipse((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return np.asarray(image).transpose(2, 0, 1)


def jpeg(pixels, quality):
    content = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content)).transpose(2, 0, 1)


def resized(pixels, side):
    return np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).resize((side, side))).transpose(2, 0, 1)


CHANGES = {
    "the same": lambda p: p,
    "encoded again": lambda p: jpeg(p, 30),
    "half the size": lambda p: resized(p, p.shape[1] // 2),
    "darker": lambda p: (p * 0.75).astype(np.uint8),
    "noisy": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 5, p.shape), 0, 255).astype(np.uint8),
    "moved by a pixel": lambda p: np.roll(p, 1, axis=2),
}


def of(*pictures):
    return hashes.joined([hashes.fingerprints(p[None], is_channels_first=True) for p in pictures])


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found_among_others(change):
    scenes = [drawn(seed) for seed in range(30)]
    changed = of(CHANGES[change](scenes[11]))
    assert hashes.near_pairs(changed, of(*scenes), side=96) == [(0, 11)]


def test_other_pictures_and_mirror_images_are_not_near():
    scenes = [drawn(seed) for seed in range(40)]
    assert hashes.near_pairs(of(*scenes[:20]), of(*scenes[20:]), side=96) == []
    assert hashes.near_pairs(of(scenes[0][:, :, ::-1]), of(scenes[0]), side=96) == []


def test_layout_dtype_and_batch_do_not_matter():
    scene = drawn(3)
    wanted = hashes.fingerprints(scene[None], is_channels_first=True)
    last = hashes.fingerprints(np.stack([drawn(1), scene]).transpose(0, 2, 3, 1), is_channels_first=False)
    real = hashes.fingerprints(scene[None] / np.float32(255), is_channels_first=True)
    assert wanted.hashes == last.hashes[1] == real.hashes
    assert hashes.correlation(wanted.thumbnails[0], last.thumbnails[1]) > 0.9999


@pytest.mark.parametrize("side", [8, 28, 96, 417])
def test_any_size_has_a_fingerprint_and_flat_pictures_are_like_none(side):
    found = hashes.fingerprints(np.zeros((2, 1, side, side), np.uint8), is_channels_first=True)
    assert found.thumbnails.shape == (2, 256)
    assert hashes.near_pairs(found, found, side=side) == []


def test_none_against_none():
    assert hashes.near_pairs(hashes.joined([]), of(drawn(0)), side=96) == []
    assert hashes.near_pairs(of(drawn(0)), hashes.joined([]), side=96) == []
