"""Every layer beside its own INT8 twin, all in one pass: what INT8 does to each by itself.

Both get the same float input, so that no layer is blamed for what reached it from the layers before. One session over a
few samples then ranks all layers; measured at the outputs instead, each layer would need a session of its own.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from edge_sdk.engines import ort
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.graph import bias, placement
from edge_sdk.host.graph import model as models
from edge_sdk.host.job import Shifts
from edge_sdk.records.bundle import Range

SAMPLES = 8
"""Each adds all its pixels to the sums of a layer; a fully connected layer has its rows of weights instead."""


class Layerwise(NamedTuple):
    """What one pass measured.

    Attributes:
        noise: by layer, the power of what INT8 changes of its output over the power of that output.
        shifts: by layer, what INT8 takes from the mean of each of its channels; not of layers that can have no bias.
    """

    noise: dict[str, float]
    shifts: Shifts


def measured(
    base: models.Model, placed: placement.Placement, ranges: Mapping[str, Range], feeds: Iterable[Tensors]
) -> Layerwise:
    """Gives the noise and the shifts of all layers in INT8, over `feeds`."""
    content, names = bias.model_of_twins(base, placed, {name: found.scale for name, found in ranges.items()})
    wanted = [name for found in names.values() for name in found if name]
    run = ort.runner_from_model(content, wanted, is_brief=True)
    del content  # the session has it
    count = 0
    sums = {layer: np.zeros(2) for layer in names}
    means = {layer: np.zeros(1) for layer, found in names.items() if found.mean}
    for batch in feeds:
        size = len(next(iter(batch.values())))
        count += size
        found = run(batch)
        for layer, one in names.items():
            sums[layer] += [float(found[one.noise]), float(found[one.power])]
            if one.mean:
                means[layer] = means[layer] + found[one.mean].astype(np.float64) * size
    noise = {layer: _ratio(*total.tolist()) for layer, total in sums.items()}
    return Layerwise(noise, {layer: (total / count).astype(np.float32) for layer, total in means.items()})


def _ratio(noise: float, power: float) -> float:
    return noise / power if power else float(noise > 0)
