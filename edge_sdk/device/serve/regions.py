"""System shared memory: POSIX regions that clients made and registered here, to pass tensors without sending them.

Tensors are copied out of and into a region with pread and pwrite on its file below /dev/shm, not through a mapping:
a client may shrink its region at any moment, and a mapped page that is gone would end the daemon with SIGBUS, where
pread gives fewer bytes. Nothing is ever created or removed there, so nothing of the daemon's can be left behind.

Source: Triton's ``extension_shared_memory.md``.
"""

import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import errors
from edge_sdk.device.serve.v2 import Place

MAX_REGIONS = 256
_KEPT_BYTES = 4 * 1024 * 1024
"""Each thread keeps a buffer up to this size: fresh pages for a camera frame cost more than its copy."""
_ALIGNMENT = 64

_KEY = re.compile(r"/?[^/\0]{1,254}")


class Region:
    """One registered region; its file is closed with the last request that still uses it."""

    def __init__(self, key: str, offset: int, byte_size: int, descriptor: int) -> None:
        self.key, self.offset, self.byte_size, self.descriptor = key, offset, byte_size, descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


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
        self._scratch = threading.local()

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

    def read(self, place: Place) -> memoryview:
        """Gives the bytes at a place: a copy that stays as it is until this thread reads again.

        Raises:
            InputError: the place is not inside the region, or the region has shrunk.
        """
        region = self._region(place)
        buffer = self._buffer(place.byte_size)
        got = os.preadv(region.descriptor, [buffer], region.offset + place.offset)
        if got != place.byte_size:
            raise errors.InputError(
                f"region {place.region!r} has shrunk: {got} of {place.byte_size} bytes are there; register it anew"
            )
        return buffer

    def write(self, place: Place, array: NDArray[Any]) -> None:
        """Puts a tensor at a place.

        Raises:
            InputError: the place is smaller than the tensor, not inside the region, or the region has shrunk.
        """
        if array.nbytes > place.byte_size:
            raise errors.InputError(
                f"region {place.region!r}: the output has {array.nbytes} bytes, its place only {place.byte_size}"
            )
        region = self._region(place)
        at = region.offset + place.offset
        # Writing behind the end would make the client's region longer instead of failing.
        if os.fstat(region.descriptor).st_size < at + array.nbytes:
            raise errors.InputError(f"region {place.region!r} has shrunk; register it anew")
        os.pwrite(region.descriptor, np.ascontiguousarray(array).reshape(-1).data.cast("B"), at)

    def _buffer(self, size: int) -> memoryview:
        used: int = getattr(self._scratch, "used", 0)
        kept: NDArray[np.uint8] | None = getattr(self._scratch, "buffer", None)
        if size > _KEPT_BYTES:
            return np.empty(size, np.uint8).data
        if kept is None or used + size > kept.size:
            # Another tensor of the same request may still lie in the old one, so that is left alone.
            kept, used = np.empty(_KEPT_BYTES, np.uint8), 0
            self._scratch.buffer = kept
        self._scratch.used = used + -(-size // _ALIGNMENT) * _ALIGNMENT
        return kept.data[used : used + size]

    def rewind(self) -> None:
        """Says that this thread needs none of the bytes any more that it has read."""
        self._scratch.used = 0

    def _region(self, place: Place) -> Region:
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
        region = Region(key, offset, byte_size, descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or offset + byte_size > found.st_size:
            raise errors.InputError(
                f"region {name!r}: {key} has {found.st_size} bytes, {byte_size} at {offset} are registered"
            )
        return region

    def _forget_unlinked(self) -> None:
        """Drops regions whose client has removed them, or was cleaned up after: nobody can mean them any more."""
        for name, region in list(self._by_name.items()):
            if os.fstat(region.descriptor).st_nlink == 0:
                del self._by_name[name]
