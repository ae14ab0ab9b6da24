"""Reads this machine's passport, and compares an engine's with it before a byte of the engine is used."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge_sdk import errors
from edge_sdk.engines import modules
from edge_sdk.records.passport import EnginePassport, Passport

MEMORY_SLACK_RATIO = 0.05
"""Two modules of the same kind differ this much in the memory that the kernel and carve-outs leave."""

VERSION_STEPS = {(8, 10), (10, 11)}
"""Major versions of TensorRT that a version-compatible engine can cross; 8 to 11 never (support matrix of 11.4.1)."""

_REBUILD = "build it on this machine: edge-sdk compile BUNDLE --backend tensorrt"


class Gpu(NamedTuple):
    """What the CUDA driver says of the device.

    Attributes:
        name: for people.
        compute_capability: for example ``8.7``.
        sm_count: streaming multiprocessors.
        memory_bytes: in all.
        cuda: version of the driver interface.
        is_integrated: shares its memory with the CPU, as on a Jetson.
        can_map: page-locked host memory can be mapped for the device.
    """

    name: str
    compute_capability: str
    sm_count: int
    memory_bytes: int
    cuda: str
    is_integrated: bool
    can_map: bool


def read_passport(root: Path, gpu: Gpu, *, tensorrt: str) -> Passport:
    """Gives the passport of this machine.

    Args:
        root: of the file system, ``/`` outside tests.
        gpu: from the CUDA driver.
        tensorrt: version of the installed TensorRT.
    """
    part = read_part_number(root)
    module = modules.find_module(part)
    return Passport(
        module=part or gpu.name,
        compute_capability=gpu.compute_capability,
        sm_count=gpu.sm_count,
        dla_cores=module.dla_cores if module else 0,
        l4t=read_l4t(root),
        tensorrt=tensorrt,
        cuda=gpu.cuda,
        memory_bytes=gpu.memory_bytes,
    )


def check_passport(engine: EnginePassport, here: Passport) -> None:
    """Raises BundleError unless the engine may run here; the message has every field that differs, and the remedy.

    Two modules with one compute capability are still two (an Orin Nano has 4 or 8 SMs, an AGX Orin up to 16), so
    module and SM count count as well. Unknown on either side is a difference where the field decides.
    """
    differences = [text for rule in _RULES if (text := rule(engine, here))]
    if differences:
        listed = "\n  ".join(differences)
        raise errors.BundleError(f"this engine is for another machine:\n  {listed}\n{_REBUILD}")


def mismatches(engine: EnginePassport, here: Passport) -> int:
    """Gives how many fields keep the engine from running here; 0 means that it may."""
    return sum(1 for rule in _RULES if rule(engine, here))


def _same(label: str, field: str, *, is_needed: bool, parts: int | None = None) -> Callable[..., str]:
    """Gives a rule: the field is the same on both sides, as far as its first `parts` numbers go."""

    def rule(engine: EnginePassport, here: Passport) -> str:
        want, got = getattr(engine.built_on, field), getattr(here, field)
        if want is None and got is None:
            return f"{label}: could not be read, neither then nor here" if is_needed else ""
        if want is not None and got is not None and _cut(want, parts) == _cut(got, parts):
            return ""
        return f"{label}: built for {_shown(field, want)}, here is {_shown(field, got)}"

    return rule


def _hardware(engine: EnginePassport, here: Passport) -> str:
    """Compute capability, unless the engine was built for several; JetPack has no such mode, so not there."""
    moves = engine.hardware_compatible and here.l4t is None and engine.built_on.l4t is None
    return "" if moves else _same("compute capability", "compute_capability", is_needed=True)(engine, here)


def _multiprocessors(engine: EnginePassport, here: Passport) -> str:
    moves = engine.hardware_compatible and here.l4t is None and engine.built_on.l4t is None
    return "" if moves else _same("streaming multiprocessors", "sm_count", is_needed=True)(engine, here)


def _module(engine: EnginePassport, here: Passport) -> str:
    moves = engine.hardware_compatible and here.l4t is None and engine.built_on.l4t is None
    return "" if moves else _same("module", "module", is_needed=False)(engine, here)


def _version(engine: EnginePassport, here: Passport) -> str:
    """Every part of TensorRT's version, build number included."""
    want, got = engine.built_on.tensorrt, here.tensorrt
    if want is not None and want == got:
        return ""
    text = f"TensorRT: built with {want}, here is {got}"
    if want and got and engine.version_compatible:
        step = modules.version_parts(want)[0], modules.version_parts(got)[0]
        if step[0] != step[1] and step not in VERSION_STEPS:
            return f"{text}; a version-compatible engine cannot go from {step[0]} to {step[1]}"
    return text


def _host_code(engine: EnginePassport, here: Passport) -> str:  # noqa: ARG001 - a rule takes both sides
    if not engine.version_compatible:
        return ""
    return "host code: it was built version-compatible, so it carries host code, which is never allowed to run here"


def _accelerator(engine: EnginePassport, here: Passport) -> str:
    core = engine.dla_core
    if core is None or core < here.dla_cores:
        return ""
    return f"DLA: built for core {core} of {engine.built_on.dla_cores}, here are {here.dla_cores}"


def _memory(engine: EnginePassport, here: Passport) -> str:
    want, got = engine.built_on.memory_bytes, here.memory_bytes
    if want is None or (got is not None and got >= want * (1 - MEMORY_SLACK_RATIO)):
        return ""
    return f"memory: built with {_shown('memory_bytes', want)}, here is {_shown('memory_bytes', got)}"


_RULES: tuple[Callable[[EnginePassport, Passport], str], ...] = (
    _module,
    _hardware,
    _multiprocessors,
    _version,
    _host_code,
    _same("CUDA", "cuda", is_needed=False, parts=1),
    _same("L4T", "l4t", is_needed=False, parts=2),
    _accelerator,
    _memory,
)


def _cut(value: object, parts: int | None) -> object:
    return value if parts is None else modules.version_parts(str(value))[:parts]


def _shown(field: str, value: object) -> str:
    if value is None:
        return "unknown"
    if field == "module":
        known = modules.find_module(str(value))
        return f"{value} ({known.name})" if known else str(value)
    if field == "l4t":
        return modules.jetpack_text(str(value))
    return f"{int(str(value)) / 2**30:.1f} GiB" if field == "memory_bytes" else str(value)


def read_l4t(root: Path) -> str | None:
    """Gives the version of Jetson Linux, for example ``36.4.3``; None on other machines."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"{release[1]}.{release[2]}" if release else None


def read_part_number(root: Path) -> str | None:
    """The module's P-number; the device tree names the carrier board as well, which is no matter to an engine."""
    for name in ("proc/device-tree/compatible", "proc/device-tree/nvidia,dtsfilename"):
        found = re.findall(r"p\d{4}-\d{4}", _text(root / name))
        known = [part for part in found if modules.find_module(part)]
        if found:
            return str((known or found)[0])
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").replace("\0", "\n")
    except OSError:
        return ""
