"""Who the machine is, for Birth: read once, at the start."""

import os
import re
from pathlib import Path

from edge_sdk.device.sense import boards, files
from edge_sdk.engines import modules, passport

SIMULATED = "edge-sdk-simulated"
"""A file of this name in the root folder says that the board was made up; every Sample then says so."""


def read_machine(root: Path) -> dict[str, str | int | float | None]:
    """Gives what is known of the machine below `root`; None for what is not.

    Returns:
        ``board`` (device tree), ``part`` (P-number), ``module``, ``soc``, ``l4t`` (Jetson Linux release),
        ``jetpack``, ``cpu``, ``cores``, ``kernel``, ``architecture``, ``simulated``.
    """
    part = passport.read_part_number(root)
    module, board = modules.find_module(part), boards.read_board(root)
    cpu = re.search(r"^model name\s*:\s*(.+)$", files.text_or_empty(root / "proc/cpuinfo"), re.MULTILINE)
    l4t = passport.read_l4t(root)
    return {
        "board": files.text_or_empty(root / "proc/device-tree/model") or None,
        "part": part,
        "module": module.name if module else None,
        "soc": board.soc if board else None,
        "l4t": l4t,
        "jetpack": modules.find_jetpack(l4t),
        "cpu": cpu[1] if cpu else None,
        "cores": os.cpu_count(),
        "kernel": files.text_or_empty(root / "proc/sys/kernel/osrelease") or None,
        "architecture": os.uname().machine,
        "simulated": "yes" if (root / SIMULATED).exists() else "no",
    }
