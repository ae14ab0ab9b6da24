"""The user's own code, ``module:function`` or ``file.py:function``, to the network that it gives."""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_sdk import errors, imports
from edge_sdk.host.compress.pytorch import Module, check_installed, torch, worded


def net_from_spec(spec: str) -> Module:
    """Gives the network that a function without arguments returns, or that the name itself is, in evaluation mode.

    The function may return ``(module, example inputs)``, as for a build; the inputs are the data's here.
    Its code runs in this process, with all its rights: name only code that you trust.

    Raises:
        UsageError: there is no such file, module or name; it fails (with its own words); it gives no torch.nn.Module.
    """
    check_installed()
    where, _, name = spec.rpartition(":")
    with _importable(Path(where).parent if where.endswith(".py") else Path()):
        with worded(f"{spec} can't be opened", errors.UsageError):
            found = _from_file(Path(where), name) if where.endswith(".py") else imports.object_from_spec(spec)
        if not isinstance(found, torch.nn.Module) and callable(found):
            with worded(f"{spec} failed", errors.UsageError):
                found = found()
    if isinstance(found, tuple) and len(found) == 2:
        found, _ = found
    if not isinstance(found, torch.nn.Module) or not list(found.parameters()):
        raise errors.UsageError(
            f"{spec} gave {type(found).__name__}; expected a torch.nn.Module with weights, or a function "
            "that returns one or (module, example inputs)"
        )
    return found.eval()


def _from_file(file: Path, name: str) -> Any:
    if not file.is_file():
        raise errors.UsageError(f"there is no file {file}; expected file.py:function or module:function")
    names = runpy.run_path(str(file), run_name=file.stem)
    if name not in names:
        public = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise errors.UsageError(
            f"{file} has no {name!r}{imports.nearest(name, public)}; it has {', '.join(public) or 'nothing'}"
        )
    return names[name]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets what lies in `folder` be imported inside the block, as Python does for a script that it runs."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
