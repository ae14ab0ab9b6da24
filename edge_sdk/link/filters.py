"""MQTT's rules for topics and topic filters (MQTT 5.0, section 4.7), so that a mistake is named before it is sent."""

from edge_sdk import errors

_MAX_BYTES = 65535


def matches(topic_filter: str, topic: str) -> bool:
    """Tells whether a broker delivers `topic` to a subscriber of `topic_filter`.

    >>> matches("edge/v1/+/+/up/#", "edge/v1/plant-1/cam-7/up/telemetry")
    True
    >>> matches("#", "$SYS/broker/version")
    False
    >>> matches("$share/collectors/edge/v1/+/+/up/+", "edge/v1/plant-1/cam-7/up/telemetry")
    True
    """
    want, got = topic_filter.split("/"), topic.split("/")
    if want[0] == "$share":  # then the name of the group (MQTT 5.0, section 4.8.2)
        want = want[2:]
    if topic.startswith("$") and want[0] in ("#", "+"):
        return False
    for position, level in enumerate(want):
        if level == "#":
            return True
        if position >= len(got) or level not in ("+", got[position]):
            return False
    return len(want) == len(got)


def check_filter(topic_filter: str) -> None:
    """Lets a well-formed topic filter pass.

    Raises:
        UsageError: empty, too long, a NUL, ``#`` before the end, or a wildcard beside other letters.
    """
    levels = topic_filter.split("/")
    stray = any(len(level) > 1 and ("+" in level or "#" in level) for level in levels) or "#" in levels[:-1]
    if stray or not _is_sound(topic_filter):
        raise errors.UsageError(
            f"{topic_filter[:200]!r} is no topic filter; '+' stands for one whole level, '#' only at the very end"
        )


def check_topic(topic: str) -> None:
    """Lets a topic pass that may be published to.

    Raises:
        UsageError: empty, too long, a NUL, or a wildcard in it.
    """
    if "+" in topic or "#" in topic or not _is_sound(topic):
        raise errors.UsageError(f"{topic[:200]!r} is no topic to publish to: words between '/', no '+', no '#'")


def _is_sound(text: str) -> bool:
    return bool(text) and "\0" not in text and len(text.encode("utf-8", "surrogatepass")) <= _MAX_BYTES
