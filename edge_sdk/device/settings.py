"""What device.toml may say."""

import re
from typing import Annotated, Literal

import msgspec

from edge_sdk.records import telemetry

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
SocketPath = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
"""Linux takes 107 bytes at most."""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the requests of one model wait and run.

    Attributes:
        queue_size: requests that may wait while every engine is busy; one more gets 503. Default 64: as many as there
            may be HTTP clients, so that only a flood beyond them is refused.
        timeout_us: microseconds that a request may wait that brings no ``timeout`` of its own; 0, the default, is for
            ever.
        max_batch: rows that are run at once at most, where the first axis of every input and output is free. Default
            1: each request runs alone, which is the shortest wait.
        batch_wait_us: microseconds that a request waits for others to run with. Default 0: only those run together
            that find the engine busy.
        instances: engines of this model that run at the same time, each with its weights in memory. 0, the default,
            takes one for each `threads` cores, and one for a model under 30 us, which is faster in one thread than
            in two.
        p99_limit_ms: milliseconds within which 99 % of the requests to a new version must be answered, waiting
            included; one that takes longer in its trial (`trial_window_s`), over a hundred requests at least, gives way
            to the version before it. Default none: what is too slow only the application knows, and a busy board must
            not undo an update.
    """

    queue_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 64
    timeout_us: Annotated[int, msgspec.Meta(ge=0, le=3_600_000_000)] = 0
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    batch_wait_us: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    instances: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    p99_limit_ms: Annotated[float, msgspec.Meta(gt=0, le=3_600_000)] | None = None


class DaemonSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The daemon's settings; every one has a default, so an empty file is a valid one.

    Attributes:
        bundles: folders of the bundles to serve, relative to the settings file. Default none: such a daemon only
            publishes the board's telemetry.
        backend: what runs them, a row of engines.registry or ``module:Class``. Default ``onnxruntime``: it runs
            everywhere.
        threads: CPU threads per engine; 0, the default, leaves the choice to the back end.
        broker: URL of the MQTT broker. Default the loopback one, as ``edge-sdk broker`` opens it.
        username: at the broker; empty, the default, for none.
        password: at the broker: ``file:PATH`` for the content of that file, ``credential:NAME`` for what systemd gives
            by ``LoadCredential=NAME:...``, or as it is; goes with `username`, and is never shown.
        ca_file: certificates to trust with ``mqtts``, relative to this file; None, the default, for the system's.
        cert_file: this device's own certificate for mutual TLS, likewise (`edge-sdk ca issue`); goes with `key_file`.
        key_file: its private key, likewise, or ``credential:NAME`` for what systemd gives by
            ``LoadCredential=NAME:...``.
        site: first part of the device's topics. Default ``default``, for a fleet with one site.
        device: name of this device in its topics, unique in its site; None, the default, takes the host name.
        interval_s: seconds between Samples. Default 1.0: what dashboards refresh at; histograms merge, so a longer
            interval loses no accuracy.
        http_host: address that takes requests. Default loopback: there is no authentication here, so opening it to
            the network is a decision.
        http_port: 8000, as Triton has it; 0 takes any free port.
        http_socket: path of a unix socket that takes the same requests; its owner and group may connect. Default none.
        grpc_port: port on `http_host` for gRPC, which needs the extra ``grpc``; 0 takes any free one. Default none:
            Python's gRPC takes several times as long as HTTP, so it is there for clients that speak nothing else.
        grpc_socket: path of a unix socket for gRPC. Default none.
        frames_socket: path of the unix socket of the local fast path (`edge_sdk.open_frames`). Default none.
        zmq_address: ZeroMQ address on which a Frigate finds its detector, for example ``ipc:///run/edge-sdk/detector``;
            needs the extra ``zmq``. Default none.
        zmq_model: name of the model that answers there; None, the default, takes the only one that is served.
        shared_memory: whether clients of HTTP and gRPC may register POSIX shared memory. Default false, as Triton
            has it: the daemon reads and writes what is registered with its own rights.
        model_repository: folder of bundles; of each model in it the one with the highest counter is served, beside
            `bundles`; at the start the next one, if that is damaged or crashes. Default none.
        trial_window_s: seconds that a version must be up until it counts as good; also each later start. Default 60.0:
            longer than the watchdog takes to end a hang.
        trial_starts: so many starts in a row that a crash, a hang or want of memory ended before that, and the version
            is not tried again: the newest one that was good before it is served, or none. Default 3: three versions of
            one model can fail before systemd gives up after ten starts.
        load_limit_s: seconds that a version may take to load while the daemon runs; one that takes longer is given up,
            and what was served stays. Default 300.0: the trial of an engine in a process of its own may take 120.
        build_limit_s: seconds that the compiler may take for one engine on this board; then its process is ended.
            Default 3600.0: long enough for large networks on small boards, and a compiler that hangs ends some time.
        model_control: whether clients may load and unload models. Default false: anyone who reaches the port could
            take a model away.
        models: a table ``[models.NAME]`` for each model that is to be queued or batched otherwise than by default.
        http_body_bytes: largest request body. Default 64 MiB: a batch of a hundred float32 camera images.
        http_connections: clients at once; each has a thread. Default 64: ten times what a device usually sees.
        spool_capacity: Samples kept until the collector has receipted them, beyond it the oldest give way and are
            counted. Default 86400: a day at one per second. In memory at most 3600 are kept, about 8 MB: all there are
            without a `state_folder`, and what comes while its disk fails.
        spool_bytes: most bytes of the queue's file, beyond it likewise. Default 128 MiB: a day of Samples with several
            models.
        spool_horizon_s: longest time in seconds that a Sample is in memory only, and may be lost by a power cut.
            Default 1.0: one sync per second while there are no receipts, and none while they come within it. A longer
            one spares the flash: 5.0 writes a third.
        payload: form of the Samples: ``json``, which any MQTT tool reads, or ``compact``, MessagePack at a third of its
            size. Default ``auto``: JSON until a collector asks for the compact form (its own setting `payload`). The
            collector and `edge-sdk watch` read both; the birth says which it is.
        resend_s: seconds without a receipt after which a Sample is sent again, and twice as long each further time, up
            to 16 times as long. Default 15: many times what a collector takes to commit, so that a healthy one sees
            few duplicates.
        power_interval_s: seconds between two readings of the board's power inside an interval, from which its energy is
            integrated. Default 0.1: a model that runs in bursts is measured to well under 1 %, and it costs 0.1 % of
            a core. Boards without a power reading are not woken for it.
        idle_power_w: what the machine takes when it does nothing, in watts; the energy beyond it goes to the models.
            Default 0.0: all of it does.
        state_folder: where the daemon keeps the queue of telemetry, below ``spool/``, the engines that it built for
            bundles without one for this board, which form of each bundle is the fastest on this CPU, and which versions
            have proved themselves (``trials.json``); its file system's fill level is published. None, the default,
            takes systemd's state directory, and where `edge-sdk daemon` is started by hand ``edge-sdk/SITE.DEVICE`` in
            the user's (``$XDG_STATE_HOME``, ``~/.local/state``). Without one, telemetry without a receipt is in memory
            only, the fastest forms are kept in the user's cache, no version that crashes gives way to another, and the
            working folder's file system counts.
    """

    bundles: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    backend: Annotated[str, msgspec.Meta(min_length=1)] = "onnxruntime"
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    broker: str = "mqtt://127.0.0.1:1883"
    username: str = ""
    password: str = ""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    site: telemetry.DeviceId = "default"
    device: telemetry.DeviceId | None = None
    interval_s: Seconds = 1.0
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    http_socket: SocketPath | None = None
    grpc_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    grpc_socket: SocketPath | None = None
    frames_socket: SocketPath | None = None
    zmq_address: Annotated[str, msgspec.Meta(pattern=r"^(ipc|tcp)://.{1,100}$(?!\n)")] | None = None
    zmq_model: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    shared_memory: bool = False
    model_repository: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    trial_window_s: Seconds = 60.0
    trial_starts: Annotated[int, msgspec.Meta(ge=1, le=3)] = 3
    load_limit_s: Seconds = 300.0
    build_limit_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 3600.0
    model_control: bool = False
    models: Annotated[dict[str, ModelSettings], msgspec.Meta(max_length=64)] = {}
    http_body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**31)] = 64 * 1024 * 1024
    http_connections: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    spool_capacity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 86_400
    spool_bytes: Annotated[int, msgspec.Meta(ge=2**18, le=2**36)] = 128 * 2**20
    spool_horizon_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    payload: Literal["auto", "json", "compact"] = "auto"
    resend_s: Seconds = 15.0
    power_interval_s: Seconds = 0.1
    idle_power_w: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    state_folder: str | None = None

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={'***' if name == 'password' and value else repr(value)}" for name, value in fields)
        return f"DaemonSettings({', '.join(shown)})"


def device_from_hostname(hostname: str) -> str:
    """Gives the host name as a device may be called: lower case, everything else than ``[a-z0-9-]`` a ``-``.

    >>> device_from_hostname("Cam_7.plant.example")
    'cam-7-plant-example'
    """
    return re.sub(r"[^a-z0-9]+", "-", hostname.lower()).strip("-")[:63] or "device"
