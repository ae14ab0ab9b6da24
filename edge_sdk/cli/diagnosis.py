"""What `edge-sdk doctor` finds of software, each foreign library in a process of its own: some crash on import."""

import contextlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_sdk.device.slots import proving, trials
from edge_sdk.engines import compilers, modules, passport, registry

OK, MISSING, BROKEN, ABSENT = "ok", "missing", "broken", "absent"
"""It works; it is needed and not there; it is there and fails; it is not there and nothing here needs it."""

_IMPORT_S = 60
_CUDA = "usr/local/cuda/version.json"
_DRIVER = "proc/driver/nvidia/version"
_PYCUDA = """
import pycuda.driver as driver
driver.init()
device = driver.Device(0)
print(pycuda.VERSION_TEXT, "on", device.name(), "compute capability %d.%d" % device.compute_capability())
"""


class Finding(NamedTuple):
    """One thing that was looked for.

    Attributes:
        name: of the thing.
        status: OK, MISSING, BROKEN or ABSENT.
        words: its version, or what is wrong.
        remedy: the command that mends it.
        is_needed: no bundle runs here without it.
    """

    name: str
    status: str
    words: str
    remedy: str
    is_needed: bool = False


def look_at_software(root: Path, *, is_jetson: bool) -> list[Finding]:
    """Gives what there is of engines, compilers and readers.

    A Jetson needs TensorRT and pycuda; any other machine an ONNX Runtime.

    Args:
        root: folder with ``proc`` and ``usr``.
        is_jetson: what is needed depends on it.
    """
    jetson, cpu = registry.BACKENDS["tensorrt"].remedy, registry.BACKENDS["onnxruntime"].remedy
    rtx = compilers.COMPILERS["tensorrt-rtx"].remedy
    found = [
        look_at_package("onnxruntime", remedy=cpu, is_needed=not is_jetson, code="import onnxruntime"),
        look_at_package("tensorrt", remedy=jetson, is_needed=is_jetson, code="import tensorrt"),
        look_at_package("pycuda", remedy="pip install 'edge_sdk[jetson]'", is_needed=is_jetson, code=_PYCUDA),
        _cuda(root),
    ]
    if is_jetson:
        found += _release(root, next(one for one in found if one.name == "tensorrt"))
    else:
        found.append(
            look_at_package("tensorrt-rtx-cu13-bindings", remedy=rtx, code="import tensorrt_rtx_bindings"),
        )
    found.append(look_at_package("onnx", remedy="pip install 'edge_sdk[host]' (for `edge-sdk build`)"))
    if is_jetson:
        found.append(look_at_package("jetson-stats", remedy="pip install 'edge_sdk[jetson]' (optional)"))
    elif (root / _DRIVER).exists():
        found.append(look_at_package("nvidia-ml-py", remedy="pip install 'edge_sdk[nvml]'"))
    return found


def look_at_versions(folders: Iterable[Path]) -> list[Finding]:
    """Gives the versions of models that daemons on this machine do not load any more.

    Args:
        folders: their state folders; what this user may not read, or is damaged, is left to the daemon.
    """
    found = []
    for file in (folder / proving.FILE for folder in folders):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(file.read_bytes(), type=trials.Trials)
            remedy = f"install another version, or remove {file} to try once more"
            found += [
                Finding(f"{trial.model} {trial.version}", BROKEN, f"is not loaded any more: {trial.bad}", remedy)
                for trial in known.versions
                if trial.bad
            ]
    return found


def look_at_package(name: str, *, remedy: str, is_needed: bool = False, code: str = "") -> Finding:
    """Gives whether a package is installed and, if `code` is given, whether that runs in a fresh interpreter."""
    version = _version(name)
    if not code:
        status = OK if version else MISSING if is_needed else ABSENT
        return Finding(name, status, version or "not installed", remedy, is_needed)
    problem, words = _try(code)
    if not problem:
        return Finding(name, OK, words or version, remedy, is_needed)
    # JetPack's own packages may have no metadata that pip sees: what counts is whether the code runs.
    if not version and "No module named" in problem:
        return Finding(name, MISSING if is_needed else ABSENT, "not installed", remedy, is_needed)
    return Finding(name, BROKEN, f"{version} is installed, but: {problem}".strip(), remedy, is_needed)


def _try(code: str) -> tuple[str, str]:
    """Runs `code` in a fresh interpreter; gives what went wrong (empty if nothing did) and what it printed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it was not done after {_IMPORT_S} s", ""
    if done.returncode < 0:
        return f"it crashed with signal {-done.returncode}", ""
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return (last if done.returncode else ""), done.stdout.strip()


def _cuda(root: Path) -> Finding:
    """CUDA's toolkit, which pycuda is built with; its driver comes with JetPack or the card's driver."""
    try:
        text = (root / _CUDA).read_text(errors="replace")
    except OSError:
        return Finding("CUDA toolkit", ABSENT, "no /usr/local/cuda", "sudo apt install nvidia-jetpack (on a Jetson)")
    version = re.search(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"', text)
    return Finding("CUDA toolkit", OK, version[1] if version else "of unknown version", "")


def _release(root: Path, tensorrt: Finding) -> list[Finding]:
    """Compares what JetPack brings with what is installed, and says whether the accelerator can be used."""
    release = passport.read_l4t(root)
    row = modules.find_release(release)
    if row is None:
        return [Finding("JetPack", ABSENT, f"L4T {release} is not known to this SDK", "")]
    found = [Finding("JetPack", OK, f"{row.jetpack} (L4T {release}), brings TensorRT {row.tensorrt or 'unknown'}", "")]
    here = _version("tensorrt")
    if tensorrt.status == OK and here and row.tensorrt and not here.startswith(row.tensorrt):
        words = f"{here} is installed, but JetPack {row.jetpack} brings {row.tensorrt}: engines may not load"
        found.append(Finding("TensorRT of JetPack", BROKEN, words, "sudo apt install --reinstall python3-libnvinfer"))
    refusal = modules.dla_refusal(passport.read_part_number(root), tensorrt=here or row.tensorrt, l4t=release)
    found.append(Finding("DLA", ABSENT if refusal else OK, refusal or "can be used", ""))
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
