"""The spool as the daemon's settings want it, and how it names a start and words an event: knows spool and reports."""

import logging
import secrets
from pathlib import Path

from edge_sdk import clock
from edge_sdk.device import reports
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.device.spool.held import Limits
from edge_sdk.device.spool.records import News
from edge_sdk.device.spool.spool import Spool, SpoolSettings
from edge_sdk.wire import codec

_LOG = logging.getLogger(__name__)

_IN_MEMORY = 3600
"""Samples held at most that have no place on disk: an hour at one per second, about 8 MB."""


def open_spool(settings: DaemonSettings, clocks: clock.Clock) -> Spool:
    """Gives the spool, whose `boot` is the name of this start.

    Args:
        settings: `device` must be set.
        clocks: the machine's, or a test's.
    """
    site, device = settings.site, settings.device
    assert device is not None

    def name_boot(last: str | None) -> str:
        return reports.boot_id(started_s=clocks.wall_s(), random_bits=secrets.randbits(32), last=last)

    def word(boot: str, seq: int, news: News) -> bytes:
        identity = reports.Identity(site, device, boot)
        told = reports.event(identity, news.kind, news.message, wall_s=clocks.wall_s(), details=news.details, seq=seq)
        return codec.to_bytes(told)

    is_durable = settings.state_folder is not None
    if not is_durable:
        _LOG.warning("no state_folder is set: telemetry that has no receipt yet is in memory only")
    in_memory = min(settings.spool_capacity, _IN_MEMORY)
    limits = Limits(settings.spool_capacity if is_durable else in_memory, in_memory, settings.resend_s)
    return Spool(
        SpoolSettings(
            Path(settings.state_folder) / "spool" / "queue.db" if settings.state_folder else None,
            limits,
            settings.spool_bytes,
            settings.spool_horizon_s,
        ),
        name_boot=name_boot,
        word=word,
        clocks=clocks,
    )
