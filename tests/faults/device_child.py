"""A device in a process of its own, so that its memory can be measured alone.

usage: device_child.py URL FILE COUNT [oldest-first]

Fills its spool and says ``{"boot", "rss_bytes"}``. After a line on stdin it makes a Sample every quarter of a second and says
``{"seq", "made_s", "held"}`` of each; after the next ``{"made", "peak_bytes"}``; it ends after the third.
"""

import json
import resource
import select
import sys
import time
from pathlib import Path

import controls
import link_rig
import pytest

_LIVE_S = 0.25


def say(**words):
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def rss_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def live(url, file, count):
    device = link_rig.Device(url, file=file, resend_s=5.0)
    while device.made < count:
        device.make(100)
        device.spool.flush()
    say(boot=device.boot, rss_bytes=rss_bytes(), peak_bytes=peak_bytes())
    sys.stdin.readline()
    while not select.select([sys.stdin], [], [], _LIVE_S)[0]:
        device.make(1)
        say(seq=device.made - 1, made_s=time.monotonic(), held=device.held)
    sys.stdin.readline()
    say(made=device.made, peak_bytes=peak_bytes())
    sys.stdin.readline()
    device.close()


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        if "oldest-first" in sys.argv[4:]:
            controls.oldest_first(patch)
        live(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
