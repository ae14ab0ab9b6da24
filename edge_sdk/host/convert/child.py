"""What runs in the child process: put the limits on, do one task, write the answer, end."""

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec

from edge_sdk import errors, imports
from edge_sdk.host.convert.jobs import Answer, Job, Made, Request
from edge_sdk.host.convert.limits import Limits

ANSWER = "answer.json"
_PR_SET_PDEATHSIG = 1


def main(request_file: str) -> None:
    """Does what `request_file` asks and writes the answer beside it.

    What is neither done nor refused, a fault of a library, ends the process with a traceback: the parent words it.
    """
    content = Path(request_file).read_bytes()
    request = msgspec.json.decode(content, type=Request)
    _end_with(request.parent)
    _put_on(request.limits)
    answer = _answer(request)
    Path(request_file).with_name(ANSWER).write_bytes(msgspec.json.encode(answer))


def _answer(request: Request) -> Answer:
    try:
        task = cast("Callable[[Job], Made]", imports.object_from_spec(request.task))
    except ModuleNotFoundError as error:
        return Answer(refusal=error.name or str(error), kind="missing")
    try:
        return Answer(made=task(request.job))
    except errors.EdgeError as error:
        is_call_at_fault = isinstance(error, errors.UsageError) and not isinstance(error, errors.ModelError)
        return Answer(refusal=str(error), kind="UsageError" if is_call_at_fault else "ModelError")
    except MemoryError as error:
        return Answer(refusal=str(error), kind="memory")


def _end_with(parent: int) -> None:
    """Asks the kernel to end this process when the one that started it ends, even by kill -9."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(1)


def _put_on(limits: Limits) -> None:
    """Limits what this process may use from here on; none of it can be raised again."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))  # SIGXCPU first, to be told apart
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
