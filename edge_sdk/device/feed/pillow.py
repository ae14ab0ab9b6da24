"""Picture files by Pillow. The device's door to PIL."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_sdk import errors
from edge_sdk.numerics.pictures import Pixels

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_picture(file: Path) -> Pixels:
    """Gives one picture, turned as its EXIF data says.

    Raises:
        DataError: it can't be read as a picture; the message is the reason alone.
    """
    return _pixels(file)


def picture_from_bytes(content: bytes, max_pixels: int) -> Pixels:
    """Gives the picture in a JPEG or PNG file's content, turned as its EXIF data says.

    Raises:
        DataError: it is neither, is damaged, or has more pixels than that; the message is the reason alone.
    """
    return _pixels(io.BytesIO(content), formats=("JPEG", "PNG"), max_pixels=max_pixels)


def _pixels(
    source: Path | io.BytesIO, *, formats: tuple[str, ...] | None = None, max_pixels: int | None = None
) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on palettes and EXIF do not concern the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=formats) as image:
                if max_pixels is not None and image.width * image.height > max_pixels:
                    raise errors.DataError(f"it has {image.width} x {image.height} pixels, at most {max_pixels:,}")
                turned = ImageOps.exif_transpose(image)
                is_grey = turned.mode in ("1", "L")
                picture = turned.convert("L" if is_grey else "RGB")
                pixels = np.asarray(picture, np.uint8)
    except UnidentifiedImageError as error:
        raise errors.DataError("not a picture") from error
    except (OSError, EOFError, ValueError, SyntaxError, struct.error, *_BOMBS) as error:  # Pillow on damaged files
        raise errors.DataError(str(getattr(error, "strerror", None) or error)) from error
    return pixels.reshape(*pixels.shape[:2], 1 if is_grey else 3)
