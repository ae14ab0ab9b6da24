"""A process that puts records into a spool and says, after each commit, what it was told is durable.

usage: spool_child.py FILE MODE [WITHOUT ...]      MODE: one | batch | paced | churn | memory

On stdout: ``a SEQ`` (acknowledged: `put` or `flush` returned), ``d UPTO`` (a receipt came, about to be deleted),
``e TEXT`` (an error, not acknowledged). WITHOUT takes a protection away: sync, check, error.
"""

import os
import sqlite3
import sys
import time
from pathlib import Path

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.device.spool.held import Limits
from edge_sdk.device.spool.queue_file import QueueFile
from edge_sdk.device.spool.records import Kind, Service
from edge_sdk.device.spool.spool import Spool, SpoolSettings


class Careless(QueueFile):
    """Says that it is done whatever the disk says."""

    def apply(self, *args, **more):
        try:
            super().apply(*args, **more)
        except sqlite3.OperationalError:
            pass


def opened(file, without=()):
    def open_file(path, *, limit_bytes):
        kind = Careless if "error" in without else QueueFile
        return kind(path, limit_bytes=limit_bytes, synchronous="NORMAL" if "sync" in without else "FULL")

    return Spool(
        SpoolSettings(Path(file), Limits(10**6, 3600, 5.0), horizon_s=1.0),
        name_boot=lambda last: f"{int(last, 16) + 1 if last else 1:08x}",
        word=lambda boot, seq, news: f"{news.kind} {news.details}".encode(),
        clocks=SystemClock(),
        open_file=open_file,
    )


def payload_of(boot, seq):
    return f"{boot} {seq} ".encode() + bytes((seq * 7 + i) % 251 for i in range(600))


def say(text):
    os.write(1, f"{text}\n".encode())


def work(spool, mode):
    seq = 0
    while True:
        count = 1 if mode in ("one", "paced") else 50
        try:
            for _ in range(count):
                service = Service.DURABLE if count == 1 else Service.BEST_EFFORT
                seq += 1
                spool.put(seq - 1, payload_of(spool.boot, seq - 1), service)
            if count > 1 and mode != "memory":
                spool.flush()
            say(f"a {seq - 1}")
        except errors.StoreError:
            say(f"e {sum(r.payload.startswith(b'spool_failed') for r in spool.take_due(50) if r.kind is Kind.EVENT)}")
            time.sleep(0.2)
        if mode == "churn" and seq % 500 == 0:
            spool.take_due(500)
            say(f"d {seq - 300}")
            spool.receipt(spool.boot, seq - 300, [])
        if mode == "paced":
            time.sleep(0.05)


if __name__ == "__main__":
    one = opened(sys.argv[1], sys.argv[3:])
    say(f"b {one.boot}")
    work(one, sys.argv[2])
