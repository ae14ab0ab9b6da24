"""What is known of Jetson modules, their releases and accelerators: data, with where each row comes from."""

from typing import NamedTuple


class Module(NamedTuple):
    """One Jetson module.

    Attributes:
        part: start of its P-number, as the device tree gives it.
        name: for people.
        compute_capability: of its GPU.
        has_int8: TensorRT has INT8 kernels for it.
        dla_cores: deep learning accelerators.
        source: where this was read.
    """

    part: str
    name: str
    compute_capability: str
    has_int8: bool
    dla_cores: int
    source: str


_JETSON_STATS = "jetson_stats jtop/core/jetson_variables.py"
_GUIDE = "Ultralytics' guide to NVIDIA Jetson, table of modules"

MODULES: tuple[Module, ...] = (
    Module("p3448", "Jetson Nano", "5.3", False, 0, f"{_JETSON_STATS}; ceccocats/tkDNN#26"),
    Module("p2180", "Jetson TX1", "5.3", False, 0, f"{_JETSON_STATS}; ceccocats/tkDNN#26"),
    Module("p3310", "Jetson TX2", "6.2", False, 0, f"{_JETSON_STATS}; AlexeyAB/yolo2_light#26"),
    Module("p2888", "Jetson AGX Xavier", "7.2", True, 2, f"{_JETSON_STATS}; {_GUIDE}"),
    Module("p3668", "Jetson Xavier NX", "7.2", True, 2, f"{_JETSON_STATS}; {_GUIDE}"),
    Module("p3701", "Jetson AGX Orin", "8.7", True, 2, f"{_JETSON_STATS}; {_GUIDE}"),
    Module("p3767-0000", "Jetson Orin NX 16 GB", "8.7", True, 2, f"{_JETSON_STATS}; {_GUIDE}"),
    Module("p3767-0001", "Jetson Orin NX 8 GB", "8.7", True, 1, f"{_JETSON_STATS}; {_GUIDE}"),
    Module("p3767", "Jetson Orin Nano", "8.7", True, 0, f"{_GUIDE} (it lists none)"),
    Module("p3834", "Jetson Thor", "11.0", True, 0, f"{_JETSON_STATS}; DRIVE OS 7.0.3 release properties"),
)
"""The first row whose `part` begins the P-number holds."""


class Release(NamedTuple):
    """One JetPack.

    Attributes:
        l4t: start of the Jetson Linux version.
        jetpack: what people call it.
        tensorrt: that it brings.
        source: where this was read.
    """

    l4t: str
    jetpack: str
    tensorrt: str
    source: str


RELEASES: tuple[Release, ...] = (
    Release("35.3.1", "5.1.1", "8.5.2", "rbonghi/jetson_stats#525"),
    Release("36.3", "6.0", "8.6.2", "dusty-nv/jetson-containers l4t_version.py"),
    Release("36.4.3", "6.2", "10.3.0", "pytorch/TensorRT#3453"),
    Release("36.4.4", "6.2.1", "10.3.0", "jetson_stats 7.2.2"),
    Release("36.4.7", "6.2.1", "10.3.0", "jetson_stats 7.2.2"),
    Release("36.4", "6.1", "10.3.0", "pytorch/TensorRT documentation for Jetson"),
    Release("36.5", "6.2.2", "10.3.0", "jetson_stats 7.2.2"),
    Release("38.2", "7.0", "10.13.3", "NVIDIA/TensorRT#4590"),
    Release("38.4", "7.1", "10.13.3", "NVIDIA IsaacTeleop#1050"),
    Release("39.2.0", "7.2", "10.16.2", "OE4T/meta-tegra#2224"),
    Release("39.2.1", "7.2.1", "10.16.2", "OE4T/meta-tegra#2348"),
    Release("39.2.2", "7.2.2", "", "jetson_stats; TensorRT 11.4.1 migration page for Jetson"),
)
"""The first row whose `l4t` begins the version holds."""


def find_module(part: str | None) -> Module | None:
    """Gives what is known of a P-number such as ``p3767-0001``, or None."""
    return next((row for row in MODULES if part and part.startswith(row.part)), None)


def jetpack_text(l4t: str | None) -> str:
    """Gives a Jetson Linux version in the words of a message.

    >>> jetpack_text("36.4.3")
    '36.4.3 (JetPack 6.2)'
    """
    jetpack = find_jetpack(l4t)
    return f"{l4t} (JetPack {jetpack})" if jetpack else str(l4t)


def find_jetpack(l4t: str | None) -> str | None:
    """Gives the JetPack of a Jetson Linux version, or None.

    >>> find_jetpack("36.4.3")
    '6.2'
    """
    row = find_release(l4t)
    return row.jetpack if row else None


def find_release(l4t: str | None) -> Release | None:
    """Gives what is known of a Jetson Linux version such as ``36.4.3``, or None."""
    return next((row for row in RELEASES if l4t and f"{l4t}.".startswith(f"{row.l4t}.")), None)


def dla_refusal(part: str | None, *, tensorrt: str, l4t: str | None) -> str:
    """Gives why the deep learning accelerator cannot be used here; empty when it can.

    TensorRT 10.7 was the last of the 10 series with DLA, 11.0 to 11.3 have none; 11.4.1 brings it back for AGX Orin
    with JetPack 7.2.2 or later, never for Thor (NVIDIA's TensorRT 11.4.1 documentation, "Working with DLA").
    """
    module = find_module(part)
    if module is None:
        return f"{part or 'this machine'} is no Jetson module that is known to have a DLA"
    if not module.dla_cores:
        return f"{module.name} has no DLA ({module.source})"
    version = version_parts(tensorrt)
    if version < (10, 8):
        return ""
    if version < (11, 4, 1):
        return f"TensorRT {tensorrt} has no DLA: 10.7 was the last before 11.4.1"
    if not module.part.startswith("p3701"):
        return f"TensorRT {tensorrt} drives the DLA of AGX Orin only, and this is a {module.name}"
    if version_parts(l4t or "0") < (39, 2, 2):
        return f"TensorRT {tensorrt} needs JetPack 7.2.2 (L4T 39.2.2) for the DLA, and here is L4T {l4t}"
    return ""


def version_parts(text: str) -> tuple[int, ...]:
    """Gives the leading numbers of a version: ``10.3.0.26`` is (10, 3, 0, 26).

    >>> version_parts("11.4.1+cuda13")
    (11, 4, 1)
    """
    parts: list[int] = []
    for piece in text.split("+", maxsplit=1)[0].split("."):
        if not piece.isdigit():
            break
        parts.append(int(piece))
    return tuple(parts)
