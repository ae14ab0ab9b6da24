"""Starts the child, ends it in some way, and asks its file what is still there."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import spool_child

from edge_sdk.device.spool import opening, records
from edge_sdk.device.spool.queue_file import QueueFile, Range

ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    """What the child was told is durable, and what of it is gone."""

    acknowledged: int
    lost: int
    wrong: int
    opened_s: float
    span_s: float
    errors: int = 0


class Child:
    def __init__(self, file, mode, *without, prefix=()):
        self.file = Path(file)
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, str(ROOT / "tests/faults/spool_child.py"), str(file), mode, *without],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=ROOT,
        )
        self.first = self.popen.stdout.readline()
        assert self.first.startswith(b"b "), "the child did not start"
        self.started_s = time.monotonic()
        self.before = None

    @property
    def boot(self):
        return self.first.decode().split()[1]

    def listen(self):
        """Takes what was said so far; what is said later was not acknowledged in time."""
        descriptor = self.popen.stdout.fileno()
        os.set_blocking(descriptor, False)
        heard = b""
        while piece := self._read(descriptor):
            heard += piece
        os.set_blocking(descriptor, True)
        self.before = (
            heard.decode().splitlines() if heard.endswith(b"\n") or not heard else heard.decode().splitlines()[:-1]
        )

    @staticmethod
    def _read(descriptor):
        try:
            return os.read(descriptor, 65536)
        except BlockingIOError:
            return b""

    def kill(self):
        self.popen.kill()
        rest = self.popen.stdout.read().decode().splitlines()
        self.rest = rest if self.before is None else [*self.before, *(line for line in rest if line[:1] != "a")]
        self.popen.wait()
        self.popen.stdout.close()
        self.span_s = time.monotonic() - self.started_s

    def said(self, letter):
        return [int(line[2:]) for line in self.rest if line.startswith(letter + " ") and line[2:].isdigit()]

    def judge(self):
        """Compares what it was told with what is in the file; a file that can't be opened has lost everything."""
        newest, deleted = max(self.said("a"), default=-1), max(self.said("d"), default=-1)
        start = time.monotonic()
        opened = opening.open_queue(self.file, lambda file: QueueFile(file, limit_bytes=2**30))
        opened_s = time.monotonic() - start
        number = {row.boot: row.number for row in opened.boots}.get(self.boot)
        found, wrong = set(), 0
        if number is not None:
            first = records.key_of(records.Kind.SAMPLE, number, 0)
            last = records.last_key_of(records.Kind.SAMPLE, number, 2**40)
            for row in opened.queue.read(Range(first, last)):
                seq = records.seq_of(row.key)
                found.add(seq)
                wrong += row.payload != spool_child.payload_of(self.boot, seq)
        opened.queue.close()
        lost = len(set(range(deleted + 1, newest + 1)) - found)
        return Outcome(newest + 1, lost, wrong, opened_s, self.span_s, len(self.said("e")))


def total(outcomes):
    return Outcome(
        sum(one.acknowledged for one in outcomes),
        sum(one.lost for one in outcomes),
        sum(one.wrong for one in outcomes),
        max(one.opened_s for one in outcomes),
        max((one.span_s for one in outcomes if one.lost), default=0.0),
        sum(one.errors for one in outcomes),
    )
