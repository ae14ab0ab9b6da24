"""The options of commands that speak to a broker which asks for certificates."""

import argparse
from pathlib import Path

from edge_sdk.link.watch import Access

_FILES = {
    "ca_file": "certificates to trust with mqtts",
    "cert_file": "our own certificate",
    "key_file": "its key",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts ``--ca-file``, ``--cert-file`` and ``--key-file`` on a parser."""
    for name, meaning in _FILES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FILE", help=meaning)


def access_from_arguments(arguments: argparse.Namespace) -> Access:
    """Gives what these options say."""
    return Access(**{name: getattr(arguments, name) for name in _FILES})
