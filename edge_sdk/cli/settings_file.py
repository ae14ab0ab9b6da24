"""Reads settings from TOML into a frozen struct; an unknown key is an error that names the nearest known one."""

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_sdk import errors, imports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Settings = TypeVar("_Settings", bound=msgspec.Struct)
_FILE, _CREDENTIAL = "file", "credential"
"""What stands before a colon where a secret is elsewhere."""


def read_settings(file: Path, kind: type[_Settings]) -> _Settings:
    """Gives the settings in a TOML file.

    Raises:
        SettingsError: no such file, not TOML, an unknown key, or a value outside its bounds.
    """
    return settings_from_table(read_table(file), kind, source=str(file))


def read_table(file: Path) -> dict[str, Any]:
    """Gives the tables of a TOML file.

    Raises:
        SettingsError: no such file, or not TOML.
    """
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.SettingsError(f"cannot read the settings file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.SettingsError(f"{file} is not TOML: {error}") from error
    return table


def settings_from_sources(
    kind: type[_Settings],
    file: Path | None,
    options: Mapping[str, object],
    *,
    places: Collection[str],
    secrets: Collection[str] = (),
    defaults: Mapping[str, object] | None = None,
) -> _Settings:
    """Gives `defaults`, overridden by a TOML file, overridden by the options that were given (those not None).

    Args:
        kind: of the settings.
        file: None for none.
        options: by name of the setting.
        places: settings that name a file or folder, or several. In `file` they are relative to its folder, so that they
            mean the same wherever the command is started; a URL stays as it is.
        secrets: settings that may be ``file:PATH``, likewise.
        defaults: what only this machine knows.

    Raises:
        SettingsError: no such file, not TOML, an unknown key, a value outside its bounds, or no such credential.
    """
    table = dict(defaults or {})
    source = "options"
    if file is not None:
        source = str(file)
        listed = read_table(file)
        settings_from_table(listed, kind, source=source)  # before its values are taken for paths
        for name in places:
            if name in listed:
                listed[name] = _placed(listed[name], file.parent)
        for name in secrets:
            scheme, _, place = str(listed.get(name, "")).partition(":")
            if scheme == _FILE:
                listed[name] = f"{_FILE}:{file.parent / place}"
        table.update(listed)
    table.update({name: value for name, value in options.items() if value is not None})
    return settings_from_table(table, kind, source=source)


def _placed(value: str | list[str], folder: Path) -> str | list[str]:
    if isinstance(value, list):
        return [str(folder / text) for text in value]
    return place_from_text(value, folder) if value and "://" not in value else value


def place_from_text(text: str, folder: Path) -> str:
    """Gives the file that a setting names: below `folder`, or for ``credential:NAME`` where systemd has put it.

    Raises:
        SettingsError: a credential, and the service manager gave none of that name.
    """
    name = _credential(text)
    return str(folder / text if name is None else _credential_file(name))


def secret_from_text(text: str) -> str:
    """Gives a secret as it stands in a setting, or the content of the file that ``file:`` or ``credential:`` names.

    Raises:
        SettingsError: no such file or credential, or nothing in it.
    """
    scheme, _, name = text.partition(":")
    if scheme not in (_FILE, _CREDENTIAL):
        return text
    file = Path(name) if scheme == _FILE else _credential_file(name)
    try:
        secret = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise errors.SettingsError(f"cannot read the secret in {file}: {reason}") from error
    if not secret:
        raise errors.SettingsError(f"the file {file} is to hold a secret, and is empty")
    return secret


def _credential(text: str) -> str | None:
    scheme, _, name = text.partition(":")
    return name if scheme == _CREDENTIAL else None


def _credential_file(name: str) -> Path:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")  # noqa: TID251  # the command line reads the environment
    file = Path(folder or "", name)
    if not folder or "/" in name or not file.is_file():
        raise errors.SettingsError(
            f"no credential {name!r}: the unit needs LoadCredential={name}:/path/of/the/file, "
            "and then finds it in $CREDENTIALS_DIRECTORY"
        )
    return file


def settings_from_table(table: dict[str, Any], kind: type[_Settings], *, source: str) -> _Settings:
    """Gives the settings in `table`; fields it lacks keep their defaults.

    Raises:
        SettingsError: an unknown key, or a value outside its bounds.
    """
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    for key in table:
        if key not in known:
            raise errors.SettingsError(
                f"{source}: unknown setting {key!r}{imports.nearest(key, known)}; known: {', '.join(sorted(known))}"
            )
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise errors.SettingsError(f"{source}: {error}") from error
