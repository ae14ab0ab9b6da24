"""The process around a broker: it ends the broker as soon as whoever started it is gone. The only door to iotcore.

Run as ``python -m edge_sdk.link.broker_child KIND PROGRAM HOST PORT`` with a pipe as standard input; when the pipe
closes, also because the other end was killed, the broker is stopped and nothing is left behind. The first line on
standard output is the process id of the broker itself.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

PAYLOAD_MAX_BYTES = 2 * 2**20
"""Largest message the embedded broker takes: 32 times our largest record."""

_STOP_S = 2.0

_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages 200
max_queued_messages 1000000
max_queued_bytes 268435456
log_dest stderr
log_type error
"""

# Segments bound the memory: the embedded broker keeps the newest 10 x 4 MiB of every topic filter, also for clients
# that are away.
_EMBEDDED = """\
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 4194304
max_segment_count = 10
[v5.1]
name = "edge_sdk"
listen = "{address}"
next_connection_delay_ms = 0
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {payload_max_bytes}
max_inflight_count = 200
dynamic_filters = true
"""


def main(arguments: list[str]) -> int:
    """Serves until standard input closes; gives the broker's exit code if it ends by itself."""
    kind, program, host, port = arguments
    if kind == "mosquitto":
        return _run_mosquitto(program, host, port)
    return _run_embedded(host, port)


def _run_mosquitto(program: str, host: str, port: str) -> int:
    config = os.memfd_create("mosquitto.conf", 0)  # no file to put away, whatever happens
    os.write(config, _MOSQUITTO.format(host=host, port=port).encode())
    child = subprocess.Popen(
        [program, "-c", f"/proc/self/fd/{config}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[config],
    )

    def stop() -> None:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()

    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    _tell(child.pid)
    _when_left_alone(stop)
    return child.wait()


def _run_embedded(host: str, port: str) -> int:
    logging.basicConfig(level=logging.WARNING)
    # The Rust broker wraps every packet in a span that shows up as an error in Python's logging.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    from iotcore import IotCoreBroker  # noqa: PLC0415  # 14 MB that mosquitto's child does without

    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with tempfile.TemporaryDirectory(prefix="edge-broker-") as folder:
        config = Path(folder, "broker.toml")
        config.write_text(_EMBEDDED.format(address=address, payload_max_bytes=PAYLOAD_MAX_BYTES), encoding="utf-8")
        broker = IotCoreBroker(config_path=str(config))  # reads the file at once
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _tell(os.getpid())
    _when_left_alone(lambda: os._exit(0))  # it has no call that stops it, and keeps nothing that needs saving
    broker.run_forever()
    return 0


def _tell(process_id: int) -> None:
    print(process_id, flush=True)  # noqa: T201  # the one line that the parent reads


def _when_left_alone(act: Callable[[], None]) -> None:
    """Has `act` called once standard input is closed."""

    def wait() -> None:
        sys.stdin.buffer.read()
        act()

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
