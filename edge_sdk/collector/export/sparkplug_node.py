"""One Sparkplug edge node: births, deaths, sequence numbers and aliases by the rules of Eclipse Sparkplug 3.0.0.

A site is an edge node and its Jetsons are the node's devices, because that is the tree a SCADA user browses (group,
node, device), and because the bridge is what Sparkplug means by an edge node: a gateway that speaks for what is
attached to it. An edge node for each Jetson would take one MQTT connection each in the bridge, and an NDEATH would
then tell of the bridge's end in the name of every Jetson.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from edge_sdk import clock, errors
from edge_sdk.link.protocol import Link, Message, Qos, Will, WillSource
from edge_sdk.wire import sparkplug
from edge_sdk.wire.sparkplug import Metric, Payload

_LOG = logging.getLogger(__name__)

_DEVICES_ONLINE = "devices_online"


class _Device:
    """What the host has been told of one device."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.is_alive = False
        self.is_born = False


class Node:
    """One edge node and its devices. Every method may be called from any thread."""

    def __init__(
        self,
        group: str,
        name: str,
        connect: Callable[[WillSource], Link],
        clocks: clock.Clock,
        *,
        primary_host: str = "",
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares a node; nothing is sent before `open`.

        Args:
            group: Sparkplug's group id.
            name: the edge node's id.
            connect: gives an unopened link of the node's own for a will.
            clocks: for timestamps.
            primary_host: host id without which nothing is published; empty for none.
            about: what the node says of itself, below ``Properties``.
        """
        self._group, self._name = group, name
        self._connect = connect
        self._clock = clocks
        self._primary_host = primary_host
        self._about = dict(about or {})
        self._lock = threading.RLock()
        self._aliases: dict[tuple[str, str], int] = {}
        self._devices: dict[str, _Device] = {}
        self._bd_seq = -1
        self._seq = 0
        self._is_connected = self._is_born = self._is_stranded = False
        self._is_host_online = not primary_host
        self._host_t_ms = -1
        self._online_told = -1
        self._link: Link | None = None

    @property
    def is_born(self) -> bool:
        """Tells whether a session stands: the NBIRTH was published on this connection."""
        return self._is_born

    def open(self) -> None:
        """Connects, in the background."""
        self._link = link = self._connect(self._will)
        link.subscribe(sparkplug.topic(self._group, "NCMD", self._name), self._obey)
        if self._primary_host:
            link.subscribe(sparkplug.state_topic(self._primary_host), self._hear_host)
        link.on_connect(self._begin)
        link.open()

    def close(self) -> None:
        """Publishes the NDEATH, says goodbye and stops."""
        with self._lock:
            self._publish_death()
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def mend(self) -> None:
        """Begins a session where one is due and could not begin; not to be called on the link's thread.

        The primary host went away: that asks for a new connection. Or the link had no room for the NBIRTH.
        """
        with self._lock:
            is_stranded, self._is_stranded = self._is_stranded, False
            if self._is_connected and self._is_host_online and not self._is_born:
                self._publish_births()
        if is_stranded:
            self.close()
            self.open()

    def update(self, device: str, metrics: Mapping[str, Metric], *, is_historical: bool = False) -> None:
        """Takes values of a device: publishes what changed, and a DBIRTH first where it is not born yet.

        A name that no birth has told of yet makes a new birth. Historical values leave the current ones as they are.
        """
        with self._lock:
            known = self._devices.setdefault(device, _Device())
            is_new = any(name not in known.metrics for name in metrics)
            if is_historical:
                for name, metric in metrics.items():
                    known.metrics.setdefault(name, metric._replace(value=None))
                known_now = known.metrics
            else:
                known_now = {**known.metrics, **metrics}
            changed = [
                metric._replace(is_historical=is_historical)
                for name, metric in metrics.items()
                if is_historical or name not in known.metrics or metric.value != known.metrics[name].value
            ]
            if not is_historical:
                known.is_alive = True
            self._tell(device, known, known_now, changed, is_birth=is_new or not known.is_born)

    def describe(self, device: str, metrics: Mapping[str, Metric]) -> None:
        """Takes what a device says of itself; it is told with the device's values, and does not make it alive."""
        with self._lock:
            known = self._devices.setdefault(device, _Device())
            now = {**known.metrics, **metrics}
            has_changed = any(
                name not in known.metrics or one.value != known.metrics[name].value for name, one in metrics.items()
            )
            known.metrics = now
            if has_changed and known.is_born:
                self._tell(device, known, now, [], is_birth=True)

    def bury(self, device: str) -> None:
        """Tells of the end of a device, where it was born."""
        with self._lock:
            known = self._devices.get(device)
            if known is None or not known.is_alive:
                return
            known.is_alive = False
            if self._is_born and known.is_born:
                self._publish("DDEATH", (), device)
            known.is_born = False
            self._tell_count()

    # What follows holds the lock.

    def _tell(
        self, device: str, known: _Device, now: dict[str, Metric], changed: list[Metric], *, is_birth: bool
    ) -> None:
        was_born = known.is_born
        if not self._is_born or not known.is_alive:
            known.metrics = now
            return
        if is_birth:
            known.metrics = now
            known.is_born = self._publish("DBIRTH", self._born(device, now.values()), device)
            changed = [metric for metric in changed if metric.is_historical]
        if changed and known.is_born and self._publish("DDATA", self._aliased(device, changed), device):
            known.metrics = now
        if known.is_born and not was_born:
            self._tell_count()

    def _begin(self) -> None:
        """Runs on the link's thread after every accepted connect."""
        with self._lock:
            self._is_connected = True
            if self._is_host_online:
                self._publish_births()

    def _will(self) -> Will:
        """Gives the NDEATH for the connection that is about to be made; runs on the link's thread."""
        with self._lock:
            self._is_connected = self._is_born = False
            self._is_host_online = not self._primary_host  # to be heard anew on every connection
            self._bd_seq = (self._bd_seq + 1) % 256
            return Will(sparkplug.topic(self._group, "NDEATH", self._name), self._death(), retain=False)

    def _death(self) -> bytes:
        return sparkplug.encode(Payload((self._bd_metric(None),), self._now_ms()))

    def _bd_metric(self, t_ms: int | None) -> Metric:
        return Metric(sparkplug.BD_SEQ, "Int64", self._bd_seq, t_ms)

    def _publish_births(self) -> None:
        """Publishes the NBIRTH and the DBIRTHs of all living devices."""
        now_ms = self._now_ms()
        self._seq = 0
        self._online_told = sum(known.is_alive for known in self._devices.values())
        own = [Metric(f"Properties/{name}", "String", text, now_ms) for name, text in self._about.items()]
        own.append(Metric(_DEVICES_ONLINE, "Int64", self._online_told, now_ms))
        control = (self._bd_metric(now_ms), Metric(sparkplug.REBIRTH, "Boolean", value=False, t_ms=now_ms))
        self._is_born = self._publish("NBIRTH", (*control, *self._born("", own)))
        for device, known in self._devices.items():
            known.is_born = (
                self._is_born
                and known.is_alive
                and self._publish("DBIRTH", self._born(device, known.metrics.values()), device)
            )

    def _publish_death(self) -> None:
        if self._is_born and self._link is not None:
            self._send("NDEATH", self._death(), None, qos=1)
        self._is_connected = self._is_born = False

    def _tell_count(self) -> None:
        """Publishes how many devices are there, where that changed."""
        count = sum(known.is_alive for known in self._devices.values())
        if self._is_born and count != self._online_told:
            metric = Metric(_DEVICES_ONLINE, "Int64", count, self._now_ms())
            if self._publish("NDATA", self._aliased("", [metric])):
                self._online_told = count

    def _obey(self, message: Message) -> None:
        """Begins anew where the host asks for it; runs on the link's thread."""
        try:
            command = sparkplug.decode(message.payload)
        except errors.PayloadError as error:
            _LOG.warning("%s: %s", message.topic[:200], error)
            return
        with self._lock:
            if self._is_born and any(one.name == sparkplug.REBIRTH and one.value is True for one in command.metrics):
                self._publish_births()

    def _hear_host(self, message: Message) -> None:
        """Takes the primary host's word for itself; one that is older than its last is not its present state."""
        try:
            state = sparkplug.host_state(message.payload)
        except errors.PayloadError as error:
            _LOG.warning("%s: %s", message.topic[:200], error)
            return
        with self._lock:
            if state.timestamp < self._host_t_ms:
                return
            self._host_t_ms = state.timestamp
            self._is_host_online = state.online
            if state.online and self._is_connected and not self._is_born:
                self._publish_births()
            elif not state.online and self._is_born:
                self._publish_death()
                self._is_stranded = True

    def _born(self, device: str, metrics: Iterable[Metric]) -> tuple[Metric, ...]:
        """Gives metrics as a birth has them: name and alias."""
        return tuple(metric._replace(alias=self._alias(device, metric.name)) for metric in metrics)

    def _aliased(self, device: str, metrics: Iterable[Metric]) -> tuple[Metric, ...]:
        """Gives metrics as data has them: the alias instead of the name.

        The datatype stays although the specification would rather have it left out, as npm's sparkplug-payload, with
        which Node-RED reads Sparkplug, gives null for a value without one.
        """
        return tuple(
            metric._replace(
                alias=self._alias(device, metric.name),
                name="",
                properties={key: text for key, text in metric.properties.items() if key == "reason"},
            )
            for metric in metrics
        )

    def _alias(self, device: str, name: str) -> int:
        return self._aliases.setdefault((device, name), len(self._aliases) + 1)

    def _publish(self, kind: str, metrics: tuple[Metric, ...], device: str | None = None) -> bool:
        """Publishes one message of the session; its number is used up only if the link took it."""
        payload = sparkplug.encode(Payload(metrics, self._now_ms(), self._seq))
        if not self._send(kind, payload, device, qos=0):
            return False
        self._seq = (self._seq + 1) % 256
        return True

    def _send(self, kind: str, payload: bytes, device: str | None, *, qos: Qos) -> bool:
        topic = sparkplug.topic(self._group, kind, self._name, device)
        try:
            if self._link is not None:
                self._link.publish(topic, payload, qos=qos)
                return True
        except errors.LinkError as error:
            _LOG.info("%s", error)
        return False

    def _now_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)
