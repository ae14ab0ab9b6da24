"""Tasks that do in the child what a hostile file might make a library do; the sandbox is handed their import strings."""

import ctypes
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from edge_sdk import errors
from edge_sdk.host.convert import onnx_model
from edge_sdk.host.convert.jobs import Made


def gives(job):
    Path(job.target).write_bytes(b"result")
    return Made(origin=job.source, notes=("done",))


def refuses(job):
    raise errors.ModelError(f"{job.source} is not to my taste")


def finds_fault_with_the_call(job):
    raise errors.DataError("the data is wrong")


def crashes(job):
    ctypes.string_at(0)


def aborts(job):
    os.abort()


def ends_early(job):
    print("I had enough", file=sys.stderr, flush=True)
    os._exit(3)


def ends_as_if_done(job):
    os._exit(0)


def raises(job):
    raise ValueError("a library's own words")


def hangs(job):
    Path(job.target).write_text(str(os.getpid()))
    time.sleep(600)


def computes_for_ever(job):
    while True:
        pass


def takes_memory(job):
    return Made(origin=str(np.ones(2**31, np.float32).sum()))


def writes_much(job):
    with Path(job.target).open("wb") as stream:
        for _ in range(64):
            stream.write(bytes(2**20))


def answers_nonsense(job):
    Path("answer.json").write_text("{")
    os._exit(0)


def answers_too_much(job):
    Path("answer.json").write_bytes(b" " * 2**21)
    os._exit(0)


def answers_over_a_link(job):
    Path("answer.json").symlink_to("/etc/passwd")
    os._exit(0)


def leaves_a_process(job):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return Made(origin=str(process.pid))


def tells_its_descriptors(job):
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    still_open = [f"/proc/self/fd/{number}" for number in numbers if number > 2]
    return Made(origin=" ".join(os.readlink(path) for path in still_open if os.path.islink(path)))


def tells_its_surroundings(job):
    return Made(origin=os.environ.get("EDGE_TEST", ""), notes=(os.getcwd(), *sys.path))


def accepts_mutants(job, count=200):
    """Damages a model in many ways; each must be accepted or refused in words. Gives how many were refused."""
    whole, rng, refused = Path(job.source).read_bytes(), random.Random(0), 0
    for number in range(count):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 4, 32])):
            where = rng.randrange(len(content))
            content[where : where + rng.choice([0, 1, 1, 3])] = rng.randbytes(rng.choice([0, 1, 1, 5]))
        mutant = Path(f"{number}.onnx")
        mutant.write_bytes(content[: rng.choice([len(content), len(content) - 1, rng.randrange(len(content))])])
        try:
            onnx_model.accepted(replace(job, source=str(mutant)))
        except errors.EdgeError:
            refused += 1
        mutant.unlink()
    return Made(origin=str(refused))
