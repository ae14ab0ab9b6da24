"""``edge-sdk verify``: is every byte of a bundle right; exit code 3 when it is not."""

import argparse
from pathlib import Path

from edge_sdk.cli import show
from edge_sdk.cli.command import Command
from edge_sdk.wire import bundles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``verify`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")


def run(arguments: argparse.Namespace) -> int:
    """Checks all files against the manifest and says who vouches for it: nobody yet."""
    checked = bundles.read_bundle(arguments.bundle)
    size_bytes = sum(entry.size_bytes for entry in checked.manifest.files.values())
    if arguments.json:
        show.print_json(
            {
                "bundle": str(checked.path),
                "digest": checked.digest,
                "ok": True,
                "signed": False,
                "files": len(checked.manifest.files),
                "size_bytes": size_bytes,
            }
        )
    else:
        print(f"{checked.path}: all {len(checked.manifest.files)} files ({size_bytes:,} bytes) match the manifest")
        print(f"  digest {checked.digest}")
        print("  unsigned: this shows that nothing was damaged, not who made it; compare the digest with the builder's")
    return 0


COMMAND = Command(add_arguments, run, "  edge-sdk verify fashion.edge")
