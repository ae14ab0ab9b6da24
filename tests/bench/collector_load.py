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


def publish(url, rows, *, rate_hz=None):
    """Publishes every row over a connection of its own; gives the seconds until the last PUBACK."""
    parts = urlsplit(url)
    peers = []
    for number, row in enumerate(rows):
        peer = socket.create_connection((parts.hostname, parts.port))
        name = f"load-{number}".encode()
        peer.sendall(
            b"\x10" + bytes([12 + len(name)]) + b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack("!H", len(name)) + name
        )
        assert peer.recv(4)[3:] == b"\x00"
        peer.setblocking(False)
        peers.append([peer, row, 0, 0, b""])
    poll = select.epoll()
    by_fd = {}
    for peer in peers:
        poll.register(peer[0], select.EPOLLIN | select.EPOLLOUT)
        by_fd[peer[0].fileno()] = peer
    start = time.perf_counter()
    total, acked = sum(map(len, rows)), 0
    while acked < total:
        allowed = None if rate_hz is None else (time.perf_counter() - start) * rate_hz / len(peers)
        is_idle = True
        for fd, events in poll.poll(0.01):
            peer = by_fd[fd]
            if events & select.EPOLLIN:
                got = len(peer[0].recv(65536))
                assert got, "the broker hung up"
                peer[3] += got
                acked += peer[3] // 4
                done, peer[3] = divmod(peer[3], 4)
                peer.append(done) if len(peer) == 5 else peer.__setitem__(5, peer[5] + done)
                is_idle = False
            sent, confirmed = peer[2], peer[5] if len(peer) > 5 else 0
            if peer[4] or (sent < len(peer[1]) and sent - confirmed < WINDOW):
                upto = min(len(peer[1]), confirmed + WINDOW, sent + 20)
                if allowed is not None:
                    upto = min(upto, int(allowed) + 1)
                if not peer[4] and upto <= sent:
                    continue
                data = peer[4] or b"".join(peer[1][sent:upto])
                if not peer[4]:
                    peer[2] = upto
                try:
                    gone = peer[0].send(data)
                except BlockingIOError:
                    gone = 0
                peer[4] = data[gone:]
                is_idle = False
        if is_idle:
            time.sleep(0.0005)
    seconds = time.perf_counter() - start
    for peer in peers:
        peer[0].close()
    poll.close()
    return seconds
