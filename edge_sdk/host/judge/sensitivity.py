"""Which layers INT8 hurts most, by what it does to each layer's own output, and how few of them must be in float."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from edge_sdk.numerics import scores


class Sensitivity(NamedTuple):
    """One layer: the noise that INT8 puts into its own output, over that output's power, and the same in dB."""

    node: str
    noise_ratio: float

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of the layer's output."""
        return scores.sqnr_db(1.0, self.noise_ratio)


def ranked(noise: Mapping[str, float]) -> tuple[Sensitivity, ...]:
    """Gives the layers, the most harmful first; equals stay in graph order.

    Args:
        noise: by layer, in graph order.
    """
    found = [Sensitivity(node, ratio) for node, ratio in noise.items()]
    return tuple(sorted(found, key=lambda one: -one.noise_ratio))


def reason(one: Sensitivity, rank: int, layers: int) -> str:
    """Says why a layer went back to float."""
    return f"number {rank} of {layers} by measured noise: INT8 leaves {one.sqnr_db:.1f} dB of its own output"


def fewest(order: Sequence[str], holds: Callable[[int], bool]) -> int | None:
    """Gives the smallest number of leading entries of `order` with which the gate holds; None if not even all do.

    Doubles the number until the gate holds, then bisects: about twice the logarithm of the answer in checks.

    >>> fewest("abcdefgh", lambda count: count >= 5)
    5
    """
    fails, count = 0, 1
    while count < len(order) and not holds(count):
        fails, count = count, 2 * count
    if count >= len(order):
        count = len(order)
        if not order or not holds(count):
            return None
    while count - fails > 1:
        middle = (fails + count) // 2
        fails, count = (fails, middle) if holds(middle) else (middle, count)
    return count
