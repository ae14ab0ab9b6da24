"""What the spool tells of itself, in words and numbers."""

from pathlib import Path

from edge_sdk.device.spool.held import Held
from edge_sdk.device.spool.queue_file import BootRow
from edge_sdk.device.spool.records import News


def dropping(held: Held, why: str) -> News:
    """Gives the news that Samples give way, once they have begun to."""
    return News(
        "records_dropped",
        f"no receipts came and {why}: the oldest give way",
        {"dropped": held.boots.dropped(held.number), "oldest_seq": held.oldest_seq(held.number)},
    )


def closing(boot: BootRow) -> News:
    """Gives the news that nothing of an earlier boot is held any more."""
    newest = "unknown" if boot.newest_seq is None else str(boot.newest_seq)
    return News(
        "boot_closed",
        f"nothing more comes of boot {boot.boot}: newest Sample {newest}, {boot.dropped} dropped",
        {"of_boot": boot.boot, "newest_seq": boot.newest_seq, "dropped": boot.dropped},
    )


def damaged(count: int) -> News:
    """Gives the news that records on disk can't be sent."""
    return News(
        "records_damaged",
        f"{count} records on disk were not as they were written; they were not sent",
        {"lost": count},
    )


def disk_full(held: Held) -> News:
    """Gives the news that nothing more goes to disk for now."""
    return News(
        "disk_full",
        "the disk is full: new records wait in memory; beyond that the oldest give way",
        {"held": held.samples},
    )


def failed(held: Held, error: Exception) -> News:
    """Gives the news that the file can't be used for now."""
    return News(
        "spool_failed",
        f"the queue on disk takes nothing ({error}); what comes now is in memory only",
        {"held": held.samples},
    )


def reset(salvaged: int, lost: int | None, aside: Path | None) -> News:
    """Gives the news that there is a new file: `lost` is None where nobody knows what was in the old one."""
    return News(
        "queue_reset",
        f"the queue on disk was damaged: {salvaged} records were carried over into a new one; "
        f"the old one is kept as {aside}",
        {"salvaged": salvaged, "lost": lost, "kept": str(aside)},
    )
