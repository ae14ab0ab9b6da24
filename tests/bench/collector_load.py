"""Fifty publishers as one process of plain sockets: MQTT 3.1.1, QoS 1, packets made beforehand, a window for each."""

import select
import socket
import struct
import time
from urllib.parse import urlsplit

import msgspec
import numpy as np

from edge_sdk.numerics import histogram
from edge_sdk.records import telemetry
from edge_sdk.wire import codec, histograms

BOOT = "00c0ffee"
PUBLISHERS = 50
WINDOW = 100
AT_ONCE = 25  # a quarter of the window in one piece: a wake-up for each message would take a core of its own
PUBACK_BYTES = 4
TICK_S = 0.01
START_T = 1_750_000_020.0


def base_sample(rng, median_ms=5.0, values=None):
    """Gives a Sample of 30 gauges (22 plain ones, 8 parts) with a histogram of 60 latencies."""
    values = rng.lognormal(np.log(median_ms), 0.2, 60) if values is None else values
    window = telemetry.Window(
        model="net", digest="0123456789ab", count=len(values), errors={}, throughput_hz=60.0, queue_depth_max=2,
        latency_p50_ms=5.0, latency_p99_ms=9.0, latency_hist=histograms.to_text(histogram.histogram_from_values(values)),
        stage_ms={"compute": 4.0}, energy_j=6.0, energy_per_inference_j=0.1, engine="tensorrt",
    )  # fmt: skip
    return telemetry.Sample(
        v=1, device="x", boot=BOOT, seq=0, t=START_T, up_s=5.0, interval_s=1.0, simulated=True,
        cpu_utilization_ratio=0.41, cpu_frequency_hz=1.51e9, gpu_utilization_ratio=0.37, gpu_frequency_hz=6.2e8,
        gpu_memory_used_bytes=1258291200, emc_utilization_ratio=0.2, emc_frequency_hz=2.1e9,
        memory_used_bytes=3195961344, memory_total_bytes=7989903360, swap_used_bytes=5242880,
        process_memory_bytes=123456789, process_cpu_ratio=0.1, disk_used_ratio=0.31, power_w=6.0,
        power_boundary="module", energy_j=6.0, rails_w={"VDD_IN": 6.0, "VDD_SOC": 1.5, "VDD_CPU_GPU_CV": 2.0},
        temperature_cpu_c=48.0, temperature_gpu_c=47.5, temperature_max_c=49.2,
        temperatures_c={"cpu": 48.0, "gpu": 47.5, "soc0": 46.8, "soc1": 47.1, "tj": 49.2}, throttled=False,
        throttle_events=0, overcurrent_events=0, fan_ratio=0.4, models=(window,),
    )  # fmt: skip


def packets(device, count, payload_of):
    """Gives PUBLISH packets of one device, as one list."""
    topic = f"edge/v1/plant/{device}/up/telemetry".encode()
    out = []
    for seq in range(count):
        payload = payload_of(seq)
        body = struct.pack("!H", len(topic)) + topic + struct.pack("!H", seq % 65000 + 1) + payload
        length, head = len(body), bytearray(b"\x32")
        while True:
            length, digit = divmod(length, 128)
            head.append(digit | (128 if length else 0))
            if not length:
                break
        out.append(bytes(head) + body)
    return out


def all_packets(count, prefix="dev"):
    rng = np.random.default_rng(3)
    out = []
    for number in range(PUBLISHERS):
        name = f"{prefix}-{number:03d}"
        text = codec.to_bytes(msgspec.structs.replace(base_sample(rng, 2 + number / 5), device=name)).decode()
        head, tail = text.split('"seq":0,"t":1750000020.0,"up_s":5.0', 1)
        # `up_s` goes on with `t`, else each Sample would say that the device's clock was set.
        out.append(
            packets(
                name,
                count,
                lambda seq, h=head, t=tail: f'{h}"seq":{seq},"t":{START_T + seq},"up_s":{5.0 + seq}{t}'.encode(),
            )
        )
    return out, len(text)


class Publisher:
    """One connection: what of its row is sent, and what of that is acknowledged."""

    def __init__(self, url, name, row):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port))
        head = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack("!H", len(name)) + name
        self.socket.sendall(b"\x10" + bytes([len(head)]) + head)
        assert self.socket.recv(4)[3:] == b"\x00"
        self.socket.setblocking(False)
        self.row, self.sent, self.acked, self.acked_bytes, self.left = row, 0, 0, 0, b""
        self.is_full = False

    def read(self):
        """Gives how many more are acknowledged."""
        got = len(self.socket.recv(65536))
        assert got, "the broker hung up"
        before = self.acked
        self.acked_bytes += got
        self.acked = self.acked_bytes // PUBACK_BYTES
        return self.acked - before

    def send(self, allowed):
        """Sends as far as row, window and `allowed` let it, some at once; True if the socket did not take it all."""
        upto = min(len(self.row), self.acked + WINDOW, allowed)
        if not self.left and (upto - self.sent >= AT_ONCE or upto in (len(self.row), allowed)):
            self.left = b"".join(self.row[self.sent : upto])
            self.sent = max(self.sent, upto)
        if self.left:
            try:
                self.left = self.left[self.socket.send(self.left) :]
            except BlockingIOError:
                return True
        return bool(self.left)


def publish(url, rows, *, rate_hz=None):
    """Publishes every row over a connection of its own; gives the seconds until the last PUBACK."""
    peers = [Publisher(url, f"load-{number}".encode(), row) for number, row in enumerate(rows)]
    by_fd = {peer.socket.fileno(): peer for peer in peers}
    poll = select.epoll()
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    start = time.perf_counter()
    next_s = 0.0
    allowed = 2**62
    left = sum(map(len, rows))
    while left:
        turn = set()
        elapsed_s = time.perf_counter() - start
        if elapsed_s >= next_s:
            turn.update(by_fd)
            next_s = elapsed_s + TICK_S
            allowed = 2**62 if rate_hz is None else int(elapsed_s * rate_hz / len(peers)) + 1
        for fd, events in poll.poll(max(0.0, start + next_s - time.perf_counter())):
            if events & select.EPOLLIN:
                left -= by_fd[fd].read()
            turn.add(fd)
        for fd in turn:
            peer = by_fd[fd]
            if peer.send(allowed) != peer.is_full:
                peer.is_full = not peer.is_full
                poll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if peer.is_full else 0))
    seconds = time.perf_counter() - start
    for peer in peers:
        peer.socket.close()
    poll.close()
    return seconds
