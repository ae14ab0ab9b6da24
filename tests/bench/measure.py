"""Runs a command as a whole process and gives what the kernel counted for it."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Container
from typing import NamedTuple


class Run(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_bytes: int
    stdout: str
    code: int = 0
    stderr: str = ""


def run(command: list[str], allowed: Container[int] = (0,)) -> Run:
    """Gives wall and CPU seconds and peak memory of the command's largest process, children included.

    An exit code that is not `allowed` ends the bench.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode not in allowed:
            sys.exit(f"{command} ended with {process.returncode}:\n{err.read()}")
        return Run(
            wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out.read(), process.returncode, err.read()
        )


def best(command: list[str], runs: int = 3) -> Run:
    """Gives the run with the least CPU time of `runs`."""
    return min((run(command) for _ in range(runs)), key=lambda one: one.cpu_s)
