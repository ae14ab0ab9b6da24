"""System shared memory: POSIX regions that clients made and registered here, to pass tensors without sending them.

A region is mapped when it is registered, so a tensor in it is read where it lies, and an output is written where it is
to be. A client may shorten its region at any moment: its length is looked at with each use, and what happens between
that and the last byte is caught by `bus_guard`. Nothing is ever created or removed below /dev/shm, so nothing of the
daemon's can be left behind.

Source: Triton's ``extension_shared_memory.md``.
"""

import ctypes
import mmap
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve import bus_guard
from edge_sdk.device.serve.v2 import Place

MAX_REGIONS = 256
_KEY = re.compile(r"/?[^/\0]{1,254}")


class Region:
    """One registered region; unmapped and its file closed with the last request that still uses it."""

    def __init__(self, key: str, offset: int, byte_size: int, descriptor: int) -> None:
        """Takes over the open file; raises OSError when it can't be mapped."""
        self.key, self.offset, self.byte_size, self.descriptor = key, offset, byte_size, descriptor
        memory = mmap.mmap(descriptor, offset + byte_size)
        self.view = memoryview(memory)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.mapping = bus_guard.installed().watch(address, -(-len(memory) // mmap.PAGESIZE) * mmap.PAGESIZE)

    def __del__(self) -> None:
        if hasattr(self, "mapping"):
            bus_guard.installed().forget(self.mapping)
        os.close(self.descriptor)


class Visit:
    """What one request does with regions. Made by `Regions.visit`, used by one thread."""

    def __init__(self, regions: "Regions") -> None:
        self._regions = regions
        self._used: list[Region] = []

    def read(self, place: Place) -> memoryview:
        """Gives the bytes at a place as they lie there; the client may change them at any moment.

        Raises:
            InputError: the place is not inside the region, or the region has shrunk.
        """
        return self._opened(place, place.byte_size)

    def write(self, place: Place, array: NDArray[Any]) -> None:
        """Puts a tensor at a place.

        Raises:
            InputError: the place is smaller than the tensor, not inside the region, or the region has shrunk.
        """
        if array.nbytes > place.byte_size:
            raise errors.InputError(
                f"region {place.region!r}: the output has {array.nbytes} bytes, its place only {place.byte_size}"
            )
        opened = self._opened(place, array.nbytes)
        if array.size:
            np.copyto(np.frombuffer(opened, np.uint8), np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def check(self) -> None:
        """Returns when every region stayed as long as it was.

        Raises:
            InputError: one was shortened meanwhile, so the answer is not made of what the client sent.
        """
        for region in self._used:
            if region.mapping.is_broken:
                raise errors.InputError(
                    f"the shared memory {region.key} has shrunk while a request used it; register it anew"
                )

    def _opened(self, place: Place, byte_size: int) -> memoryview:
        region = self._regions.at(place)
        have = os.fstat(region.descriptor).st_size - region.offset - place.offset
        if have < byte_size or region.mapping.is_broken:
            raise errors.InputError(
                f"region {place.region!r} has shrunk: {max(have, 0)} of {byte_size} bytes are there; register it anew"
            )
        self._used.append(region)
        at = region.offset + place.offset
        return region.view[at : at + byte_size]


class Regions:
    """The registered regions by name. Any thread may use them.

    Args:
        is_allowed: whether clients may register any at all.
        folder: where the system keeps POSIX shared memory.
    """

    def __init__(self, *, is_allowed: bool, folder: Path = Path("/dev/shm")) -> None:  # noqa: S108 - POSIX shared memory is there by definition
        self.is_allowed = is_allowed
        self._folder = folder
        self._lock = threading.Lock()
        self._by_name: dict[str, Region] = {}

    def register(self, name: str, *, key: str, offset: int, byte_size: int) -> None:
        """Makes a region known under a name.

        Raises:
            InputError: not allowed here, no such region, smaller than said, or the name is taken.
        """
        if not self.is_allowed:
            raise errors.InputError(
                "clients may not register shared memory here; set shared_memory = true in device.toml to allow it"
            )
        if byte_size < 1 or offset < 0:
            raise errors.InputError(f"region {name!r}: byte_size must be at least 1 and offset not negative")
        with self._lock:
            self._forget_unlinked()
            if name in self._by_name:
                raise errors.InputError(f"shared memory region {name!r} already in manager; unregister it first")
            if len(self._by_name) >= MAX_REGIONS:
                raise errors.InputError(f"{MAX_REGIONS} regions are registered; unregister some first")
            self._by_name[name] = self._opened(name, key, offset, byte_size)

    def unregister(self, name: str = "") -> None:
        """Forgets a region, or without a name all of them; one that is not known is no mistake."""
        with self._lock:
            for each in [name] if name else list(self._by_name):
                self._by_name.pop(each, None)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """Gives what is registered, all of it or one.

        Raises:
            InputError: it is not registered.
        """
        with self._lock:
            found = dict(self._by_name)
        if name and name not in found:
            raise errors.InputError(f"Unable to find system shared memory region: {name!r}")
        return [
            {"name": each, "key": region.key, "offset": region.offset, "byte_size": region.byte_size}
            for each, region in found.items()
            if name in ("", each)
        ]

    def visit(self) -> Visit:
        """Gives what one request reads and writes regions with."""
        return Visit(self)

    def at(self, place: Place) -> Region:
        """Gives the region of a place.

        Raises:
            InputError: it is not registered, or the place is not inside it.
        """
        region = self._by_name.get(place.region)
        if region is None:
            raise errors.InputError(f"Unable to find shared memory region: {place.region!r}; register it first")
        if place.offset + place.byte_size > region.byte_size:
            raise errors.InputError(
                f"Invalid offset + byte size for shared memory region: {place.region!r} has {region.byte_size} bytes, "
                f"{place.byte_size} at {place.offset} are asked for"
            )
        return region

    def _opened(self, name: str, key: str, offset: int, byte_size: int) -> Region:
        if not _KEY.fullmatch(key) or key.strip("/") in (".", ".."):
            raise errors.InputError(f"region {name!r}: {key!r} is not the name of POSIX shared memory")
        try:
            descriptor = os.open(
                self._folder / key.lstrip("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            )
        except OSError as error:
            raise errors.InputError(
                f"Unable to open shared memory region {name!r} ({key}): {error.strerror}; make it before registering"
            ) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or offset + byte_size > found.st_size:
            os.close(descriptor)
            raise errors.InputError(
                f"region {name!r}: {key} has {found.st_size} bytes, {byte_size} at {offset} are registered"
            )
        try:
            return Region(key, offset, byte_size, descriptor)
        except OSError as error:
            raise errors.InputError(f"region {name!r}: {key} can't be mapped: {error.strerror}") from error

    def _forget_unlinked(self) -> None:
        """Drops regions whose client has removed them, or was cleaned up after: nobody can mean them any more."""
        for name, region in list(self._by_name.items()):
            if os.fstat(region.descriptor).st_nlink == 0:
                del self._by_name[name]
