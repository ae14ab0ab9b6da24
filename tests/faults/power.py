"""A disk whose power can be cut: an ext4 image on a loop device, shut down without a flush.

`cut` is ext4's own shutdown (as xfstests use it): from that instant nothing reaches the device any more, neither data
nnor journal, and what is in the page cache is lost; `restore` mounts a copy of what the device has, so that the journal
is replayed as after a real cut. The shutdown takes some microseconds, and a sync that is under way in them may say that
it succeeded though its journal block was not written: so only what was acknowledged before `cut` began is counted. What
the rig does not model: a device that lies about a flush, or reorders what it was told to flush.
"""

import fcntl
import os
import struct
import subprocess
from pathlib import Path

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_FLUSH = 2
_SECTOR_BYTES = 512


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Disk:
    """Used as a context: the image, its mount and its loop device are gone afterwards."""

    def __init__(self, folder: Path, *, size_mb=32):
        self.image = folder / "disk.img"
        self.root = folder / "disk"
        self.size_mb = size_mb

    def __enter__(self):
        self.root.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(self.size_mb * 2**20)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.mount()
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "--lazy", str(self.root)], capture_output=True, check=False)
        self.image.unlink(missing_ok=True)

    def mount(self):
        run("mount", "-o", "loop", self.image, self.root)

    def cut(self):
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(descriptor)

    def restore(self):
        # A copy, as another mount namespace may still hold the old one, and with it the file system that is shut down.
        run("cp", "--sparse=always", self.image, f"{self.image}.copy")
        run("umount", self.root)
        os.replace(f"{self.image}.copy", self.image)
        self.mount()

    def make_read_only(self):
        """As the kernel does it when the device fails."""
        run("mount", "-o", "remount,abort", self.root)

    def written_bytes(self):
        """All bytes that reached the device since it was mounted."""
        device = run("findmnt", "-n", "-o", "SOURCE", self.root).strip()
        return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[6]) * _SECTOR_BYTES


class Tmpfs:
    """A disk of a few MB in memory."""

    def __init__(self, root: Path, *, size_mb):
        self.root = root
        self.size_mb = size_mb

    def __enter__(self):
        self.root.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self.size_mb}m", "tmpfs", self.root)
        return self

    def __exit__(self, *_):
        run("umount", self.root)

    def fill(self):
        """Another program takes all that is left."""
        with (self.root / "other-program").open("ab", buffering=0) as file:
            for size in (65536, 4096):
                try:
                    while True:
                        file.write(b"\1" * size)
                except OSError:
                    pass

    def empty(self):
        (self.root / "other-program").unlink()

    def used_bytes(self):
        status = os.statvfs(self.root)
        return (status.f_blocks - status.f_bfree) * status.f_frsize
