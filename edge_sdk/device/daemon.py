"""The composer of the device wing: bundles, requests, sensors, spool and link become one running daemon."""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from edge_sdk import clock, errors
from edge_sdk.device import keeping, reports
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.entrances import Entrances
from edge_sdk.device.notify import Notifier
from edge_sdk.device.rollback import Rollback
from edge_sdk.device.sense import board, ending, files, machine, together
from edge_sdk.device.sense.happenings import Happening
from edge_sdk.device.sense.protocol import Sensor
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.device.spool.forwarding import Forwarder
from edge_sdk.device.spool.records import News, SpoolState
from edge_sdk.engines.protocol import Tensors
from edge_sdk.link.protocol import Link, LinkState, Will
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, topics

_LOG = logging.getLogger(__name__)

_MACHINE_BOOT = "proc/sys/kernel/random/boot_id"
_SHORTEST_S = 1e-3
"""An interval is at least this long in a Sample, also when the daemon stops right after one."""
_LAST_RECEIPT_S = 0.5
"""How long the last Sample may wait for its receipt, where a collector has given any."""
_GOODBYE_S = 0.5
"""How long the link may take to send what is in flight at the end."""


class DaemonState(msgspec.Struct, frozen=True):
    """A daemon at one moment.

    Attributes:
        url: where it takes requests over HTTP.
        urls: every way in which it takes requests.
        device, boot: as in its Samples.
        models: names of the models that it serves.
        samples: taken so far.
        spool: of them, what was receipted, held and dropped.
        link: the connection to the broker.
    """

    url: str
    urls: tuple[str, ...]
    device: str
    boot: str
    models: tuple[str, ...]
    samples: int
    spool: SpoolState
    link: LinkState


class Daemon:
    """Serves bundles and publishes one Sample per interval.

    Order of use: make it (this verifies and loads the bundles, and nothing is served if one is refused), `start`,
    then `run` or a `beat` per interval, then `stop`.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        connect: Callable[[Will], Link],
        *,
        clocks: clock.Clock,
        sensors: Sequence[Sensor] | None = None,
        root: Path = Path("/"),
        notifier: Notifier | None = None,
        memory: Path | None = None,
    ) -> None:
        """Verifies and loads everything; nothing is answered or sent before `start`.

        Args:
            settings: `device` must be set.
            connect: makes the link from the last will that the broker is to publish when the daemon vanishes.
            clocks: the machine's, or a test's.
            sensors: what to read; None reads all that this SDK knows of below `root`.
            root: folder with ``proc`` and ``sys``.
            notifier: to the service manager.
            memory: where it is kept which form of a bundle is the fastest here, if the settings have no state folder.

        Raises:
            BundleError: a bundle was refused; the message names the file.
            UsageError: two bundles of one name and version, no such back end, or an address is taken.
            EngineError: a back end could not load a bundle.
        """
        assert settings.device is not None
        self._settings = settings
        self._clock = clocks
        self._notifier = notifier or Notifier()
        if sensors is None:
            sensors = board.sensors_of(root, clocks=clocks, state_folder=Path(settings.state_folder or "."))
        self._sensors = together.Sensors(sensors)
        self._machine = machine.read_machine(root)
        self._is_integrating = False
        self._payload: Literal["json", "compact"] = "compact" if settings.payload == "compact" else "json"
        self._seq = 0
        self._last_s = clocks.boot_s()
        self._last_sample: telemetry.Sample | None = None
        with contextlib.ExitStack() as undo:
            machine_boot = files.text_or_empty(root / _MACHINE_BOOT)
            self._deployment = Deployment(settings, clocks=clocks, memory=memory, machine_boot=machine_boot)
            undo.callback(self._deployment.stop)
            self._models = self._deployment.models
            self._rollback = Rollback(self._deployment, settings.models)
            self._finishing = threading.Thread(target=self._deployment.finish, name="finish engines", daemon=True)
            undo.callback(self._models.close)
            self._entrances = Entrances(settings, self._deployment, clocks=clocks, sample=lambda: self._last_sample)
            undo.callback(self._entrances.stop)
            self._spool = keeping.open_spool(settings, clocks)
            undo.callback(self._spool.close)
            self._identity = reports.Identity(settings.site, settings.device, self._spool.boot)
            self._link = connect(Will(self._topic("status"), self._status("offline")))
            undo.pop_all()
        self._forwarder = Forwarder(
            self._spool,
            self._link,
            telemetry_topic=self._topic("telemetry"),
            event_topic=self._topic("event"),
            renew=reports.renewed,
            ask=self._take_wish,
        )

    def start(self) -> None:
        """Begins to answer requests, to connect, and to measure the first interval."""
        self._link.on_connect(self._announce)
        self._deployment.on_change(self._announce)
        self._link.subscribe(topics.receipt(*self._identity[:2]), self._forwarder.take_receipt)
        for folder, reason in self._deployment.refused.items():
            self._tell(Happening("bundle_refused", f"{folder}: {reason}"[:2000], {"bundle": folder.name}))
        for news in self._deployment.take_failures():
            _LOG.warning("%s", news.message)
            self._tell(Happening(*news))
        if ended := ending.take_ending(Path(self._settings.state_folder or ".")):
            self._tell(ended)
        self._sensors.collect()  # sensors that measure over time begin here
        self._sensors.take_happenings()
        self._is_integrating = self._sensors.tick()
        self._last_s = self._clock.boot_s()
        self._entrances.start()
        self._finishing.start()
        self._link.open()
        self._notifier.ready()

    def run(self, wait: Callable[[float], bool]) -> None:
        """Takes a Sample per interval on a steady schedule until the end is asked for.

        Args:
            wait: waits for so many seconds; True when the daemon is to end.
        """
        interval_s = self._settings.interval_s
        next_s = self._last_s + interval_s
        while not wait(max(0.0, self._wake_s(next_s) - self._clock.boot_s())):
            self._is_integrating = self._sensors.tick()
            if self._clock.boot_s() < next_s:
                continue
            self.beat()
            next_s += interval_s
            late_s = self._clock.boot_s() - next_s
            if late_s >= 0:  # the machine slept, or was too busy: one Sample covers it, and the grid stays
                next_s += interval_s * (late_s // interval_s + 1)

    def beat(self) -> None:
        """Ends an interval: takes a Sample, keeps it, and sends what is due."""
        now_s = self._clock.boot_s()
        interval_s = max(now_s - self._last_s, _SHORTEST_S)
        self._last_s = now_s
        spool = self._forwarder.make_room()
        moment = reports.Moment(
            seq=self._seq,
            wall_s=self._clock.wall_s(),
            boot_s=now_s,
            interval_s=interval_s,
            oldest_seq=spool.oldest_seq,
            dropped=spool.dropped,
            synced=self._clock.is_synced(),
        )
        windows = self._models.windows(interval_s)
        readings = self._sensors.collect()
        idle_power_w = self._settings.idle_power_w
        sample = reports.sample(self._identity, moment, readings, windows, idle_power_w=idle_power_w)
        self._last_sample = sample
        self._seq += 1
        self._forwarder.keep(moment.seq, codec.sample_to_bytes(sample, payload=self._payload))
        for news in (*self._sensors.take_happenings(), *self._deployment.take_news()):
            self._tell(Happening(*news))
        self._forwarder.send_due()
        self._rollback.judge(windows)
        if reports.has_progress(windows):
            self._notifier.progress()
            self._deployment.prove()

    def stop(self) -> None:
        """Lets running requests finish, sends the last Sample, says goodbye, and gives everything back."""
        self._notifier.stopping()
        self._models.is_ready = False
        self._deployment.stop()
        self._entrances.stop()
        self.beat()
        self._wait_for_receipts()
        with contextlib.suppress(errors.LinkError):
            self._link.publish(self._topic("status"), self._status("offline"), retain=True)
        self._link.close(_GOODBYE_S)
        self._spool.close()
        self._sensors.close()
        self._close_engines()
        spool = self._forwarder.snapshot()
        if spool.held:
            kept = "they are on disk, and sent at the next start" if spool.held == spool.on_disk else "they are gone"
            _LOG.warning("%d records had no receipt from a collector at the end; %s", spool.held, kept)

    def _wait_for_receipts(self) -> None:
        """Gives a collector that answers the time for its last receipt: what has none goes with the process."""
        ends_s = self._clock.boot_s() + _LAST_RECEIPT_S
        spool = self._forwarder.snapshot()
        while spool.held and spool.receipted and self._clock.boot_s() < ends_s:
            self._clock.sleep(_LAST_RECEIPT_S / 50)
            spool = self._forwarder.snapshot()

    def infer(self, model: str, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Gives the outputs by name, in process; counted and timed as a request over HTTP is.

        Raises:
            UsageError: no such model.
            InputError: a name, dtype or shape does not fit; nothing was run.
            EngineError: the engine failed, or the daemon has stopped.
        """
        return self._models.infer(model, feeds)

    def snapshot(self) -> DaemonState:
        """Gives the state at this moment."""
        return DaemonState(
            url=self._entrances.urls[0],
            urls=self._entrances.urls,
            device=self._identity.device,
            boot=self._identity.boot,
            models=tuple(model.name for model in self._models),
            samples=self._seq,
            spool=self._forwarder.snapshot(),
            link=self._link.snapshot(),
        )

    def _tell(self, happening: Happening) -> None:
        self._forwarder.tell(News(happening.kind, happening.message, dict(happening.details)))

    def _wake_s(self, next_s: float) -> float:
        """Gives when to wake up: at the next Sample, and before it where power is integrated."""
        if not self._is_integrating:
            return next_s
        return min(next_s, self._clock.boot_s() + self._settings.power_interval_s)

    def _close_engines(self) -> None:
        # An engine that hangs in a request holds its lock: do not hang with it, it ends with the process.
        closing = threading.Thread(target=self._models.close, name="close engines", daemon=True)
        closing.start()
        closing.join(_GOODBYE_S)
        if closing.is_alive():
            _LOG.warning("an engine is still busy at the end")

    def _topic(self, what: str) -> str:
        return topics.up(self._identity.site, self._identity.device, what)

    def _status(self, state: str) -> bytes:
        return codec.to_bytes(reports.status(self._identity, state, wall_s=self._clock.wall_s()))

    def _take_wish(self, payload: str | None) -> None:
        """Sends Samples in the form that the collector asks for, where the settings leave the choice to it."""
        wanted: Literal["json", "compact"] = "compact" if payload == "compact" else "json"
        if self._settings.payload == "auto" and wanted != self._payload:
            self._payload = wanted
            self._announce()

    def _announce(self) -> None:
        """Says who is here after every connect; runs on the link's thread."""
        infos = [
            telemetry.ModelInfo(model.name, model.version, model.digest, model.engine.name) for model in self._models
        ]
        born = reports.birth(
            self._identity,
            wall_s=self._clock.wall_s(),
            machine=self._machine,
            models=infos,
            interval_s=self._settings.interval_s,
            payload=self._payload,
            payloads=codec.PAYLOADS if self._settings.payload == "auto" else None,
            synced=self._clock.is_synced(),
            withdrawn=self._deployment.withdrawn(),
        )
        try:
            self._link.publish(self._topic("status"), self._status("online"), retain=True)
            self._link.publish(self._topic("birth"), codec.to_bytes(born), retain=True)
        except errors.LinkError as error:
            _LOG.info("the connection broke before it could be used: %s", error)  # the next one says it
            return
        self._forwarder.reconnected()
