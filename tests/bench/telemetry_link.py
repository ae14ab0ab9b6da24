"""Rows of tools/bench telemetry for the wire and the link: bytes, decoding, publish latency, stored messages a second."""

import json
import math
import multiprocessing
import random
import resource
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import timeit
from collections import Counter
from pathlib import Path

import msgspec
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from rows import Row, better_row, ms, ratio_row

from edge_sdk import clock
from edge_sdk.collector.service import Collector
from edge_sdk.collector.settings import CollectorSettings
from edge_sdk.device import reports
from edge_sdk.link import broker as brokers
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.link.settings import parse_url
from edge_sdk.records import telemetry
from edge_sdk.records.histograms import Histogram
from edge_sdk.wire import codec, compact, histograms

GOLDEN = Path(__file__).parents[1] / "golden" / "samples"
GAUGES = 30
MESSAGES, DEVICES = 60_000, 50


def measure():
    yield from wire_rows()
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        return
    yield from latency_rows()
    yield from collector_rows()


def window():
    """One model at 60 answers a second around 7 ms, as the facts measured: 60 latencies of a lognormal distribution."""
    rng = random.Random(1)
    buckets = Counter(math.ceil(math.log2(rng.lognormvariate(math.log(7), 0.1)) * 64) - 1 for _ in range(60))
    low, high = min(buckets), max(buckets)
    hist = Histogram(6, 0, low, tuple(buckets[bucket] for bucket in range(low, high + 1)))
    return telemetry.Window(
        model="mobilenet", digest="0123456789ab", count=60, errors={}, throughput_hz=59.93, queue_depth_max=2,
        latency_p50_ms=7.012, latency_p99_ms=12.31, latency_hist=histograms.to_text(hist),
        stage_ms=dict(zip(compact.STAGES, (0.112, 0.51, 0.083, 5.912, 0.04, 0.21), strict=True)),
        energy_j=3.112, energy_per_inference_j=0.05187, engine="tensorrt",
    )  # fmt: skip


def document_of(board):
    """A board's golden Sample; what there depends on the machine has a value here."""
    document = json.loads((GOLDEN / f"{board}.json").read_text())
    return document | {"process_memory_bytes": 91_234_304, "disk_used_ratio": 0.4123}


def sample_from(document, missing, seq=86_399):
    """The Sample as a device makes it of these readings, and one model."""
    readings = [telemetry.Reading(name, None, reason) for name, reason in missing.items()]
    for name in compact.READINGS:
        value = document[name]
        parts = {f"{name}.{part}": one for part, one in value.items()} if isinstance(value, dict) else {name: value}
        readings += [telemetry.Reading(metric, one) for metric, one in parts.items() if one is not None]
    moment = reports.Moment(
        seq=seq,
        wall_s=1750086399.123,
        boot_s=86_500.123,
        interval_s=1.000213,
        oldest_seq=seq - 2,
        dropped=0,
        synced=True,
    )
    return reports.sample(reports.Identity("plant", "cam-7", "0123456789abcdef"), moment, readings, [window()])


def full_sample(seq=86_399):
    """Every reading of an AGX Orin's golden Sample that has a value, and one model."""
    document = document_of("agx_orin")
    return sample_from(document, document["missing"], seq)


def numbers(value):
    if isinstance(value, (int, float)):
        return 1
    if isinstance(value, dict):
        return sum(map(numbers, value.values()))
    return 0


def board_gauges(sample):
    return sum(numbers(getattr(sample, name)) for name in compact.READINGS)


def gauges(sample):
    model = sample.models[0]
    return board_gauges(sample) + sum(numbers(getattr(model, field)) for field in model.__struct_fields__)


def sample_of_30():
    """An Orin Nano with edge-sdk-jtop.service: 30 gauges that answer, one accelerator that it has not, and one model."""
    document = document_of("orin_nano")
    document |= {"emc_utilization_ratio": 0.2, "emc_frequency_hz": 2.133e9}
    document["temperatures_c"] = {zone: value for zone, value in document["temperatures_c"].items() if zone != "soc2"}
    sample = sample_from(document, {"dla_frequency_hz": document["missing"]["dla_frequency_hz"]})
    assert board_gauges(sample) == GAUGES, board_gauges(sample)
    return sample


def sample_of_30_with_the_models():
    """Readings taken away until board and model have 30 numbers together.

    What is taken away is null, for one short reason; the names of all readings stay.
    """
    document = document_of("agx_orin")
    for name in ("temperatures_c", "rails_w", "overcurrent_events", "throttle_events", "swap_used_bytes", "fan_ratio",
                 "process_cpu_ratio", "gpu_memory_used_bytes", "cpu_frequency_hz", "gpu_frequency_hz"):  # fmt: skip
        sample = sample_from(document, {})
        if gauges(sample) <= GAUGES:
            break
        document[name] = None
    return sample


def names_bytes(value):
    """What the names in a document take, with the quotes and the colon of each."""
    if isinstance(value, dict):
        return sum(len(name) + 3 + names_bytes(part) for name, part in value.items())
    return sum(map(names_bytes, value)) if isinstance(value, list) else 0


def wire_rows():
    sample, other, full = sample_of_30(), sample_of_30_with_the_models(), full_sample()
    text, packed = codec.to_bytes(sample), compact.to_bytes(sample)
    assert codec.from_bytes(packed, telemetry.Sample) == sample
    for one, what in (
        (sample, f"{GAUGES} gauges that answer, a model with a histogram"),
        (other, f"{gauges(other)} numbers with the model's, {len(other.missing)} sensors absent with a reason"),
    ):
        yield size_row(f"bytes of one Sample, JSON ({what})", len(codec.to_bytes(one)), 1000)
        yield size_row(f"bytes of one Sample, compact ({what})", len(compact.to_bytes(one)), 450)
    names = names_bytes(json.loads(text))
    yield Row(
        "... of the JSON of the former the names, each in full", f"{names} B", f"{len(text)} B in all",
        round(names / len(text), 2), None,
    )  # fmt: skip
    yield Row(
        f"bytes of the fullest board's Sample, compact ({gauges(full)} numbers, {len(full.missing)} reasons)",
        f"{len(compact.to_bytes(full))} B", f"{len(codec.to_bytes(full))} B as JSON",
        round(len(compact.to_bytes(full)) / len(codec.to_bytes(full)), 2), None,
    )  # fmt: skip
    ours_s, floor_s = interleaved(lambda: codec.from_bytes(text, telemetry.Sample), lambda: msgspec.json.decode(text))
    compact_s, _ = interleaved(lambda: codec.from_bytes(packed, telemetry.Sample), lambda: msgspec.json.decode(text))
    yield Row("decode and validate one Sample, JSON", us(ours_s), "4 us", round(ours_s / 4e-6, 2), 1.0)
    yield ratio_row("... beside decoding without a type", ours_s, floor_s, unit=us, what="msgspec.json.decode", bar=1.5)
    yield ratio_row("decode and validate one Sample, compact", compact_s, ours_s, unit=us, what="JSON", bar=None)


def size_row(figure, size_bytes, limit_bytes):
    return Row(figure, f"{size_bytes} B", f"{limit_bytes} B", round(size_bytes / limit_bytes, 2), 1.0)


def us(seconds):
    return f"{seconds * 1e6:.2f} us"


def interleaved(one, other, rounds=40, calls=1000):
    """Gives the least seconds per call of both, measured in turns."""
    least = [math.inf, math.inf]
    for _ in range(rounds):
        for place, act in enumerate((one, other)):
            least[place] = min(least[place], timeit.timeit(act, number=calls) / calls)
    return least


# Publish latency: bursts of 3 every 20 ms, from the publish until the broker's acknowledgement; ours and the peer's in
# turns, burst by burst, so that whatever else the machine does meets both.

BURSTS = 400
PAUSE_S = 0.02


def latency_rows():
    with brokers.open_broker(port=0, kind="mosquitto") as broker, tempfile.TemporaryDirectory() as folder:
        peer = c_client(Path(folder))
        if peer is None:
            return
        ours, floor = bursts(broker, peer)
    for share, bar in ((0.9, 2.0), (0.5, None)):
        yield ratio_row(
            f"publish until acknowledged, {BURSTS} bursts of 3, {'p90' if bar else 'median'}",
            quantile(ours, share), quantile(floor, share), unit=ms,
            what="a C client on libmosquitto, burst by burst in turns", bar=bar,
        )  # fmt: skip


def quantile(values, share):
    return sorted(values)[int(len(values) * share)]


class TimedLink(MqttLink):
    """Notes when the broker's acknowledgements arrive."""

    def __init__(self, settings):
        super().__init__(settings)
        self.arrived, self.is_done = [], threading.Event()

    def _acknowledged(self, packet_id, refusal):
        super()._acknowledged(packet_id, refusal)
        self.arrived.append(time.perf_counter())
        if len(self.arrived) == 3:
            self.is_done.set()


def bursts(broker, program):
    """Gives the seconds of each message, ours and the peer's."""
    payload, ours, floor = codec.to_bytes(sample_of_30()), [], []
    command = [program, "127.0.0.1", str(broker.port), str(len(payload))]
    link = TimedLink(MqttSettings(url=broker.url, client_id="bench-latency", session_expiry_s=0))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        try:
            link.open()
            assert link.wait_for_connected(5.0)
            for _ in range(BURSTS):
                ours += burst(link, payload)
                time.sleep(PAUSE_S)
                peer.stdin.write("\n")
                peer.stdin.flush()
                floor += [float(word) for word in peer.stdout.readline().split()]
                time.sleep(PAUSE_S)
        finally:
            link.close()
            peer.kill()
    assert len(floor) == len(ours)
    return ours, floor


def burst(link, payload):
    link.arrived, started = [], []
    link.is_done.clear()
    for _ in range(3):
        started.append(time.perf_counter())
        link.publish("edge/v1/plant/cam-7/up/telemetry", payload)
    assert link.is_done.wait(5.0)
    return [end - start for start, end in zip(started, link.arrived, strict=True)]


# The same on libmosquitto with its network thread; the few declarations stand in for its header.
C_CLIENT = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <pthread.h>
struct mosquitto;
int mosquitto_lib_init(void);
struct mosquitto *mosquitto_new(const char *, int, void *);
int mosquitto_int_option(struct mosquitto *, int, int);
void mosquitto_publish_callback_set(struct mosquitto *, void (*)(struct mosquitto *, void *, int));
void mosquitto_connect_callback_set(struct mosquitto *, void (*)(struct mosquitto *, void *, int));
int mosquitto_connect(struct mosquitto *, const char *, int, int);
int mosquitto_loop_start(struct mosquitto *);
int mosquitto_publish(struct mosquitto *, int *, const char *, int, const void *, int, int);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static double arrived[3];
static int count, connected;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void note(struct mosquitto *m, void *d, int mid) {
    pthread_mutex_lock(&lock); arrived[count++] = now(); pthread_cond_signal(&changed); pthread_mutex_unlock(&lock);
}
static void joined(struct mosquitto *m, void *d, int rc) {
    pthread_mutex_lock(&lock); connected = 1; pthread_cond_signal(&changed); pthread_mutex_unlock(&lock);
}
int main(int argc, char **argv) {
    int size = atoi(argv[3]);
    char *payload = malloc(size);
    memset(payload, 'x', size);
    mosquitto_lib_init();
    struct mosquitto *m = mosquitto_new("bench-c", 1, NULL);
    mosquitto_int_option(m, 1, 5);   /* MQTT 5 */
    mosquitto_int_option(m, 11, 1);  /* TCP_NODELAY */
    mosquitto_publish_callback_set(m, note);
    mosquitto_connect_callback_set(m, joined);
    if (mosquitto_connect(m, argv[1], atoi(argv[2]), 30)) return 1;
    mosquitto_loop_start(m);
    pthread_mutex_lock(&lock);
    while (!connected) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    while (getchar() != EOF) {
        double started[3];
        count = 0;
        for (int i = 0; i < 3; i++) {
            started[i] = now();
            mosquitto_publish(m, NULL, "edge/v1/plant/cam-7/up/telemetry", size, payload, 1, 0);
        }
        pthread_mutex_lock(&lock);
        while (count < 3) pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
        printf("%.9f %.9f %.9f\n", arrived[0] - started[0], arrived[1] - started[1], arrived[2] - started[2]);
        fflush(stdout);
    }
    return 0;
}
"""


def c_client(folder):
    """Gives the compiled peer, or None where gcc or libmosquitto is missing."""
    (folder / "burst.c").write_text(C_CLIENT)
    command = ["gcc", "-O2", "-o", folder / "burst", folder / "burst.c", "-l:libmosquitto.so.1", "-lpthread"]
    if shutil.which("gcc") is None or subprocess.run(command, capture_output=True).returncode:
        return None
    return folder / "burst"


# The collector: devices publish as fast as the broker takes it, until everything is committed.


def collector_rows():
    context = multiprocessing.get_context("spawn")
    figures = {}
    for _ in range(2):
        for name, consume in (("ours", consume_ours), ("stock", consume_stock), ("bare", consume_bare)):
            found = flood(context, consume)
            figures.setdefault(name, []).append(found)
    rate, cpu = {}, {}
    for name, found in figures.items():
        rate[name] = max(one["rate"] for one in found)
        cpu[name] = min(one["cpu_s"] for one in found)
    what = "bare paho, msgspec, SQLite in batches of 1000"
    per = lambda value: f"{value:.2f} s"  # noqa: E731
    yield Row(
        f"stored messages a second, committed with FULL, of {MESSAGES}",
        f"{rate['ours']:.0f}/s",
        f"{rate['bare']:.0f}/s {what}",
        round(30_000 / rate["ours"], 2),
        1.0,
    )
    yield better_row(
        "... beside the peer", rate["ours"], rate["bare"], unit=lambda value: f"{value:.0f}/s", what=what, bar=None
    )
    yield ratio_row(
        "collector's CPU seconds for 100,000 messages", cpu["ours"], cpu["bare"], unit=per, what=what, bar=1 / 3
    )
    yield ratio_row(
        "... beside paho's own reading",
        cpu["ours"],
        cpu["stock"],
        unit=per,
        what="the collector with batched_reads off",
        bar=None,
    )


def flood(context, consume):
    with brokers.open_broker(port=0, kind="mosquitto") as broker, tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        ready = context.Event()
        consumer = context.Process(target=consume, args=(broker.url, folder, ready, queue))
        publisher = context.Process(target=publish_all, args=(broker.port, ready))
        consumer.start()
        publisher.start()
        try:
            return queue.get(timeout=240)
        finally:
            for process in (publisher, consumer):
                process.join(10)
                if process.is_alive():
                    process.kill()


def publish_all(port, ready):
    """Sends all messages over one connection, in windows of 200 as the broker takes them."""
    text = codec.to_bytes(sample_of_30())
    each = MESSAGES // DEVICES
    packets = []
    for seq in range(each):
        for number in range(DEVICES):
            device = b"cam-%03d" % number
            payload = text.replace(b'"device":"cam-7"', b'"device":"%s"' % device, 1)
            payload = payload.replace(b'"seq":86399', b'"seq":%d' % seq, 1).replace(
                b'"oldest_seq":86397', b'"oldest_seq":0', 1
            )
            body = b"\0\x22edge/v1/plant/" + device + b"/up/telemetry"
            body = (
                len(body[2:]).to_bytes(2, "big")
                + body[2:]
                + (len(packets) % 60_000 + 1).to_bytes(2, "big")
                + b"\0"
                + payload
            )
            packets.append(b"\x32" + varint(len(body)) + body)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"\x10\x12\0\x04MQTT\x05\x02\0\x3c\0\0\x05flood")
        assert sock.recv(100)[0] == 0x20
        ready.wait(60)
        owed = 0
        for at in range(0, len(packets), 100):
            sock.sendall(b"".join(packets[at : at + 100]))
            owed += len(packets[at : at + 100])
            while owed > 100:
                owed -= sock.recv(65536).count(b"\x40\x02")
        while owed > 0:
            owed -= sock.recv(65536).count(b"\x40\x02")


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def consume_ours(url, folder, ready, queue, *, batched_reads=True):
    settings = CollectorSettings(broker=url, database=f"{folder}/t.db")
    link = MqttLink(MqttSettings(url=url, client_id="collector", in_flight_max=1000, batched_reads=batched_reads))
    collector = Collector(settings, link, clock.SystemClock())
    collector.start()
    assert link.wait_for_connected(10)
    watch(ready, queue, lambda: collector.snapshot().stored)
    collector.close()


def consume_stock(url, folder, ready, queue):
    consume_ours(url, folder, ready, queue, batched_reads=False)


def consume_bare(url, folder, ready, queue):
    """What one writes in an afternoon: a callback, a list, a transaction for each thousand."""
    db = sqlite3.connect(f"{folder}/t.db", check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE s (device TEXT, boot TEXT, seq INTEGER, t REAL, payload TEXT, UNIQUE (device, boot, seq))")
    decoder, rows, stored = msgspec.json.Decoder(telemetry.Sample), [], [0]

    def take(_client, _data, message):
        sample = decoder.decode(message.payload)
        rows.append((sample.device, sample.boot, sample.seq, sample.t, message.payload.decode()))
        if len(rows) == 1000:
            db.execute("BEGIN")
            db.executemany("INSERT OR IGNORE INTO s VALUES (?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")
            stored[0] += len(rows)
            rows.clear()

    address = parse_url(url)
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bare", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = take
    client.connect(address.host, address.port)
    client.subscribe("edge/v1/+/+/up/+", qos=1)
    client.loop_start()
    time.sleep(0.5)
    watch(ready, queue, lambda: stored[0])
    client.loop_stop()


def watch(ready, queue, stored):
    """Lets the publisher begin; puts the rate and the CPU time until all is committed."""
    begin_s, begin_cpu_s = time.perf_counter(), cpu_s()
    ready.set()
    while stored() < MESSAGES and time.perf_counter() - begin_s < 200:
        time.sleep(0.005)
    took_s = time.perf_counter() - begin_s
    queue.put({"rate": stored() / took_s, "cpu_s": (cpu_s() - begin_cpu_s) / stored() * 100_000})
