"""Pictures to raw inputs: the same numbers as the usual library, in every layout, by every rule."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_sdk.numerics import pictures
from edge_sdk.numerics.pictures import Layout
from edge_sdk.numerics.preprocess import prepared
from edge_sdk.records.bundle import Preprocess

SQUARE = Layout(3, 8, 8, True)


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def by_pillow(pixels, height, width):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("before", "after"), [((480, 640), (224, 224)), ((30, 50), (64, 64)), ((7, 9), (7, 18)), ((100, 3), (1, 1))]
)
def test_a_resized_picture_is_that_of_pillow_to_one_level(before, after):
    pixels = noise(*before)

    off = np.abs(pictures.resized(pixels, *after).astype(int) - by_pillow(pixels, *after).astype(int))

    assert off.max() <= 1
    assert (off > 0).sum() <= max(1, 0.01 * off.size)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 255),
)  # fmt: skip
def test_an_even_picture_stays_even_at_every_size(before, after, level):
    assert (pictures.resized(np.full((*before, 3), level, np.uint8), *after) == level).all()


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from(["stretch", "letterbox", "crop"]))
def test_every_rule_gives_the_size_that_the_network_takes(size, resize):
    raw = pictures.raw_from_picture(noise(*size), Layout(3, 12, 20, True), Preprocess(resize=resize))

    assert (raw.shape, raw.dtype, raw.flags.c_contiguous) == ((1, 3, 12, 20), np.uint8, True)


def test_grey_is_that_of_pillow():
    pixels = noise(20, 30)

    raw = pictures.raw_from_picture(pixels, Layout(1, 20, 30, True), Preprocess())

    assert np.array_equal(raw[0, 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_a_grey_picture_becomes_three_equal_channels():
    raw = pictures.raw_from_picture(noise(8, 8, 1), SQUARE, Preprocess())

    assert np.array_equal(raw[0, 0], raw[0, 1])
    assert np.array_equal(raw[0, 0], raw[0, 2])


def test_layout_and_colour_order_follow_the_rule():
    pixels = noise(8, 8)

    first = pictures.raw_from_picture(pixels, SQUARE, Preprocess())
    last = pictures.raw_from_picture(pixels, Layout(3, 8, 8, False), Preprocess(color="bgr"))

    assert np.array_equal(first[0].transpose(1, 2, 0), pixels)
    assert np.array_equal(last[0, :, :, ::-1], pixels)


def test_a_letterbox_keeps_proportions_and_fills_both_sides_alike():
    raw = pictures.raw_from_picture(np.full((4, 8, 3), 200, np.uint8), SQUARE, Preprocess(resize="letterbox"))[0, 0]

    assert (raw[2:6] == 200).all()
    assert (raw[:2] == 114).all()
    assert (raw[6:] == 114).all()


def test_a_crop_keeps_the_middle():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 200

    assert (pictures.raw_from_picture(pixels, SQUARE, Preprocess(resize="crop")) == 200).all()


def test_a_free_axis_keeps_the_pictures_own_size():
    raw = pictures.raw_from_picture(noise(5, 7), Layout(3, None, None, True), Preprocess(resize="letterbox"))

    assert raw.shape == (1, 3, 5, 7)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((None, 3, 8, 9), "auto", Layout(3, 8, 9, True)),
        ((1, 8, 9, 3), "auto", Layout(3, 8, 9, False)),
        ((1, 3, 9, 3), "auto", Layout(3, 9, 3, True)),
        ((1, 3, 9, 3), "nhwc", Layout(3, 3, 9, False)),
        ((1, 1, None, None), "auto", Layout(1, None, None, True)),
    ],
)
def test_the_layout_is_what_shape_and_rule_say(shape, layout, expected):
    assert pictures.layout_from_shape(shape, Preprocess(layout=layout)) == expected


@pytest.mark.parametrize(("shape", "layout"), [((1, 3), "auto"), ((1, 4, 8, 8), "auto"), ((1, 3, 8, 8), "nhwc")])
def test_what_is_no_picture_is_refused(shape, layout):
    with pytest.raises(ValueError, match="pictures fit an input"):
        pictures.layout_from_shape(shape, Preprocess(layout=layout))


def test_mean_and_deviation_run_along_the_channels_wherever_they_are():
    rule = {"mean": (1.0, 2.0, 3.0), "std": (1.0, 2.0, 4.0)}
    raw = noise(4, 5)[None]

    last = prepared(raw, Preprocess(layout="nhwc", **rule))
    first = prepared(raw.transpose(0, 3, 1, 2), Preprocess(**rule))

    assert np.array_equal(last, first.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match="mean has 3 values"):
        prepared(raw, Preprocess(**rule))


def test_a_rule_writes_only_what_is_not_the_default():
    """A device with an SDK of before reads every bundle whose rules it can follow."""
    assert msgspec.json.encode(Preprocess(scale=0.5)) == b'{"scale":0.5}'
    assert msgspec.json.decode(b'{"scale":1.0,"mean":[0.0],"std":[1.0]}', type=Preprocess) == Preprocess()
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"resize":"zoom"}', type=Preprocess)
