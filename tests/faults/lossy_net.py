"""A network that loses packets where the kernel can't do it: a relay between two tunnel devices forgets some of them.

Each end lives in a network namespace of its own; what a thread starts inside `entered` stays in that network. Whole IP
packets are lost, in both directions, so TCP has to mend it as on a bad radio link.
"""

import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import threading
from pathlib import Path

TUN = Path("/dev/net/tun")
_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
DEVICE_IP, BROKER_IP = "10.77.0.1", "10.77.0.2"
_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result):
    if result:
        raise OSError(ctypes.get_errno(), "no network namespace")


class LossyNet:
    """Two namespaces and the relay between them; used as a context.

    Attributes:
        share: of the packets that are lost.
        passed, lost: counts.
    """

    def __init__(self, seed=1):
        self.share = 0.0
        self.passed = self.lost = 0
        self._random = random.Random(seed)
        self._ends = []
        self._stop_read, self._stop_write = os.pipe()

    def __enter__(self):
        maker = threading.Thread(target=self._make)
        maker.start()
        maker.join()
        assert len(self._ends) == 2, "no tunnel here"
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()
        return self

    def __exit__(self, *_):
        os.write(self._stop_write, b"x")
        self._thread.join()
        for descriptor in (self._stop_read, self._stop_write, *(one for end in self._ends for one in end)):
            os.close(descriptor)

    def _make(self):
        """Runs on a thread of its own, as a namespace belongs to a thread."""
        for here, there in ((DEVICE_IP, BROKER_IP), (BROKER_IP, DEVICE_IP)):
            _check(_LIBC.unshare(_NEWNET))
            tunnel = os.open(TUN, os.O_RDWR)
            fcntl.ioctl(tunnel, _TUNSETIFF, struct.pack("16sH22x", b"lossy", _TUN_WITHOUT_HEADER))
            for command in ("ip link set lo up", f"ip addr add {here} peer {there} dev lossy", "ip link set lossy up"):
                subprocess.run(command.split(), check=True)
            self._ends.append((tunnel, os.open("/proc/thread-self/ns/net", os.O_RDONLY)))

    @contextlib.contextmanager
    def entered(self, end):
        """Has this thread, and what it starts, live at the device's end (0) or the broker's (1)."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _check(_LIBC.setns(self._ends[end][1], _NEWNET))
            yield
        finally:
            _check(_LIBC.setns(before, _NEWNET))
            os.close(before)

    def _relay(self):
        tunnels = [tunnel for tunnel, _ in self._ends]
        while True:
            readable = select.select([*tunnels, self._stop_read], [], [])[0]
            if self._stop_read in readable:
                return
            for source in readable:
                packet = os.read(source, 65536)
                if self._random.random() < self.share:
                    self.lost += 1
                    continue
                self.passed += 1
                with contextlib.suppress(OSError):
                    os.write(tunnels[source == tunnels[0]], packet)
