"""What each settings file may say, read from the settings structs themselves; tools/docs prints it into README."""

import re

import msgspec

from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.device.settings import DaemonSettings, ModelSettings

SETTINGS: dict[str, type[msgspec.Struct]] = {
    "device.toml": DaemonSettings,
    "device.toml, [models.NAME]": ModelSettings,
    "collector.toml": CollectorSettings,
}

_ENTRY = re.compile(r"^ {4,8}(?P<name>[a-z_0-9]+): (?P<meaning>\S.*(?:\n {8,12} +\S.*)*)", re.MULTILINE)


def meanings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Gives what the struct's docstring says of each field, under ``Attributes:``, each on one line."""
    attributes = (kind.__doc__ or "").partition("Attributes:")[2]
    return {match["name"]: " ".join(match["meaning"].split()) for match in _ENTRY.finditer(attributes)}


def default_text(field: msgspec.structs.FieldInfo) -> str:
    """Gives a field's default as TOML spells it; ``required`` where there is none, empty for None."""
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
    if default is msgspec.NODEFAULT:
        return "required"
    if callable(default):
        default = default()
    if default is None:
        return ""
    if default == ():
        return "`[]`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
