"""The topic grammar: the only place with a ``/`` between words. `parse` and ``str()`` are inverses."""

import re
from typing import NamedTuple

from edge_sdk import errors

ROOT = "edge/v1"
NAME = re.compile(r"[a-z0-9-]{1,63}")
UP = ("status", "birth", "telemetry", "event")
_TOPIC = re.compile(
    r"edge/v1/(?P<site>[a-z0-9-]{1,63})/(?P<device>[a-z0-9-]{1,63})/"
    r"(?P<leaf>up/(?:status|birth|telemetry|event)|down/receipt|down/cmd/[a-z0-9-]{1,63})"
)


class Topic(NamedTuple):
    """One address: a device of a site and what is said there (``up/telemetry``, ``down/receipt`` ...)."""

    site: str
    device: str
    leaf: str

    def __str__(self) -> str:
        """Gives the MQTT topic."""
        return f"{ROOT}/{self.site}/{self.device}/{self.leaf}"


def parse(text: str) -> Topic:
    """Gives the Topic that `text` spells.

    Raises:
        PayloadError: it is not one of ours.

    >>> parse("edge/v1/plant-1/cam-7/up/telemetry").device
    'cam-7'
    """
    match = _TOPIC.fullmatch(text)
    if match is None:
        raise errors.PayloadError(f"not a topic of edge_sdk: {text[:200]!r}; expected edge/v1/SITE/DEVICE/up|down/...")
    return Topic(match["site"], match["device"], match["leaf"])


def up(site: str, device: str, what: str) -> str:
    """Gives the topic on which a device speaks; `what` is one of UP, or ``+`` in a filter."""
    return str(Topic(site, device, f"up/{what}"))


def receipt(site: str, device: str) -> str:
    """Gives the topic on which the collector acknowledges what it has committed."""
    return str(Topic(site, device, "down/receipt"))


def check_name(kind: str, name: str) -> str:
    """Gives `name` back if it may stand in a topic.

    Raises:
        UsageError: it may not.
    """
    if NAME.fullmatch(name) is None:
        raise errors.UsageError(f"{kind} {name!r} must match [a-z0-9-]{{1,63}}: lower-case letters, digits and '-'")
    return name
