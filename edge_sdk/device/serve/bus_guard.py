"""Shared memory whose file a client shortens while it is read: the request is refused, and the daemon lives.

A mapped page that is gone raises SIGBUS in whoever touches it, a numpy loop or a kernel of ONNX Runtime, and its
default action ends the process. The handler installed here puts fresh zero pages there instead, so that the loop ends
on its own, and notes the mapping as broken; whoever answers the request looks at that note. A fault anywhere else
keeps its usual end.

The fault is a synchronous one, raised by a load or store into the mapping and never inside the allocator or the
interpreter, which is why a handler written in Python can run there (it takes the GIL, which the loop has given up or
holds in the same thread).

Source: sigaction(2), mmap(2); the layout of ``struct sigaction`` and ``siginfo_t`` is glibc's, the same on x86-64 and
aarch64.
"""

import ctypes
import functools
import mmap
import os
import signal
from typing import Any

from edge_sdk import errors

_SA_SIGINFO, _SA_RESTART = 4, 0x10000000
_MAP_FIXED = 0x10
_ADDRESS_AT = 16
"""Of ``si_addr`` in ``siginfo_t``."""
_MASK_BYTES = 128

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_char * _MASK_BYTES),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Mapping:
    """A piece of the address space that clients can take pages from.

    Attributes:
        address: where it begins; a multiple of the page size.
        size_bytes: of all of it.
        is_broken: pages of it were gone when they were read or written; what was read then is zeros.
    """

    __slots__ = ("address", "is_broken", "size_bytes")

    def __init__(self, address: int, size_bytes: int) -> None:
        self.address, self.size_bytes, self.is_broken = address, size_bytes, False


class BusGuard:
    """The process's handler of SIGBUS; made by `installed`."""

    def __init__(self) -> None:
        self._mappings: dict[int, Mapping] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = (
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
        )  # fmt: skip
        self._handler = _Handler(self._on_fault)  # kept: the kernel holds its address only
        self._before = _Action()
        mine = _Action(ctypes.cast(self._handler, ctypes.c_void_p), b"", _SA_SIGINFO | _SA_RESTART, None)
        if self._libc.sigaction(int(signal.SIGBUS), ctypes.byref(mine), ctypes.byref(self._before)) != 0:
            raise errors.EngineError(f"no handler for SIGBUS can be installed: {os.strerror(ctypes.get_errno())}")

    def watch(self, address: int, size_bytes: int) -> Mapping:
        """Guards a mapping from now on; gives the note that tells whether it broke."""
        found = self._mappings[address] = Mapping(address, size_bytes)
        return found

    def forget(self, mapping: Mapping) -> None:
        """Guards it no more; called before it is unmapped."""
        self._mappings.pop(mapping.address, None)

    def _on_fault(self, number: int, info: int, _context: Any) -> None:
        address = ctypes.c_size_t.from_address(info + _ADDRESS_AT).value
        for mapping in tuple(self._mappings.values()):
            if mapping.address <= address < mapping.address + mapping.size_bytes:
                mapping.is_broken = True
                protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
                if self._libc.mmap(mapping.address, mapping.size_bytes, protection, flags, -1, 0) == mapping.address:
                    return
        # Not ours, or no page to be had: put back what was there, and the same instruction faults again.
        self._libc.sigaction(number, ctypes.byref(self._before), None)


@functools.cache
def installed() -> BusGuard:
    """Gives the guard of this process, which is installed at the first call; signal handlers belong to the process."""
    return BusGuard()
