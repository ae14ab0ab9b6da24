"""Images that the detector and the reader of ddddocr were made for, drawn with Pillow alone: the same for the same seed.

Scenes are coloured grounds (gradients, noise, shapes) with a few turned characters; lines are four to six
characters in grey with noise and strokes across.
"""

import math
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 416
LINE = (64, 160)
CHARACTERS = string.digits + string.ascii_lowercase


def scenes(count, seed):
    """uint8[count, 3, 416, 416]."""
    rng = np.random.default_rng(seed)
    return np.stack([_scene(rng) for _ in range(count)])


def lines(count, seed):
    """uint8[count, 1, 64, 160]."""
    rng = np.random.default_rng(seed)
    return np.stack([_line(rng) for _ in range(count)])


def _scene(rng):
    image = _ground(rng)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 8)):
        _shape(draw, rng)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 4))))
    taken = []
    for _ in range(rng.integers(2, 8)):
        _put_character(image, rng, taken)
    pixels = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 14), (SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def _ground(rng):
    """A coarse grid of colours, smoothed to a photograph's slow changes."""
    size = int(rng.integers(2, 12))
    coarse = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _shape(draw, rng):
    x, y = rng.integers(-40, SIDE, 2)
    width, height = rng.integers(20, 220, 2)
    box = [int(x), int(y), int(x + width), int(y + height)]
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    kind = rng.integers(3)
    if kind == 0:
        draw.ellipse(box, fill=colour)
    elif kind == 1:
        draw.rectangle(box, fill=colour)
    else:
        draw.line(box, fill=colour, width=int(rng.integers(1, 12)))


def _put_character(image, rng, taken):
    """Draws a character where none is yet; gives up after a few tries."""
    glyph = _glyph(str(rng.choice(list(CHARACTERS + string.ascii_uppercase))), int(rng.integers(44, 96)), rng)
    for _ in range(20):
        x, y = rng.integers(4, SIDE - 4 - max(glyph.size), 2)
        center = (x + glyph.width / 2, y + glyph.height / 2)
        if all(math.dist(center, other) > (reach + max(glyph.size)) / 2 for other, reach in taken):
            taken.append((center, max(glyph.size)))
            image.paste(glyph, (int(x), int(y)), glyph)
            return


def _glyph(text, size, rng):
    """A turned character with an outline, on a transparent ground, cut to its edges."""
    colour, edge = (tuple(int(value) for value in rng.integers(0, 256, 3)) for _ in range(2))
    layer = Image.new("RGBA", (3 * size, 3 * size))
    draw = ImageDraw.Draw(layer)
    font = ImageFont.load_default(size)
    stroke = int(rng.integers(1, 5))
    draw.text((size, size), text, font=font, fill=(*colour, 255), stroke_width=stroke, stroke_fill=(*edge, 255))
    turned = layer.rotate(float(rng.uniform(-40, 40)), Image.Resampling.BICUBIC)
    return turned.crop(turned.getbbox())


def _line(rng):
    height, width = LINE
    text = "".join(rng.choice(list(CHARACTERS), int(rng.integers(4, 7))))
    paper, ink = int(rng.integers(150, 256)), int(rng.integers(0, 90))
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    x = int(rng.integers(4, 12))
    for character in text:
        size = int(rng.integers(30, 40))
        layer = Image.new("L", (64, 64))
        ImageDraw.Draw(layer).text((16, 8), character, font=ImageFont.load_default(size), fill=255)
        layer = layer.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC)
        left, _, right, _ = layer.getbbox()
        image.paste(ink, (x - left, int(rng.integers(-4, 8))), layer)
        x += right - left + int(rng.integers(1, 4))
    for _ in range(rng.integers(0, 3)):
        ends = [int(value) for value in (0, rng.integers(height), width, rng.integers(height))]
        draw.line(ends, fill=int(rng.integers(60, 200)), width=int(rng.integers(1, 3)))
    pixels = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 20), LINE)
    return np.clip(pixels, 0, 255).astype(np.uint8)[None]
