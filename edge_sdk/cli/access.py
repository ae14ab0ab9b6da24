"""The options of commands that speak to a broker which does not let everybody in."""

import argparse
from pathlib import Path

from edge_sdk.cli import settings_file
from edge_sdk.link.watch import Access

_FILES = {
    "ca_file": "certificates to trust with mqtts",
    "cert_file": "our own certificate",
    "key_file": "its key",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts user and password, and ``--ca-file``, ``--cert-file`` and ``--key-file`` on a parser."""
    parser.add_argument("--username", metavar="NAME", default="", help="at the broker")
    parser.add_argument(
        "--password-file", metavar="FILE", help="its password: in a file, as other users see the command line"
    )
    for name, meaning in _FILES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FILE", help=meaning)


def access_from_arguments(arguments: argparse.Namespace) -> Access:
    """Gives what these options say.

    Raises:
        SettingsError: the file with the password can't be read.
    """
    file = arguments.password_file
    password = settings_file.secret_from_text(f"file:{file}") if file is not None else ""
    files = {name: getattr(arguments, name) for name in _FILES}
    return Access(username=arguments.username, password=password, **files)
