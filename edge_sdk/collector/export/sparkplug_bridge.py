"""Our telemetry as Sparkplug B: listens as any MQTT tool does, and speaks as an edge node for each site.

Nothing is stored here: what a SCADA system missed while its broker was away stays missing there, and is in the
collector's database. What a device sends late, as it was offline itself, goes on as historical.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from edge_sdk import __version__, clock, errors
from edge_sdk.collector.export import sparkplug_metrics
from edge_sdk.collector.export.sparkplug_node import Node
from edge_sdk.link.protocol import Link, Message, WillSource
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, sparkplug, topics

_LOG = logging.getLogger(__name__)

_SITES_MAX = 256  # each takes a connection and a thread
_SILENT_S = 60.0
_SILENT_INTERVALS = 10


class Profile(NamedTuple):
    """What the SCADA system expects.

    Attributes:
        group: Sparkplug's group id; the sites are its edge nodes.
        primary_host: host id without which nothing is published; empty for none.
        site: only this one; None for all.
    """

    group: str = "edge"
    primary_host: str = ""
    site: str | None = None


class BridgeState(msgspec.Struct, frozen=True, kw_only=True):
    """The bridge since its start.

    Attributes:
        samples: taken over as current values.
        historical: taken over as values of an earlier time.
        duplicates: Samples that had come before.
        refused: messages that are not what they should be, or of a site too many.
        nodes: edge nodes, one for each site.
        sessions: of these, with a session at the SCADA system's broker.
        devices: known.
    """

    samples: int
    historical: int
    duplicates: int
    refused: int
    nodes: int
    sessions: int
    devices: int


class _Seen:
    """Where a device is in its own count of Samples."""

    def __init__(self) -> None:
        self.boot = ""
        self.is_told = False
        self.seq = -1
        self.t = 0.0
        self.heard_s = 0.0
        self.interval_s = 0.0

    def begin(self, boot: str, *, is_told: bool) -> None:
        """Notes the present boot: `is_told` by the device's status, else guessed from a Sample's time."""
        self.is_told = self.is_told or is_told
        if boot != self.boot:
            self.boot, self.seq = boot, -1


class Bridge:
    """Wires the listening link and the edge nodes. Order of use: `start`, `tick` about twice a second, `close`."""

    def __init__(
        self, profile: Profile, source: Link, connect: Callable[[str, WillSource], Link], clocks: clock.Clock
    ) -> None:
        """Prepares a bridge; nothing is sent before `start`.

        Args:
            profile: which group and host.
            source: an unopened link to the fleet's broker.
            connect: gives an unopened link to the SCADA system's broker for a site and its will.
            clocks: for timestamps and silence.

        Raises:
            UsageError: a group, host or site that can't stand in a topic.
        """
        sparkplug.check_id("group", profile.group)
        if profile.primary_host:
            sparkplug.check_id("primary host", profile.primary_host)
        if profile.site is not None:
            topics.check_name("site", profile.site)
        self._profile = profile
        self._source = source
        self._connect = connect
        self._clock = clocks
        self._nodes: dict[str, Node] = {}
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._samples = self._historical = self._duplicates = self._refused = 0

    def start(self) -> None:
        """Begins to listen."""
        self._source.subscribe_batches(topics.up(self._profile.site or "+", "+", "+"), self._take)
        self._source.open()

    def close(self) -> None:
        """Stops listening, and tells of the end of every node."""
        self._source.close()
        for node in list(self._nodes.values()):
            node.close()

    def tick(self) -> None:
        """Does what time asks for: devices that are silent or out of reach end, sessions that are due begin."""
        is_reachable = self._source.snapshot().is_connected
        now_s = self._clock.boot_s()
        for (site, device), seen in list(self._seen.items()):
            silent_s = max(_SILENT_S, seen.interval_s * _SILENT_INTERVALS)
            if not is_reachable or now_s - seen.heard_s > silent_s:
                self._node(site).bury(device)
        for node in list(self._nodes.values()):
            node.mend()

    def snapshot(self) -> BridgeState:
        """Gives the state at this moment."""
        nodes = list(self._nodes.values())
        return BridgeState(
            samples=self._samples,
            historical=self._historical,
            duplicates=self._duplicates,
            refused=self._refused,
            nodes=len(nodes),
            sessions=sum(node.is_born for node in nodes),
            devices=len(self._seen),
        )

    # What follows runs on the source link's thread.

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            try:
                self._take_one(message)
            except errors.PayloadError as error:
                self._refused += 1
                _LOG.debug("%s", error)

    def _take_one(self, message: Message) -> None:
        topic = topics.parse(message.topic)
        if topic.leaf == "up/status":
            self._take_status(topic, codec.from_bytes(message.payload, telemetry.Status))
        elif topic.leaf == "up/birth":
            birth = codec.from_bytes(message.payload, telemetry.Birth)
            _check_device(topic, birth.device)
            self._node(topic.site).describe(topic.device, sparkplug_metrics.properties_of(birth))
            self._device(topic).begin(birth.boot, is_told=True)
        elif topic.leaf == "up/telemetry":
            sample = codec.from_bytes(message.payload, telemetry.Sample)
            _check_device(topic, sample.device)
            self._take_sample(self._node(topic.site), self._device(topic), sample)

    def _take_status(self, topic: topics.Topic, status: telemetry.Status) -> None:
        seen = self._seen.get((topic.site, topic.device))
        if status.state == "offline":
            if seen is not None:
                self._node(topic.site).bury(topic.device)
            return
        if seen is not None:
            seen.begin(status.boot, is_told=True)

    def _take_sample(self, node: Node, seen: _Seen, sample: telemetry.Sample) -> None:
        if not seen.boot or (sample.boot != seen.boot and not seen.is_told and sample.t > seen.t):
            seen.begin(sample.boot, is_told=False)
        if sample.boot == seen.boot and sample.seq == seen.seq:
            self._duplicates += 1
            return
        is_historical = sample.boot != seen.boot or sample.seq < seen.seq
        seen.heard_s, seen.interval_s = self._clock.boot_s(), sample.interval_s
        if is_historical:
            self._historical += 1
        else:
            seen.seq, seen.t = sample.seq, sample.t
            self._samples += 1
        node.update(sample.device, sparkplug_metrics.metrics_of(sample), is_historical=is_historical)

    def _device(self, topic: topics.Topic) -> _Seen:
        return self._seen.setdefault((topic.site, topic.device), _Seen())

    def _node(self, site: str) -> Node:
        """Gives the node of a site; opens it at the first word of the site.

        Raises:
            PayloadError: one site too many.
        """
        if site not in self._nodes:
            if len(self._nodes) >= _SITES_MAX:
                raise errors.PayloadError(f"site {site} is one more than the {_SITES_MAX} that are taken")
            node = Node(
                self._profile.group,
                site,
                lambda will: self._connect(site, will),
                self._clock,
                primary_host=self._profile.primary_host,
                about={"sdk": f"edge-sdk {__version__}"},
            )
            node.open()
            self._nodes[site] = node
        return self._nodes[site]


def _check_device(topic: topics.Topic, device: str) -> None:
    if device != topic.device:
        raise errors.PayloadError(f"{topic} carries a record of {device}")
