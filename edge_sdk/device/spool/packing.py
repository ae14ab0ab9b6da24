"""A payload as it lies on disk: packed against what every Sample has in common, under a checksum of its own.

SQLite does not see bit-rot (of 378 single-bit flips that mattered, its integrity check passed 358), so each record
carries a CRC-32 over its key, its form and its bytes. Packing is there for the flash: a Sample is mostly names.
"""

import zlib

_RAW, _DEFLATED = 0, 1

# Never change it: files in the field are packed with it. A better one becomes form 2.
_DICTIONARY = (
    b'"queue":,"pre":,"copy_in":,"compute":,"copy_out":,"post":},"energy_j":null,"energy_per_inference_j":null,'
    b'"engine":"onnxruntime","tensorrt"}]}"models":[{"model":"","digest":"","count":0,"errors":{},"throughput_hz":0.0,'
    b'"queue_depth_max":0,"latency_p50_ms":null,"latency_p99_ms":null,"latency_hist":"AQYAAAAA","stage_ms":{},'
    b"no sensor for it on this machinethis board has noneno power sensor below /sys/class/hwmon "
    b"nor /sys/class/powercap is readable hereno NVIDIA GPU is visiblecannot be read: No such file or directory"
    b'"throttled":null,"throttle_events":null,"overcurrent_events":null,"fan_ratio":null,"missing":{},"models":[]}'
    b'"power_mode":"MAXN","temperature_cpu_c":null,"temperature_gpu_c":null,"temperature_max_c":null,'
    b'"temperatures_c":{"cpu-thermal":,"gpu-thermal":,"soc0-thermal":,"soc1-thermal":,"soc2-thermal":,"tj-thermal":,'
    b'"rails_w":{"VDD_IN":,"VDD_CPU_GPU_CV":,"VDD_SOC":},"swap_used_bytes":0,"process_memory_bytes":,'
    b'"process_cpu_ratio":0.0,"disk_used_ratio":0.,"power_w":null,"power_boundary":"module","energy_j":null,'
    b'"emc_utilization_ratio":null,"emc_frequency_hz":null,"dla_frequency_hz":null,"memory_used_bytes":,'
    b'"memory_total_bytes":,"gpu_utilization_ratio":null,"gpu_frequency_hz":null,"gpu_memory_used_bytes":null,'
    b'{"v":2,"device":"","boot":"","seq":,"t":17,"up_s":,"interval_s":1.000,"oldest_seq":0,"dropped":0,'
    b'"simulated":false,"cpu_utilization_ratio":0.0,"cpu_frequency_hz":1510400000.0,'
)


class Packed:
    """One payload on disk; see `pack`."""

    __slots__ = ("body", "crc", "form")

    def __init__(self, crc: int, form: int, body: bytes) -> None:
        self.crc = crc
        self.form = form
        self.body = body


def pack(key: int, payload: bytes) -> Packed:
    """Gives the smaller of `payload` and its packed form, with its checksum.

    >>> unpack(7, pack(7, b"x" * 99)) == b"x" * 99, unpack(8, pack(7, b"x")) is None
    (True, True)
    """
    packer = zlib.compressobj(level=6, wbits=-15, zdict=_DICTIONARY)
    body = packer.compress(payload) + packer.flush()
    form = _DEFLATED
    if len(body) >= len(payload):
        form, body = _RAW, payload
    return Packed(_checksum(key, form, body), form, body)


def unpack(key: int, packed: Packed) -> bytes | None:
    """Gives the payload, or None if a bit of key, checksum, form or bytes is not as it was written."""
    if not isinstance(packed.body, bytes) or packed.form not in (_RAW, _DEFLATED):
        return None
    if packed.crc != _checksum(key, packed.form, packed.body):
        return None
    if packed.form == _RAW:
        return packed.body
    unpacker = zlib.decompressobj(wbits=-15, zdict=_DICTIONARY)
    try:
        return unpacker.decompress(packed.body) + unpacker.flush()
    except zlib.error:  # written by a version with another dictionary
        return None


def _checksum(key: int, form: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(key.to_bytes(8, "big") + bytes([form])))
