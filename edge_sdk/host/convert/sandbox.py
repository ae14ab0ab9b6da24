"""A child process with limits, in which files of strangers are opened; the parent reads only its answer and its files.

This bounds what a model file can *use* and keeps a crash away from the builder. It is no jail: the child runs as the
same user. Files that are code by design (``module:function``, a SavedModel) belong to people you trust.
"""

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge_sdk import errors
from edge_sdk.host.convert import child
from edge_sdk.host.convert.jobs import Answer, Job, Made, Request
from edge_sdk.host.convert.limits import Limits

_LOG = logging.getLogger(__name__)
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from edge_sdk.host.convert import child; child.main(sys.argv[1])"
_ANSWER_BYTES_MAX = 2**20
_WORDS_BYTES_MAX = 4096
_OUT_OF_MEMORY = (
    "bad_alloc",
    "memoryerror",
    "out of memory",
    "allocate memory",
    "memory allocation",
    "failed to map segment",  # the loader, when a library does not fit any more
    "pthread_create failed",  # OpenBLAS, which then sends SIGINT to its own process
)


def made_in_child(
    task: str, job: Job, *, folder: Path, limits: Limits, environment: tuple[str, ...] = (), remedy: str = ""
) -> Made:
    """Gives what `task` makes of `job`, in a process of its own that ends with this call.

    Args:
        task: import string of a function from Job to Made.
        job: what to do.
        folder: an existing folder for the child's request, answer and output; it belongs to this call, and is the
            child's working folder.
        limits: what the child may use.
        environment: ``NAME=value`` that the child finds besides the variables of this process.
        remedy: what to do when a Python package that the task needs is not installed.

    Raises:
        ModelError: the task refuses the model, crashed on it, or went over a limit; the message says which.
        UsageError: a package is missing, or the task found fault with something else that the user gave.
    """
    request = folder / "request.json"
    request.write_bytes(msgspec.json.encode(Request(task=task, job=job, limits=limits, parent=os.getpid())))
    words = folder / "words.txt"
    code = _run_to_end(request, words, limits.wall_s, environment)
    spoken = _last_words(words)
    if code != 0:
        _LOG.info("the child that opened %s said: %s", job.source, spoken)
        raise errors.ModelError(_ending(job.source, code, spoken, limits))
    answer = _read_answer(folder / child.ANSWER, job.source)
    if answer.kind == "missing":
        raise errors.UsageError(
            f"opening {job.source} needs the Python package {answer.refusal!r}, which is not installed: {remedy}"
        )
    return _made(answer, job.source, limits)


def _run_to_end(request: Path, words: Path, wall_s: float, environment: tuple[str, ...]) -> int | None:
    """Runs the child and everything that it may start; gives its exit code, None when its time was up."""
    paths = [entry or str(Path.cwd()) for entry in sys.path]
    # -I: neither the working folder nor PYTHON* variables decide what is imported, only the paths handed over.
    command = ["env", *environment, sys.executable, "-I", "-c", _BOOT, str(request.resolve()), *paths]
    with (
        words.open("wb") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=request.parent,
            close_fds=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            ended = _has_ended(process.pid, wall_s)
        finally:
            # Before it is waited for, so that its group's number can't be another's yet.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode if ended else None


def _has_ended(pid: int, wall_s: float) -> bool:
    """Waits until a child ended, without reaping it, for `wall_s` at most."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(wall_s * 1000))
    finally:
        os.close(descriptor)


def _read_answer(file: Path, source: str) -> Answer:
    """Reads the child's answer, which may be anything: the child read a stranger's file."""
    try:
        with _opened(file) as stream:
            content = stream.read(_ANSWER_BYTES_MAX + 1)
        if len(content) > _ANSWER_BYTES_MAX:
            raise errors.ModelError(
                f"opening {source} gave an answer above {_ANSWER_BYTES_MAX} bytes; don't use this file"
            )
        return msgspec.json.decode(content, type=Answer)
    except (OSError, msgspec.DecodeError) as error:
        raise errors.ModelError(f"opening {source} ended without an answer: {error}; export the model again") from error


def _opened(file: Path) -> BinaryIO:
    """Opens a file, but not over a link."""
    return os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def _made(answer: Answer, source: str, limits: Limits) -> Made:
    if answer.made is not None:
        return answer.made
    if answer.kind == "memory":
        raise errors.ModelError(_memory_text(source, limits))
    raise (errors.ModelError if answer.kind == "ModelError" else errors.UsageError)(answer.refusal)


def _ending(source: str, code: int | None, spoken: str, limits: Limits) -> str:
    """Words how the child ended."""
    if code is None:
        return _limit_text(source, f"was not done after {limits.wall_s} s", "wall_s")
    if any(phrase in spoken.lower() for phrase in _OUT_OF_MEMORY):
        return _memory_text(source, limits)
    if code == -signal.SIGXCPU:
        return _limit_text(source, f"used {limits.cpu_s} s of processor time without an end", "cpu_s")
    if "File too large" in spoken or code == -signal.SIGXFSZ:
        return _limit_text(source, f"wanted to write a file above {limits.file_bytes} bytes", "file_bytes")
    if code < 0:
        return (
            f"opening {source} crashed with {signal.Signals(-code).name}: the file is damaged or made to do harm; "
            f"export the model again{_quoted(spoken)}"
        )
    return f"opening {source} failed inside a library{_quoted(spoken)}; export the model again"


def _memory_text(source: str, limits: Limits) -> str:
    return _limit_text(source, f"took more than {limits.memory_bytes} bytes of memory", "memory_bytes")


def _limit_text(source: str, what: str, field: str) -> str:
    return f"opening {source} {what}; if you trust the model, raise Limits.{field}"


def _quoted(spoken: str) -> str:
    lines = [line.strip() for line in spoken.splitlines() if line.strip()]
    return f": {lines[-1][:500]}" if lines else ""


def _last_words(file: Path) -> str:
    """Gives the end of what the child printed."""
    with _opened(file) as stream:
        stream.seek(max(0, file.stat().st_size - _WORDS_BYTES_MAX))
        return stream.read(_WORDS_BYTES_MAX).decode("utf-8", "replace")
