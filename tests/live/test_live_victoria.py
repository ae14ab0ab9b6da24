"""Stored Samples carried on to a real VictoriaMetrics that is killed, away, and started anew: each there once."""

import contextlib
import time

import pytest
import victoria_server

from edge_sdk import errors
from edge_sdk.collector.export import victoria
from edge_sdk.collector.forwarding import Forwarding
from edge_sdk.collector.store import opening
from edge_sdk.collector.store.rows import SampleRow
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        victoria_server.PROGRAM is None, reason="victoria-metrics is not installed: apt install victoria-metrics"
    ),
]
BOOT = "00c0ffee"
START_T = int(time.time()) - 5000


def row(device, seq):
    window = telemetry.Window(
        model="my net", digest="d", count=60, errors={}, throughput_hz=60.0, queue_depth_max=1, latency_p50_ms=4.0,
        latency_p99_ms=8.5, latency_hist="", stage_ms={}, energy_j=6.0, energy_per_inference_j=0.1,
    )  # fmt: skip
    sample = telemetry.Sample(
        v=1, device=device, boot=BOOT, seq=seq, t=START_T + seq, up_s=1.0, interval_s=1.0, power_w=5.0 + seq,
        models=(window,),
    )  # fmt: skip
    return SampleRow(device, "plant", BOOT, seq, sample.t, sample.t, codec.to_bytes(sample).decode())


def put(store, seqs):
    with store.transaction():
        store.add_samples([row(device, seq) for seq in seqs for device in ("cam-1", "cam-2")])
    while store.roll_up(limit=5000):
        pass


def wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def power(server):
    found = server.points("edge_power_watts")
    return {dict(labels)["device"]: points for labels, points in found.items()}


def expected(seqs):
    return [((START_T + seq) * 1000, 5.0 + seq) for seq in seqs]


@pytest.fixture
def server():
    with victoria_server.running() as server:
        yield server


@pytest.fixture
def database(tmp_path):
    return str(tmp_path / "t.db")


@pytest.fixture
def store(database):
    with contextlib.closing(opening.open_store(database)) as store:
        yield store


@contextlib.contextmanager
def forwarding(database, server, clock=None):
    running = Forwarding(database, server.url, clock or FakeClock())
    try:
        yield running
    finally:
        running.close()


def test_every_number_comes_as_a_series_of_its_device_site_and_model(database, store, server):
    put(store, range(3))
    with forwarding(database, server):
        wait_for(lambda: len(power(server)) == 2, "the Samples")
    (latency,) = server.points('edge_model_latency_p99_seconds{device="cam-1"}').items()
    labels = dict(latency[0])
    assert (labels["site"], labels["model"]) == ("plant", "my net")
    assert [value for _, value in latency[1]] == [pytest.approx(0.0085)] * 3


def test_a_server_killed_and_away_misses_nothing_and_has_nothing_twice(database, store, server):
    put(store, range(500))
    with forwarding(database, server) as running:
        wait_for(lambda: running.snapshot().forwarded == 1000, "the first thousand")
        server.kill()  # what it took a moment ago was in its memory
        put(store, range(500, 1500))
        wait_for(lambda: running.snapshot().forward_failures > 0, "a failure")
        server.start()
        wait_for(lambda: running.snapshot().forward_repeats == 1 and len(power(server)) == 2, "the next start")
        wait_for(lambda: all(len(points) == 1500 for points in power(server).values()), "all of it")
    assert power(server) == {name: expected(range(1500)) for name in ("cam-1", "cam-2")}


def test_without_sending_again_the_kill_loses_what_the_server_said_it_had(server):
    client = victoria.Victoria(server.url)
    client.started()
    client.write(victoria.lines((one.device, one.site, one.t, one.payload) for one in [row("cam-1", 0)]))
    client.close()
    server.kill()
    server.start()
    assert power(server) == {}


def test_what_has_settled_is_not_sent_again_by_the_next_start(database, store, server):
    clock = FakeClock()
    put(store, range(100))
    with forwarding(database, server, clock) as running:
        wait_for(lambda: running.snapshot().forwarded == 200, "the first")
        clock.advance(31)
        wait_for(lambda: kept(database) > (0, 0), "the place")
    put(store, range(100, 110))
    with forwarding(database, server, clock) as running:
        wait_for(lambda: running.snapshot().forwarded > 0, "the rest")
    assert running.snapshot().forwarded == 20
    assert {len(points) for points in power(server).values()} == {110}


def kept(database):
    with contextlib.closing(opening.open_store(database)) as store:
        return store.place("victoria")


def test_a_server_that_refuses_is_said_and_asked_again(database, store, server, caplog):
    put(store, range(5))
    elsewhere = Forwarding(database, f"{server.url}/nowhere", FakeClock())
    wait_for(lambda: elsewhere.snapshot().forward_failures > 1, "two attempts")
    elsewhere.close()
    assert elsewhere.snapshot().forwarded == 0
    (said,) = {record.getMessage() for record in caplog.records}
    assert "VictoriaMetrics answers 400 to /metrics" in said


@pytest.mark.parametrize("url", ["127.0.0.1:8428", "ftp://host", "http://", "http://host:port"])
def test_a_wrong_address_is_refused_before_anything_is_opened(tmp_path, url):
    with pytest.raises(errors.SettingsError, match="victoria must be http://HOST:8428"):
        Forwarding(str(tmp_path / "t.db"), url, FakeClock())
    assert not list(tmp_path.iterdir())
