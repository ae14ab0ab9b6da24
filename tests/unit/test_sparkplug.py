"""The Sparkplug B profile by the specification: each test carries the tck-ids of the rules that it holds."""

import json
import queue
import time

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.cli import main
from edge_sdk.collector.export.sparkplug_bridge import Bridge, Profile
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec, sparkplug, topics
from edge_sdk.wire.sparkplug import Metric, Payload

BOOT = "00c0ffee"
WAIT_S = 20.0


def tck(*ids):
    """Names the assertions of Eclipse Sparkplug 3.0.0 that a test holds."""
    return pytest.mark.tck(*(f"tck-id-{one}" for one in ids))


def sample(seq=0, *, device="cam-7", t=1_700_000_000.0, boot=BOOT, **more):
    return telemetry.Sample(v=2, device=device, boot=boot, seq=seq, t=t + seq, up_s=1.0 + seq, interval_s=1.0, **more)


class Told:
    """One message as a host sees it."""

    def __init__(self, message):
        self.topic = message.topic
        _, self.group, self.kind, self.node, *rest = message.topic.split("/")
        self.device = rest[0] if rest else None
        self.retained = message.retained
        self.payload = sparkplug.decode(message.payload)
        self.by_name = {metric.name: metric for metric in self.payload.metrics}
        self.by_alias = {metric.alias: metric for metric in self.payload.metrics}


class Rig:
    """A fleet's broker, a SCADA broker with a host that listens, and the bridge between them."""

    def __init__(self, primary_host=""):
        self.clock = FakeClock()
        self.fleet, self.scada = MemoryBroker(), MemoryBroker()
        self.heard = queue.Queue()
        self.qos = []
        self.host = MemoryLink(self.scada)
        self.host.subscribe("spBv1.0/edge/#", self.heard.put)
        self.device = MemoryLink(self.fleet)
        for link in (self.host, self.device):
            link.open()
            assert link.wait_for_connected(WAIT_S)
        self.links = []
        self.source = MemoryLink(self.fleet)
        self.bridge = Bridge(Profile(primary_host=primary_host), self.source, self.connect, self.clock)
        self.bridge.start()
        assert self.source.wait_for_connected(WAIT_S)

    def connect(self, site, will):
        link = Noting(self.scada, self.qos, will)
        self.links.append(link)
        return link

    def send(self, *samples, site="plant"):
        for one in samples:
            self.device.publish(topics.up(site, one.device, "telemetry"), codec.to_bytes(one))

    def status(self, state, device="cam-7", boot=BOOT):
        self.device.publish(topics.up("plant", device, "status"), codec.to_bytes(telemetry.Status(state, boot, 1.0)))

    def state(self, *, online, t_ms, host="scada-1"):
        self.host.publish(
            sparkplug.state_topic(host), json.dumps({"online": online, "timestamp": t_ms}).encode(), retain=True
        )

    def command(self, name=sparkplug.REBIRTH, value=True):
        payload = sparkplug.encode(Payload((Metric(name, "Boolean", value, 1),), 1))
        self.host.publish("spBv1.0/edge/NCMD/plant", payload)

    def next(self, kind):
        """Gives the next message, which must be of that kind; what the host itself said is passed over."""
        while True:
            message = self.heard.get(timeout=WAIT_S)
            if "/NCMD/" not in message.topic:
                break
        told = Told(message)
        self.seq = told.payload.seq
        assert told.kind == kind, f"expected {kind}, but got {told.topic} {told.payload}"
        return told

    def born(self, first, *others):
        """Sends Samples and gives the first births; whether the device was there before its node's birth is chance."""
        self.send(first)
        node, device = self.next("NBIRTH"), self.next("DBIRTH")
        if node.by_name["devices_online"].value == 0:
            assert self.next("NDATA").payload.metrics[0].value == 1
        self.send(*others)
        return node, device

    def drop_node(self):
        """Breaks the node's connection, and lets it connect again."""
        link = self.links[-1]
        with self.scada._lock:
            self.scada._connected.discard(link)
            link.lose("cut")
            link.invite()

    def settle(self, count):
        until(lambda: sum(msgspec.structs.astuple(self.bridge.snapshot())[:4]) >= count)

    def is_silent(self):
        with pytest.raises(queue.Empty):
            self.heard.get(timeout=0.05)
        return True

    def close(self):
        self.bridge.close()
        self.device.close()
        self.host.close()


class Noting(MemoryLink):
    """A link that notes with which QoS and retain flag each message left."""

    def __init__(self, broker, noted, will):
        super().__init__(broker, will=will)
        self.noted = noted

    def publish(self, topic, payload, *, retain=False, qos=1):
        super().publish(topic, payload, retain=retain, qos=qos)
        self.noted.append((topic.split("/")[2], qos, retain))


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def rig():
    made = Rig()
    yield made
    made.close()


@pytest.fixture
def led():
    """A rig that waits for a primary host."""
    made = Rig(primary_host="scada-1")
    yield made
    made.close()


@tck(
    "topics-nbirth-topic", "topics-nbirth-seq-num", "topics-nbirth-timestamp", "topics-nbirth-bdseq-included",
    "topics-nbirth-rebirth-metric", "topics-nbirth-metrics", "operational-behavior-data-commands-rebirth-name",
    "operational-behavior-data-commands-rebirth-name-aliases", "operational-behavior-data-commands-rebirth-datatype",
    "operational-behavior-data-commands-rebirth-value", "payloads-nbirth-seq", "payloads-nbirth-bdseq",
    "payloads-nbirth-rebirth-req", "message-flow-edge-node-birth-publish-nbirth-payload-bdSeq",
    "topics-dbirth-topic", "topics-dbirth-seq", "topics-dbirth-timestamp", "topics-dbirth-metrics",
    "message-flow-device-birth-publish-nbirth-wait", "payloads-name-birth-data-requirement",
)  # fmt: skip
def test_a_node_is_born_before_its_device_and_says_all_that_a_host_needs(rig):
    rig.send(sample(power_w=7.5))
    node, device = rig.next("NBIRTH"), rig.next("DBIRTH")
    assert (node.topic, device.topic) == ("spBv1.0/edge/NBIRTH/plant", "spBv1.0/edge/DBIRTH/plant/cam-7")
    assert (node.payload.seq, device.payload.seq) == (0, 1)
    bd_seq, rebirth = node.by_name["bdSeq"], node.by_name["Node Control/Rebirth"]
    assert (bd_seq.kind, bd_seq.value) == ("Int64", 0)
    assert (rebirth.kind, rebirth.value, rebirth.alias) == ("Boolean", False, None)
    for told in (node, device):
        assert told.payload.t_ms == int(rig.clock.wall_s() * 1000)
        assert all(one.name and one.kind and one.t_ms is not None for one in told.payload.metrics)


@tck(
    "operational-behavior-data-publish-dbirth-values", "payloads-metric-datatype-req", "payloads-metric-timestamp-in-UTC",
    "topics-dbirth-metric-reqs",
)  # fmt: skip
def test_what_could_not_be_read_is_null_and_never_zero(rig):
    rig.send(sample(power_w=7.5, throttled=False, memory_used_bytes=2**40, rails_w={"VDD_IN": 5.25}, power_boundary="module",
                    missing={"temperature_gpu_c": "no such zone", "rails_w.VDD_CPU": "EIO"}))  # fmt: skip
    rig.next("NBIRTH")
    told = rig.next("DBIRTH").by_name
    assert (told["power_w"].kind, told["power_w"].value, told["power_w"].properties) == (
        "Double",
        7.5,
        {"engUnit": "W"},
    )
    assert (told["throttled"].kind, told["throttled"].value) == ("Boolean", False)
    assert (told["memory_used_bytes"].kind, told["memory_used_bytes"].value) == ("Int64", 2**40)
    assert (told["power_boundary"].kind, told["power_boundary"].value) == ("String", "module")
    assert (told["seq"].value, told["rails_w/VDD_IN"].value) == (0, 5.25)
    for name, reason in (("temperature_gpu_c", "no such zone"), ("rails_w/VDD_CPU", "EIO")):
        assert (told[name].kind, told[name].value, told[name].properties["reason"]) == ("Double", None, reason)
    assert told["power_w"].t_ms == 1_700_000_000_000


@tck(
    "topics-ddata-topic", "topics-ddata-payload", "topics-ddata-seq-num", "payloads-alias-uniqueness",
    "payloads-alias-birth-requirement", "payloads-alias-data-cmd-requirement",
    "operational-behavior-data-publish-dbirth-change", "topics-ndata-topic", "topics-ndata-payload",
)  # fmt: skip
def test_data_has_what_changed_by_alias_and_nothing_else(rig):
    node, first = rig.born(sample(power_w=7.5, fan_ratio=0.5), sample(device="cam-8", power_w=7.5))
    second = rig.next("DBIRTH")
    count = rig.next("NDATA")
    assert (count.topic, count.by_alias[node.by_name["devices_online"].alias].value) == ("spBv1.0/edge/NDATA/plant", 2)
    aliases = [one.alias for told in (node, first, second) for one in told.payload.metrics if one.alias is not None]
    assert len(aliases) == len(set(aliases)) == sum(len(told.by_name) for told in (node, first, second)) - 2
    rig.send(sample(1, power_w=8.5, fan_ratio=0.5))
    data = rig.next("DDATA")
    assert data.topic == "spBv1.0/edge/DDATA/plant/cam-7"
    assert all(one.name == "" for one in data.payload.metrics)
    assert set(data.by_alias) == {first.by_name[name].alias for name in ("power_w", "seq", "up_s")}
    assert data.by_alias[first.by_name["power_w"].alias].value == 8.5


@tck("payloads-sequence-num-incrementing", "payloads-sequence-num-req-nbirth", "payloads-ddata-seq-inc")
def test_the_sequence_runs_over_all_messages_of_the_node_and_wraps_after_255(rig):
    rig.born(sample(), *(sample(seq) for seq in range(1, 301)))
    first = rig.seq + 1
    assert [rig.next("DDATA").payload.seq for _ in range(300)] == [number % 256 for number in range(first, first + 300)]


@tck(
    "message-flow-edge-node-birth-publish-will-message", "message-flow-edge-node-birth-publish-will-message-topic",
    "message-flow-edge-node-birth-publish-will-message-will-retained", "topics-ndeath-topic", "topics-ndeath-payload",
    "topics-ndeath-seq", "payloads-ndeath-bdseq", "payloads-ndeath-will-message-retain", "topics-nbirth-bdseq-matching",
    "topics-nbirth-bdseq-increment", "payloads-ndeath-seq",
)  # fmt: skip
def test_the_will_of_each_connection_carries_the_number_of_its_birth(rig):
    born = [rig.born(sample())[0].by_name["bdSeq"].value]
    for number in (1, 2):
        rig.drop_node()
        born.append(rig.next("NBIRTH").by_name["bdSeq"].value)
        assert rig.next("DBIRTH").payload.seq == 1
        assert rig.links[0].will.topic == "spBv1.0/edge/NDEATH/plant"
        assert [one.value for one in sparkplug.decode(rig.links[0].will.payload).metrics] == [number]
    assert born == [0, 1, 2]
    rig.links[0].vanish()
    death = rig.next("NDEATH")
    assert [(one.name, one.kind, one.value) for one in death.payload.metrics] == [("bdSeq", "Int64", 2)]
    assert death.payload.seq is None
    assert rig.scada.retained == {}


@tck("message-flow-edge-node-birth-publish-will-message-payload-bdSeq")
def test_the_birth_and_death_number_wraps_after_255(rig):
    rig.send(sample())
    rig.next("NBIRTH")
    node = rig.bridge._nodes["plant"]
    numbers = [sparkplug.decode(node._will().payload).metrics[0].value for _ in range(257)]
    assert numbers == [*range(1, 256), 0, 1]


@tck(
    "operational-behavior-data-commands-rebirth-action-1", "operational-behavior-data-commands-rebirth-action-2",
    "operational-behavior-data-commands-rebirth-action-3", "message-flow-edge-node-ncmd-subscribe", "payloads-nbirth-bdseq-repeat",
)  # fmt: skip
def test_a_rebirth_command_brings_all_births_again_with_the_same_number(rig):
    rig.born(sample(power_w=1.0), sample(1, power_w=2.0))
    rig.next("DDATA")
    rig.command(value=False)
    rig.command(name="Node Control/Reboot")
    rig.host.publish("spBv1.0/edge/NCMD/plant", b"\xff\xff")
    assert all("/NCMD/" in rig.heard.get(timeout=WAIT_S).topic for _ in range(3))
    assert rig.is_silent()
    rig.command()
    node, device = rig.next("NBIRTH"), rig.next("DBIRTH")
    assert (node.payload.seq, device.payload.seq, node.by_name["bdSeq"].value) == (0, 1, 0)
    assert device.by_name["power_w"].value == 2.0


@tck("operational-behavior-device-ddeath", "topics-ddeath-topic", "topics-ddeath-seq-num", "payloads-ddeath-timestamp")
def test_a_device_that_goes_offline_is_told_dead_and_is_born_again_when_it_speaks(rig):
    rig.born(sample())
    rig.status("offline")
    before = rig.seq
    death = rig.next("DDEATH")
    assert (death.topic, death.payload.seq) == ("spBv1.0/edge/DDEATH/plant/cam-7", before + 1)
    assert death.payload.metrics == ()
    assert death.payload.t_ms is not None
    assert rig.next("NDATA").payload.metrics[0].value == 0
    rig.status("offline")
    rig.send(sample(1))
    assert rig.next("DBIRTH").payload.seq == before + 3


@tck("operational-behavior-device-ddeath")
@pytest.mark.parametrize("cause", ["silence", "broker"])
def test_devices_that_are_silent_or_out_of_reach_are_told_dead(rig, cause):
    rig.born(sample())
    rig.bridge.tick()
    assert rig.is_silent()
    if cause == "silence":
        rig.clock.advance(61)
    else:
        rig.fleet.stop()
    rig.bridge.tick()
    rig.next("DDEATH")


@tck("operational-behavior-edge-node-intentional-disconnect-ndeath", "payloads-ndeath-will-message-qos")
def test_an_end_on_purpose_is_told_before_the_goodbye(rig):
    rig.born(sample())
    rig.bridge.close()
    assert rig.next("NDEATH").by_name["bdSeq"].value == 0
    assert rig.is_silent()
    assert rig.qos[-1] == ("NDEATH", 1, False)


@tck(
    "topics-nbirth-mqtt", "topics-dbirth-mqtt", "topics-ndata-mqtt", "topics-ddata-mqtt", "topics-ddeath-mqtt",
    "payloads-nbirth-qos", "payloads-nbirth-retain", "message-flow-edge-node-birth-publish-nbirth-qos",
)  # fmt: skip
def test_the_session_goes_with_qos_0_and_nothing_is_retained(rig):
    rig.born(sample(), sample(device="cam-8"), sample(1))
    for kind in ("DBIRTH", "NDATA", "DDATA"):
        rig.next(kind)
    rig.status("offline")
    rig.next("DDEATH")
    rig.next("NDATA")
    assert {(qos, retain) for _, qos, retain in rig.qos} == {(0, False)}
    assert {kind for kind, _, _ in rig.qos} == {"NBIRTH", "DBIRTH", "NDATA", "DDATA", "DDEATH"}


@tck(
    "message-flow-edge-node-birth-publish-phid-wait", "message-flow-edge-node-birth-publish-phid-wait-id",
    "message-flow-edge-node-birth-publish-phid-wait-online", "message-flow-edge-node-birth-publish-phid-wait-timestamp",
    "operational-behavior-edge-node-birth-sequence-wait",
)  # fmt: skip
def test_nothing_is_published_before_the_primary_host_is_online(led):
    led.send(sample())
    led.settle(1)
    led.state(online=True, t_ms=50, host="another")
    led.state(online=False, t_ms=100)
    led.state(online=True, t_ms=99)  # older than what it said last
    led.host.publish(sparkplug.state_topic("scada-1"), b"ONLINE")
    assert led.is_silent()
    led.state(online=True, t_ms=100)
    led.next("NBIRTH")
    led.next("DBIRTH")


@tck(
    "message-flow-edge-node-birth-publish-phid-offline", "operational-behavior-edge-node-termination-host-offline",
    "operational-behavior-edge-node-termination-host-offline-reconnect",
    "operational-behavior-edge-node-termination-host-offline-timestamp",
)  # fmt: skip
def test_a_primary_host_that_goes_away_ends_the_session_and_its_return_begins_another(led):
    led.state(online=True, t_ms=100)
    led.born(sample())
    led.state(online=False, t_ms=99)
    assert led.is_silent()
    led.bridge.tick()
    assert len(led.links) == 1
    led.state(online=False, t_ms=100)
    assert led.next("NDEATH").by_name["bdSeq"].value == 0
    led.send(sample(1))
    led.settle(2)
    led.bridge.tick()
    assert led.links[1].wait_for_connected(WAIT_S)
    assert led.is_silent()
    led.state(online=True, t_ms=200)
    assert led.next("NBIRTH").by_name["bdSeq"].value == 1
    assert led.next("DBIRTH").by_name["seq"].value == 1


def test_a_session_that_found_no_room_in_the_link_begins_later(rig):
    rig.born(sample())
    link, refused = rig.links[0], []
    publish = link.publish

    def full(topic, payload, **rest):
        refused.append(topic)
        raise errors.LinkError("no room")

    link.publish = full
    rig.command()
    until(lambda: refused)
    rig.bridge.tick()
    assert rig.bridge.snapshot().sessions == 0
    link.publish = publish
    rig.bridge.tick()
    assert rig.next("NBIRTH").payload.seq == 0
    assert rig.next("DBIRTH").by_name["seq"].value == 0


@tck("topic-structure-namespace-valid-group-id", "topic-structure-namespace-valid-edge-node-id")
@pytest.mark.parametrize("option", ["--group", "--primary-host"])
@pytest.mark.parametrize("text", ["a/b", "a+", "#"])
def test_names_that_no_topic_can_hold_are_refused_before_anything_is_sent(option, text, capsys):
    assert main.run(["sparkplug", option, text]) == errors.UsageError.exit_code
    assert "can't stand in a Sparkplug topic" in capsys.readouterr().err


@tck("payloads-metric-datatype-value", "topics-dbirth-metric-reqs", "operational-behavior-data-publish-dbirth")
def test_a_metric_that_no_birth_told_of_makes_a_new_birth(rig):
    rig.born(sample())
    rig.send(sample(1, temperatures_c={"cpu": 41.0}))
    again = rig.next("DBIRTH")
    assert again.by_name["temperatures_c/cpu"].value == 41.0
    assert again.by_name["power_w"].value is None


def test_late_samples_go_as_historical_and_leave_the_present_as_it_is(rig):
    late, present = sample(3, power_w=3.0), sample(5, power_w=5.0)
    _, birth = rig.born(present, late, late, present, sample(6, power_w=5.0))
    late = rig.next("DDATA")
    power = birth.by_name["power_w"].alias
    assert all(one.is_historical for one in late.payload.metrics)
    assert (late.by_alias[power].value, late.by_alias[power].t_ms) == (3.0, 1_700_000_003_000)
    assert rig.next("DDATA").by_alias[power].is_historical  # what comes twice and late can't be told from new
    present = rig.next("DDATA")
    assert power not in present.by_alias
    assert not any(one.is_historical for one in present.payload.metrics)
    assert rig.bridge.snapshot().duplicates == 1


def test_an_earlier_boot_is_historical_and_a_new_one_is_not(rig):
    rig.born(sample(5), sample(0, boot="00000001", t=1_800_000_000.0), sample(6))
    assert not rig.next("DDATA").payload.metrics[0].is_historical
    assert rig.next("DDATA").payload.metrics[0].is_historical


def test_what_is_no_record_of_the_topics_device_is_counted_and_left_out(rig):
    rig.device.publish(topics.up("plant", "cam-8", "telemetry"), codec.to_bytes(sample()))
    rig.device.publish(topics.up("plant", "cam-8", "telemetry"), b"{}")
    rig.settle(2)
    state = rig.bridge.snapshot()
    assert (state.refused, state.nodes, state.devices) == (2, 0, 0)
    assert rig.is_silent()


@pytest.mark.parametrize("value", [0, -1, 2**62, 0.0, -2.5, True, False, "", "text", None])
def test_a_payload_comes_back_as_it_was(value):
    kind = {bool: "Boolean", int: "Int64", float: "Double", str: "String", type(None): "Double"}[type(value)]
    payload = Payload((Metric("a", kind, value, 7, 3, is_historical=True, properties={"engUnit": "W"}),), 9, 0)
    assert sparkplug.decode(sparkplug.encode(payload)) == payload


@pytest.mark.parametrize("payload", [b"\xff", b"\x12\xff\x01", b"\x12\x02\x0a\xff"])
def test_bytes_that_are_no_payload_are_refused(payload):
    with pytest.raises(errors.PayloadError):
        sparkplug.decode(payload)
