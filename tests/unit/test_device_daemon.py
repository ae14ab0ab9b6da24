"""The daemon on a fake clock, a fake board and a broker in memory: what is published when, and what is never lost."""

import http.client
import json
import threading
import time

import msgspec
import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.device.daemon import Daemon
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.records import metrics, telemetry
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec, topics

X = np.array([[255, 0, 0]], np.uint8)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


class Listener:
    """What everyone who subscribes to everything sees; and a collector that may be told to send receipts."""

    def __init__(self, broker):
        self.link = MemoryLink(broker)
        self.messages = []
        self.stored = set()
        self.sends_receipts = False
        self.link.subscribe("edge/v1/#", self._note)
        self.link.open()
        assert self.link.wait_for_connected(10)

    def _note(self, message):
        topic = topics.parse(message.topic)
        self.messages.append((topic.leaf, message))
        if topic.leaf == "up/telemetry" and self.sends_receipts:
            sample = codec.from_bytes(message.payload, telemetry.Sample)
            self.stored.add(sample.seq)
            upto = sample.oldest_seq - 1
            while upto + 1 in self.stored:  # a receipt covers everything before it, so a gap holds it back
                upto += 1
            receipt = codec.to_bytes(telemetry.Receipt(sample.boot, upto))
            self.link.publish(topics.receipt(topic.site, topic.device), receipt)

    def records(self, leaf):
        return [
            codec.from_bytes(one.payload, codec.UP_RECORDS[leaf]) for found, one in list(self.messages) if found == leaf
        ]

    def samples(self):
        return self.records("up/telemetry")


class Rig:
    """One daemon and everything around it."""

    def __init__(self, folder, bundles=(), **settings):
        self.broker = MemoryBroker()
        self.clock = FakeClock()
        self.board = FakeBoard(folder / "board")
        self.listener = Listener(self.broker)
        self.link = None
        self.settings = DaemonSettings(
            bundles=tuple(str(bundle.path) for bundle in bundles), device="cam-7", site="plant", http_port=0, **settings
        )
        self.daemon = Daemon(self.settings, self._connect, clocks=self.clock, root=self.board.root)
        self.is_stopped = False

    def _connect(self, will):
        self.link = MemoryLink(self.broker, will=will)
        return self.link

    def start(self):
        self.daemon.start()
        if self.broker._is_running:
            wait_until(lambda: self.retained("birth") is not None)
        return self

    def beat(self, count=1):
        for _ in range(count):
            self.clock.advance(1.0)
            self.daemon.beat()

    def stop(self):
        if not self.is_stopped:
            self.is_stopped = True
            self.daemon.stop()

    def retained(self, leaf):
        payload = self.broker.retained.get(topics.up("plant", "cam-7", leaf))
        return None if payload is None else codec.from_bytes(payload, codec.UP_RECORDS[f"up/{leaf}"])

    def beat_until(self, condition):
        """Lets seconds of the daemon's life pass until something has come about; what is repeated needs them."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "not in time"
            self.beat()
            time.sleep(0.002)

    def samples_of(self, seqs):
        """Gives the Samples of these numbers, each once, after as many seconds as it takes."""
        self.beat_until(lambda: set(seqs) <= {sample.seq for sample in self.listener.samples()})
        found = {sample.seq: sample for sample in self.listener.samples()}
        return [found[seq] for seq in seqs]

    def samples(self, count):
        wait_until(lambda: len(self.listener.samples()) >= count)
        return self.listener.samples()


@pytest.fixture
def rig(tmp_path):
    rigs = []

    def make(*bundles, **settings):
        rigs.append(Rig(tmp_path, bundles, **settings))
        return rigs[-1]

    yield make
    for each in rigs:
        each.stop()
        each.listener.link.close()


def test_a_daemon_says_that_it_is_online_who_it_is_and_goes_offline_with_a_last_sample(rig, tiny_bundle):
    one = rig(tiny_bundle).start()
    boot = one.daemon.snapshot().boot
    assert one.retained("status") == telemetry.Status("online", boot, one.clock.wall_s())
    birth = one.retained("birth")
    assert (birth.device, birth.boot, birth.machine["cpu"]) == ("cam-7", boot, "Fake CPU")
    assert birth.models == (telemetry.ModelInfo("tiny", "1.2.0", tiny_bundle.digest, "onnxruntime"),)
    assert [info.name for info in birth.metrics] == list(metrics.NAMES)
    one.beat(2)
    one.clock.advance(0.5)
    one.stop()
    wait_until(lambda: one.retained("status").state == "offline")
    samples = one.samples(3)
    assert [(sample.seq, sample.interval_s) for sample in samples] == [(0, 1.0), (1, 1.0), (2, 0.5)]
    leaves = [leaf for leaf, _ in one.listener.messages]
    assert leaves == ["up/status", "up/birth", *["up/telemetry"] * 3, "up/status"]


def test_a_link_that_can_not_be_made_leaves_no_socket_behind(tmp_path):
    def connect(will):
        assert (tmp_path / "s").is_socket(), "it was listening until then"
        raise errors.SettingsError("cannot read the certificates")

    settings = DaemonSettings(device="cam-7", http_port=0, http_socket=str(tmp_path / "s"))
    with pytest.raises(errors.SettingsError, match="certificates"):
        Daemon(settings, connect, clocks=FakeClock(), sensors=())
    assert not (tmp_path / "s").exists()


def test_when_it_vanishes_the_broker_says_that_it_is_offline(rig):
    one = rig().start()
    one.link.vanish()
    wait_until(lambda: one.retained("status").state == "offline")
    assert one.retained("status").boot == one.daemon.snapshot().boot


def test_one_sample_per_interval_tells_what_the_models_did_and_how_the_board_is(rig, tiny_bundle):
    one = rig(tiny_bundle).start()
    for _ in range(3):
        np.testing.assert_allclose(one.daemon.infer("tiny", {"x": X})["y"], [[1, -1]])
    with pytest.raises(errors.InputError):
        one.daemon.infer("tiny", {"z": X})
    one.board.set_cpu(busy_ticks=30, idle_ticks=70)
    one.beat()
    one.beat()
    first, second = one.samples(2)
    assert (first.device, first.v, first.t, first.up_s) == (
        "cam-7",
        telemetry.WIRE_VERSION,
        one.clock.wall_s() - 1,
        one.clock.boot_s() - 1,
    )
    assert first.cpu_utilization_ratio == pytest.approx(0.3)
    assert first.memory_total_bytes == 8_000_000 * 1024
    assert first.power_w is None
    assert "no power sensor" in first.missing["power_w"]
    (window,) = first.models
    assert (window.model, window.count, window.errors, window.throughput_hz) == ("tiny", 3, {"input": 1}, 3.0)
    assert window.energy_j is None
    assert second.models[0].count == 0
    assert second.models[0].latency_p50_ms is None
    for sample in (first, second):
        absent = {name for name in metrics.NAMES if getattr(sample, name) is None}
        assert absent == sample.missing.keys()


def test_requests_over_http_and_in_process_are_counted_together(rig, tiny_bundle):
    one = rig(tiny_bundle).start()
    one.daemon.infer("tiny", {"x": X})
    url = one.daemon.snapshot().url
    client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    tensor = {"name": "x", "shape": [1, 3], "datatype": "UINT8", "data": [255, 0, 0]}
    client.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [tensor]}))
    assert json.loads(client.getresponse().read())["outputs"][0]["data"] == [1.0, -1.0]
    client.close()
    one.beat()
    assert one.samples(1)[0].models[0].count == 2


def test_the_energy_of_the_interval_goes_to_the_model_that_ran(rig, tiny_bundle):
    one = rig(tiny_bundle)
    one.board.become_orin_nano()
    one.start()
    for _ in range(2):
        one.daemon.infer("tiny", {"x": X})
    one.beat()
    (sample,) = one.samples(1)
    assert (sample.power_w, sample.energy_j, sample.power_boundary) == (6.0, 6.0, "module")
    (window,) = sample.models
    assert (window.energy_j, window.energy_per_inference_j) == pytest.approx((6.0, 3.0))


def test_with_the_broker_away_it_runs_on_keeps_everything_and_says_so_once_each_way(rig, caplog):
    one = rig(resend_s=60.0)
    one.broker.stop()
    one.start()
    one.beat(20)
    assert one.listener.samples() == []
    assert caplog.text.count("the broker cannot be reached") == 1
    one.broker.start()
    samples = one.samples_of(range(20))
    assert [sample.dropped for sample in samples] == [0] * 20
    assert caplog.text.count("the broker is back") == 1
    assert one.retained("status").state == "online"


def test_a_broker_that_goes_and_comes_back_costs_nothing_and_hears_who_is_here_again(rig):
    one = rig(resend_s=2.0).start()
    one.listener.sends_receipts = True
    one.beat(3)
    one.samples(3)
    one.broker.stop()
    one.beat(5)
    one.broker.start()
    one.samples_of(range(8))
    one.beat_until(lambda: one.daemon.snapshot().spool.held == 0)
    assert one.retained("birth").boot == one.retained("status").boot == one.daemon.snapshot().boot
    assert one.daemon.snapshot().spool.dropped == 0


def test_a_receipt_deletes_and_without_one_the_sample_comes_again(rig):
    one = rig(resend_s=3.0).start()
    one.beat(3)
    one.samples(3)
    assert one.daemon.snapshot().spool.held == 3
    one.beat()  # three seconds after the first
    assert [sample.seq for sample in one.samples(5)] == [0, 1, 2, 3, 0]  # what is live goes first
    boot = one.daemon.snapshot().boot
    one.listener.link.publish(topics.receipt("plant", "cam-7"), codec.to_bytes(telemetry.Receipt(boot, 2)))
    wait_until(lambda: one.daemon.snapshot().spool.held == 1)
    state = one.daemon.snapshot()
    assert (state.spool.receipted, state.samples) == (3, 4)


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'{"boot":"xx","upto":1}', b'{"boot":"00c0ffee","upto":9}', b"\xff" * 70_000]
)
def test_a_receipt_that_is_none_of_ours_changes_nothing(rig, payload):
    one = rig().start()
    one.beat(2)
    one.samples(2)
    one.listener.link.publish(topics.receipt("plant", "cam-7"), payload)
    wait_until(lambda: one.link.snapshot().received == 1)
    one.beat()
    assert one.daemon.snapshot().spool.held == 3
    assert one.link.snapshot().handler_errors == 0


def test_a_full_spool_drops_the_oldest_counts_them_and_says_so_once(rig):
    one = rig(spool_capacity=5)
    one.beat(12)  # not started: the link is not there yet, while the listener hears everything from the first message
    assert one.daemon.snapshot().spool.dropped == 7
    one.listener.sends_receipts = True
    one.start()
    wait_until(lambda: one.daemon.snapshot().spool.held == 0)
    one.beat()
    samples = one.samples(6)
    assert [sample.seq for sample in samples] == [7, 8, 9, 10, 11, 12]
    assert samples[4].dropped == samples[4].oldest_seq == 7  # a Sample tells of what was dropped for itself, too
    assert (samples[5].dropped, samples[5].oldest_seq) == (7, 12)
    (event,) = one.listener.records("up/event")
    assert (event.kind, event.details["dropped"]) == ("records_dropped", 1)
    assert "5 records" in event.message


def test_a_sensor_that_fails_costs_its_metric_and_not_the_daemon(tmp_path):
    class Broken:
        def collect(self):
            raise RuntimeError("bus error")

    broker = MemoryBroker()
    clock = FakeClock()
    settings = DaemonSettings(device="cam-7", http_port=0)
    daemon = Daemon(
        settings, lambda will: MemoryLink(broker, will=will), clocks=clock, sensors=[Broken()], root=tmp_path
    )
    daemon.start()
    clock.advance(1.0)
    daemon.beat()
    daemon.stop()
    assert daemon.snapshot().samples == 2


def test_the_schedule_is_steady_and_a_long_sleep_gives_one_sample_with_its_true_length(rig):
    one = rig(resend_s=3600.0).start()
    waits = []

    def wait(seconds):
        waits.append(round(seconds, 6))
        one.clock.advance(seconds + 0.01)  # every wait is a little late
        if len(waits) == 4:
            one.clock.advance(60.0)  # the machine was suspended
        return len(waits) > 6

    one.daemon.run(wait)
    assert waits == [1.0, 0.99, 0.99, 0.99, 0.99, 0.99, 0.99]
    lengths = [round(sample.interval_s, 6) for sample in one.samples(6)]
    assert lengths == [1.01, 1.0, 1.0, 61.0, 1.0, 1.0]


def test_wall_time_that_jumps_changes_no_interval(rig):
    one = rig().start()
    one.beat()
    one.clock.set_wall(1_000.0)
    one.beat()
    first, second = one.samples(2)
    assert second.t < first.t
    assert second.interval_s == 1.0
    assert second.boot == first.boot


def test_a_sample_and_the_birth_say_whether_a_time_server_keeps_the_clock(rig):
    one = rig()
    one.clock.synced = False
    one.start()
    assert one.retained("birth").synced is False
    for state in (False, True, None):
        one.clock.synced = state
        one.beat()
    assert [sample.synced for sample in one.samples(3)] == [False, True, msgspec.UNSET]


def test_an_engine_that_hangs_does_not_keep_the_daemon_from_ending(rig, tiny_bundle, caplog):
    one = rig(tiny_bundle).start()
    engine = one.daemon._models.find("tiny").engine
    with engine._lock:  # as a request that never comes back holds it
        one.stop()
    wait_until(lambda: one.retained("status").state == "offline")
    assert "an engine is still busy" in caplog.text


def test_each_start_has_a_boot_of_its_own(rig):
    one, two = rig(), rig()
    assert one.clock.wall_s() == two.clock.wall_s()
    assert one.daemon.snapshot().boot != two.daemon.snapshot().boot
    assert len(one.daemon.snapshot().boot) == 16


def flip_a_byte(folder):
    model = folder / "model.float.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, "model.float.onnx does not match the manifest"),
        (
            lambda folder: (folder / "model.float.onnx").unlink(),
            "lacks files that its manifest lists: model.float.onnx",
        ),
        (lambda folder: (folder / "extra.bin").write_bytes(b"x"), "does not list: extra.bin"),
    ],
)
def test_a_bad_bundle_is_refused_by_file_and_nothing_is_served_or_said(rig, make_bundle, damage, words):
    good, bad = make_bundle("good"), make_bundle("bad")
    damage(bad.path)
    before = threading.active_count()
    broker = MemoryBroker()
    settings = DaemonSettings(bundles=(str(good.path), str(bad.path)), device="cam-7", http_port=0)
    with pytest.raises(errors.BundleError) as refusal:
        Daemon(settings, lambda will: MemoryLink(broker, will=will), clocks=FakeClock())
    assert words in str(refusal.value)
    assert threading.active_count() == before
    assert broker.retained == {}


def test_two_bundles_of_one_name_are_refused(rig, make_bundle, tmp_path):
    first = make_bundle("same")
    (tmp_path / "copy.edge").mkdir()
    for file in first.path.iterdir():
        (tmp_path / "copy.edge" / file.name).write_bytes(file.read_bytes())
    settings = DaemonSettings(bundles=(str(first.path), str(tmp_path / "copy.edge")), device="cam-7", http_port=0)
    with pytest.raises(errors.UsageError, match="both hold the model 'same'"):
        Daemon(settings, lambda will: MemoryLink(MemoryBroker(), will=will), clocks=FakeClock())


def test_several_models_each_have_their_window(rig, make_bundle):
    one = rig(make_bundle("a"), make_bundle("b")).start()
    one.daemon.infer("b", {"x": X})
    one.beat()
    (sample,) = one.samples(1)
    assert {window.model: window.count for window in sample.models} == {"a": 0, "b": 1}


def test_a_sample_is_flat_json_of_bounded_size(rig, tiny_bundle):
    one = rig(tiny_bundle).start()
    for _ in range(200):
        one.daemon.infer("tiny", {"x": X})
    one.beat()
    one.samples(1)
    payload = one.listener.messages[-1][1].payload
    assert len(payload) < 4096
    assert {type(value) for value in msgspec.json.decode(payload).values()} <= {
        str,
        int,
        float,
        bool,
        type(None),
        dict,
        list,
    }
