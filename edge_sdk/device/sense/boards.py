"""What is known of Jetson boards' power rails: data, with where each row comes from.

"Total power" means another boundary on each board, so a total carries its boundary, and rails are never summed:
which rail is behind which is known for some boards only. Compute capability, DLA cores and JetPack releases stand in
`edge_sdk.engines.modules`.
"""

from pathlib import Path
from typing import NamedTuple

from edge_sdk.device.sense import files
from edge_sdk.engines import modules, passport

TOTAL, CHILD, NONE = "total", "child", "none"
"""Roles of a rail: all of the boundary; a part of the total; neither is known."""


class Rail(NamedTuple):
    """One rail that a board's current monitors measure.

    Attributes:
        label: as the driver names it.
        role: TOTAL, CHILD or NONE.
        source: where this was read.
    """

    label: str
    role: str
    source: str


class Board(NamedTuple):
    """One family of modules.

    Attributes:
        part: start of its P-numbers, as in `modules.MODULES`.
        names: what the device tree's model holds, for a board that tells no P-number.
        soc: as the device tree names it.
        boundary: what the total rail covers; empty where there is no total.
        rails: all that NVIDIA's device trees name.
        source: of the boundary.
    """

    part: str
    names: tuple[str, ...]
    soc: str
    boundary: str
    rails: tuple[Rail, ...]
    source: str


_JTOP = "rbonghi/jetson_stats jtop/core/power.py, tests/tegrastats"
_TX2 = "Jetson Linux Developer Guide 32.x, Power Management for TX2, table of INA3221 rails"
_VDD_IN = "forums.developer.nvidia.com/t/200883: VDD_IN is the module's whole input, with DDR and interface rails"
_XAVIER = "Design Guide DG-09840 5.6.2; forums.developer.nvidia.com/t/75574: SYS5V has all but DDR, CPU, GPU and CV"
_ORIN = "mainline device tree of tegra234-p3701: two INA3221 with 2 mOhm shunts, summation disabled"
_THOR = "rbonghi/jetson_stats#900; forums.developer.nvidia.com/t/366461"


def _rails(source: str, role: str, *labels: str) -> tuple[Rail, ...]:
    return tuple(Rail(label, role, source) for label in labels)


_POM = (*_rails(_JTOP, TOTAL, "POM_5V_IN"), *_rails(_JTOP, CHILD, "POM_5V_GPU", "POM_5V_CPU"))
_MODULE_INPUT = (*_rails(_VDD_IN, TOTAL, "VDD_IN"), *_rails(_VDD_IN, CHILD, "VDD_CPU_GPU_CV", "VDD_SOC"))

BOARDS: tuple[Board, ...] = (
    Board("p3448", ("Jetson Nano",), "tegra210", "module", _POM, _JTOP),
    Board("p2180", ("jetson_tx1", "Jetson TX1", "jetson-tx1"), "tegra210", "module", _POM, _JTOP),
    Board(
        "p3310",
        ("Jetson TX2", "jetson_tx2", "quill"),
        "tegra186",
        "module",
        (
            *_rails(_TX2, TOTAL, "VDD_IN"),
            *_rails(_TX2, CHILD, "VDD_SYS_CPU", "VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_SYS_DDR"),
            *_rails(f"{_TX2}; not confirmed whether behind VDD_IN", NONE, "VDD_4V0_WIFI"),
        ),
        _VDD_IN,
    ),
    Board(
        "p2888",
        ("AGX Xavier", "Jetson-AGX"),
        "tegra194",
        "",
        _rails(_XAVIER, NONE, "GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        _XAVIER,
    ),
    Board("p3668", ("Xavier NX",), "tegra194", "module", _MODULE_INPUT, _VDD_IN),
    Board(
        "p3701",
        ("AGX Orin",),
        "tegra234",
        "",
        (
            *_rails(_ORIN, NONE, "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
            *_rails(f"{_ORIN}; not confirmed whether behind VIN_SYS_5V0", NONE, "VDDQ_VDD2_1V8AO"),
        ),
        _ORIN,
    ),
    Board("p3767", ("Orin NX", "Orin Nano"), "tegra234", "module", _MODULE_INPUT, _VDD_IN),
    Board(
        "p3834",
        ("Thor",),
        "tegra264",
        "module+carrier",
        (
            *_rails(f"{_THOR}: the INA238 sees module, carrier and all behind its shunt", TOTAL, "VIN"),
            *_rails(_THOR, CHILD, "VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        ),
        _THOR,
    ),
)

UNUSED = ("", "NC", "sum of shunt voltages")
"""Labels of channels that are connected to nothing (Orin's device tree) or no rail (kernel document of ina3221)."""


def find_board(part: str | None, model: str) -> Board | None:
    """Gives the board by P-number, else by the name in the device tree's model, else None.

    >>> find_board("p3767-0005", "").boundary
    'module'
    """
    for board in BOARDS:
        if part and part.startswith(board.part):
            return board
    return next((board for board in BOARDS if not part and any(name in model for name in board.names)), None)


def read_board(root: Path) -> Board | None:
    """Gives the board below `root` by its device tree, or None."""
    return find_board(passport.read_part_number(root), files.text_or_empty(root / "proc/device-tree/model"))


def read_module(root: Path) -> modules.Module | None:
    """Gives the module below `root`, or None."""
    return modules.find_module(passport.read_part_number(root))


def boundary_of(label: str, board: Board | None) -> str:
    """Gives what the total rail `label` covers; empty when that rail is no total.

    On a board that is not known, a label counts that is the total wherever it is known: carriers and device trees of
    other makers keep NVIDIA's labels.

    >>> boundary_of("VDD_IN", None), boundary_of("VIN_SYS_5V0", None)
    ('module', '')
    """
    rows = [(one, rail) for one in ([board] if board else BOARDS) for rail in one.rails if rail.label == label]
    if not rows or any(rail.role != TOTAL for _, rail in rows):
        return ""
    return rows[0][0].boundary
