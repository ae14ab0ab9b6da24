"""How long the command line takes to answer, against a bare interpreter, in turn."""

import subprocess
import sys
import time
from pathlib import Path

from rows import main, ms, ratio_row

RUNS = 25


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def measure():
    bare = [sys.executable, "-c", "pass"]
    commands = {
        "`python -m edge_sdk --help`": [sys.executable, "-m", "edge_sdk", "--help"],
        "`edge-sdk --help`": [str(Path(sys.executable).with_name("edge-sdk")), "--help"],
    }
    for name, command in commands.items():
        pairs = [(seconds(bare), seconds(command)) for _ in range(RUNS)]
        floor, value = min(a for a, _ in pairs), min(b for _, b in pairs)
        yield ratio_row(f"start of {name}", value, floor, unit=ms, what="bare interpreter", bar=2.0)


if __name__ == "__main__":
    sys.exit(main("start", measure))
