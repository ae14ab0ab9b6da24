"""What a person hands to `edge-sdk infer`: arrays or pictures, prepared for the network one request at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import data, images, samples
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec


class Request(NamedTuple):
    """One sample with its batch axis of 1, and the name to show for it."""

    name: str
    feeds: Tensors


def requests_from_path(
    path: Path, inputs: tuple[TensorSpec, ...], preprocess: Mapping[str, Preprocess]
) -> Iterator[Request]:
    """Gives the samples of a picture, a folder of pictures, an .npz or an .npy, each prepared for the network.

    Raises:
        DataError: it can't be read or does not fit the model; a folder's unreadable pictures are passed over.
    """
    if path.suffix.lower() in images.SUFFIXES and path.is_file():
        yield _picture(path, inputs, preprocess)
        return
    opened = data.open_data(path, inputs, preprocess=preprocess)
    for batch in opened.batches():
        for row in range(len(batch.digests)):
            feeds = {name: values[row : row + 1] for name, values in batch.feeds.items()}
            yield Request(f"{path}[{batch.first + row}]", feeds)


def _picture(path: Path, inputs: tuple[TensorSpec, ...], preprocess: Mapping[str, Preprocess]) -> Request:
    target = images.target_from_inputs(inputs, preprocess)
    try:
        pixels = images.array_from_image(path, target)
    except errors.DataError as error:
        raise errors.DataError(f"{path} can't be read as an image: {error}") from error
    samples.check_array(pixels, inputs[0], preprocess.get(target.name), str(path))
    return Request(str(path), samples.prepared_feeds({target.name: pixels[None]}, inputs, preprocess))
