"""What device.toml may say."""

import re
from typing import Annotated

import msgspec

from edge_sdk.records import telemetry

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class DaemonSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The daemon's settings; every one has a default, so an empty file is a valid one.

    Attributes:
        bundles: folders of the bundles to serve, relative to the settings file. Default none: such a daemon only
            publishes the board's telemetry.
        backend: what runs them, a row of engines.registry or ``module:Class``. Default ``onnxruntime``: it runs
            everywhere.
        threads: CPU threads per engine; 0, the default, leaves the choice to the back end.
        broker: URL of the MQTT broker. Default the loopback one, as ``edge-sdk broker`` opens it.
        site: first part of the device's topics. Default ``default``, for a fleet with one site.
        device: name of this device in its topics, unique in its site; None, the default, takes the host name.
        interval_s: seconds between Samples. Default 1.0: what dashboards refresh at; histograms merge, so a longer
            interval loses no accuracy.
        http_host: address that takes requests. Default loopback: there is no authentication here, so opening it to
            the network is a decision.
        http_port: 8000, as Triton has it; 0 takes any free port.
        http_body_bytes: largest request body. Default 64 MiB: a batch of a hundred float32 camera images.
        http_connections: clients at once; each has a thread. Default 64: ten times what a device usually sees.
        spool_capacity: Samples kept until the collector has receipted them. Default 3600: an hour at one per second,
            about 8 MB of memory.
        resend_s: seconds without a receipt after which a Sample is sent again. Default 15: many times what a
            collector takes to commit, so that a healthy one sees few duplicates.
        state_folder: its file system's fill level is published; None, the default, takes systemd's state directory,
            else the working folder.
    """

    bundles: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    backend: Annotated[str, msgspec.Meta(min_length=1)] = "onnxruntime"
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    broker: str = "mqtt://127.0.0.1:1883"
    site: telemetry.DeviceId = "default"
    device: telemetry.DeviceId | None = None
    interval_s: Seconds = 1.0
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    http_body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**31)] = 64 * 1024 * 1024
    http_connections: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    spool_capacity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 3600
    resend_s: Seconds = 15.0
    state_folder: str | None = None


def device_from_hostname(hostname: str) -> str:
    """Gives the host name as a device may be called: lower case, everything else than ``[a-z0-9-]`` a ``-``.

    >>> device_from_hostname("Cam_7.plant.example")
    'cam-7-plant-example'
    """
    return re.sub(r"[^a-z0-9]+", "-", hostname.lower()).strip("-")[:63] or "device"
