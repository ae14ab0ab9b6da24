"""Who the machine is, for Birth: read once, at the start."""

import os
import re
from pathlib import Path

from edge_sdk.device.sense import files


def read_machine(root: Path) -> dict[str, str | int | float | None]:
    """Gives what is known of the machine below `root`; None for what is not.

    Returns:
        ``board`` (device tree), ``l4t`` (Jetson Linux release), ``cpu``, ``cores``, ``kernel``, ``architecture``.
    """
    cpu = re.search(r"^model name\s*:\s*(.+)$", files.text_or_empty(root / "proc/cpuinfo"), re.MULTILINE)
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", files.text_or_empty(root / "etc/nv_tegra_release"))
    return {
        "board": files.text_or_empty(root / "proc/device-tree/model") or None,
        "l4t": f"{release[1]}.{release[2]}" if release else None,
        "cpu": cpu[1] if cpu else None,
        "cores": os.cpu_count(),
        "kernel": files.text_or_empty(root / "proc/sys/kernel/osrelease") or None,
        "architecture": os.uname().machine,
    }
