"""What a source gives, and what every source must do."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from edge_sdk.numerics.pictures import Pixels


class Frame(NamedTuple):
    """One picture.

    Attributes:
        name: file name, or the number of the frame.
        pixels: ``uint8[height, width, 1 or 3]``, red first.
        wall_s: Unix time at which it was taken in.
    """

    name: str
    pixels: Pixels
    wall_s: float


class Source(Protocol):
    """Something that gives frames.

    Attributes:
        is_live: time does not wait for us: what can't be kept up with is left out, the oldest first.
    """

    is_live: bool

    def frames(self) -> Iterator[Frame]:
        """Gives frames until there are no more, or until `close`.

        Raises:
            UsageError: it can't be read.
        """
        ...

    def unreadable(self) -> dict[str, str]:
        """Gives what was passed over so far, with the reason."""
        ...

    def close(self) -> None:
        """Ends `frames` soon; callable from any thread."""
        ...
