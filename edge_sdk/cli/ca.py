"""``edge-sdk ca``: the fleet's certificates, and a device enrolled in one command."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from edge_sdk import clock, errors, imports
from edge_sdk.cli import show
from edge_sdk.cli.command import Command
from edge_sdk.link.settings import parse_url
from edge_sdk.wire import topics

_AUTHORITY = "edge_sdk.collector.identity.authority"
_DAYS = 90.0
_ACTIONS = ("init", "issue", "renew", "revoke", "list")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``ca`` on the parser."""
    parser.add_argument("action", choices=_ACTIONS, help="init makes an authority; the others work with one")
    parser.add_argument("name", nargs="?", help="device id, or name of a collector or server")
    parser.add_argument("--folder", type=Path, default=Path("fleet-ca"), help="of the authority (default fleet-ca)")
    parser.add_argument("--kind", choices=("device", "collector", "server"), default="device", help="default device")
    parser.add_argument("--host", action="append", default=[], help="server: name or address of it; repeatable")
    parser.add_argument("--days", type=float, default=_DAYS, help="of validity (default 90)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the new files (default NAME)")
    parser.add_argument("--csr", type=Path, metavar="FILE", help="request made on the device, whose key stays there")
    parser.add_argument("--broker", metavar="URL", help="device: mqtts://HOST; writes device.toml as well")
    parser.add_argument("--site", default="default", help="device: site for device.toml (default default)")


def run(arguments: argparse.Namespace) -> int:
    """Does the action and gives 0.

    Raises:
        UsageError: a name that breaks the rule, no authority in the folder, or files in the way.
    """
    if arguments.action not in ("init", "list") and not arguments.name:
        raise errors.UsageError(f"`edge-sdk ca {arguments.action}` needs a NAME, for example cam-7")
    actions = {"init": _init, "issue": _issue, "renew": _renew, "revoke": _revoke, "list": _list}
    document = actions[arguments.action](arguments)
    if arguments.json:
        show.print_json(document)
    else:
        rows = document if isinstance(document, list) else [document]
        print("\n".join(", ".join(f"{name} {value}" for name, value in row.items()) for row in rows))
    return 0


def _init(arguments: argparse.Namespace) -> Any:
    authority = _object("create")(arguments.folder, clock.SystemClock())
    return {"authority": str(arguments.folder), "revocations": str(authority.revocations)}


def _issue(arguments: argparse.Namespace) -> Any:
    out = arguments.out or Path(arguments.name)
    topics.check_name(arguments.kind, arguments.name)
    topics.check_name("site", arguments.site)
    if arguments.broker and not parse_url(arguments.broker).is_tls:
        raise errors.UsageError(f"--broker {arguments.broker}: a certificate needs TLS; expected mqtts://HOST")
    stem = arguments.kind
    taken = [name for name in (f"{stem}.crt", f"{stem}.key", "device.toml") if (out / name).exists()]
    if taken:
        raise errors.UsageError(f"{out} holds {', '.join(taken)} already; choose another folder with --out")
    request = _read(arguments.csr) if arguments.csr else None
    authority = _authority(arguments)
    made = authority.issue(
        arguments.name, kind=arguments.kind, days=arguments.days, request=request, hosts=arguments.host
    )
    files = {f"{stem}.crt": made.certificate, "ca.crt": made.authority}
    if made.key is not None:
        files[f"{stem}.key"] = made.key
    if arguments.kind == "server":
        files["crl.pem"] = authority.revocations.read_bytes()
    if arguments.kind == "device" and arguments.broker:
        files["device.toml"] = _device_toml(arguments).encode()
    _write(out, files)
    return {"name": arguments.name, "folder": str(out), "files": sorted(files), "until_t": made.until_t}


def _renew(arguments: argparse.Namespace) -> Any:
    file = (arguments.out or Path(arguments.name)) / f"{arguments.kind}.crt"
    made = _authority(arguments).renew(arguments.name, _read(file), days=arguments.days)
    _write(file.parent, {file.name: made.certificate})
    return {"name": arguments.name, "files": [str(file)], "until_t": made.until_t}


def _revoke(arguments: argparse.Namespace) -> Any:
    authority = _authority(arguments)
    count = authority.revoke(arguments.name)
    show.say(f"edge-sdk: copy {authority.revocations} to the broker and send it SIGHUP, or restart it")
    return {"name": arguments.name, "revoked": count, "revocations": str(authority.revocations)}


def _list(arguments: argparse.Namespace) -> Any:
    return [
        {"name": one.name, "kind": one.kind, "serial": one.serial, "until_t": one.until_t, "revoked_t": one.revoked_t}
        for one in _authority(arguments).issued()
    ]


def _authority(arguments: argparse.Namespace) -> Any:
    return _object("Authority")(arguments.folder, clock.SystemClock())


def _object(name: str) -> Any:
    try:
        return imports.object_from_spec(f"{_AUTHORITY}:{name}")
    except ImportError as error:
        raise errors.UsageError(
            f"certificates need cryptography, which is not installed: {error}; pip install 'edge_sdk[ca]'"
        ) from error


def _device_toml(arguments: argparse.Namespace) -> str:
    settings = {
        "broker": arguments.broker,
        "site": arguments.site,
        "device": arguments.name,
        "ca_file": "ca.crt",
        "cert_file": "device.crt",
        "key_file": "device.key",
    }
    # A string of JSON is one of TOML.
    return "".join(f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in settings.items())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise errors.UsageError(f"cannot read {file}: {error.strerror}") from error


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _object("write_private")(folder / name, content)
    except OSError as error:
        raise errors.UsageError(f"cannot write to {folder}: {error.strerror}") from error


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk ca init\n"
    "  edge-sdk ca issue broker --kind server --host broker.plant.example --out broker\n"
    "  edge-sdk ca issue cam-7 --broker mqtts://broker.plant.example --site plant-1\n"
    "  edge-sdk ca revoke cam-7",
)
