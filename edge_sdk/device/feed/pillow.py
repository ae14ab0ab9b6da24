"""Picture files by Pillow. The device's door to PIL."""

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on palettes and EXIF do not concern the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                turned = ImageOps.exif_transpose(image)
                is_grey = turned.mode in ("1", "L")
                picture = turned.convert("L" if is_grey else "RGB")
                pixels = np.asarray(picture, np.uint8)
    except UnidentifiedImageError as error:
        raise errors.DataError("not a picture") from error
    except (OSError, EOFError, ValueError, SyntaxError, *_BOMBS) as error:  # what Pillow raises for damaged files
        raise errors.DataError(str(getattr(error, "strerror", None) or error)) from error
    return pixels.reshape(*pixels.shape[:2], 1 if is_grey else 3)
