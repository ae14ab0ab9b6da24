"""``edge-sdk top``: one frame of text, what a listener has heard, and a real terminal that is given back."""

import contextlib
import http.server
import json
import os
import pty
import select
import signal
import socketserver
import subprocess
import sys
import termios
import threading
import time

import pytest

from edge_sdk import errors
from edge_sdk.cli import frame, main
from edge_sdk.cli.devices import Devices
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec


def window(**more):
    values = {
        "model": "fashion", "digest": "d", "count": 800, "errors": {"busy": 2}, "throughput_hz": 812.34,
        "queue_depth_max": 3, "latency_p50_ms": 1.0312, "latency_p99_ms": 14.49, "latency_hist": "",
        "stage_ms": {"queue": 0.005, "pre": 0.077, "copy_in": 0.0, "compute": 0.96, "copy_out": 0.0, "post": 0.03},
        "energy_j": 5.0, "energy_per_inference_j": 0.00631, "engine": "onnxruntime:lowered",
    }  # fmt: skip
    return telemetry.Window(**{**values, **more})


def sample(**more):
    values = {
        "v": 1, "device": "cam-7", "boot": "00c0ffee", "seq": 4, "t": 1.75e9, "up_s": 7000.0, "interval_s": 1.0,
        "power_w": 13.62, "power_boundary": "module", "energy_j": 13.6, "rails_w": {"VDD_IN": 13.6, "VDD_SOC": 3.4},
        "power_mode": "25W", "memory_used_bytes": 3 * 2**30, "memory_total_bytes": 8 * 2**30,
        "temperature_cpu_c": 48.6, "temperature_gpu_c": 51.2, "temperatures_c": {"cpu": 48.6, "gpu": 51.2},
        "throttled": False, "throttle_events": 0, "overcurrent_events": 0, "gpu_utilization_ratio": 0.88,
        "gpu_frequency_hz": 625e6, "cpu_utilization_ratio": 0.5, "cpu_frequency_hz": 1.51e9, "fan_ratio": 0.05,
        "missing": {
            "emc_frequency_hz": "debugfs is root's", "emc_utilization_ratio": "debugfs is root's",
            "dla_frequency_hz": "Jetson Orin Nano has no DLA",
        },
        "models": (window(),),
    }  # fmt: skip
    return telemetry.Sample(**{**values, **more})


def seen(**more):
    values = {"site": "plant", "device": "cam-7", "sample": sample(), "age_s": 0.4}
    return frame.Seen(**{**values, **more})


def text(one, **options):
    return frame.plain_text(frame.frame_lines(one, **options))


def test_a_frame_shows_models_stages_rails_heat_clocks_limits_and_every_null():
    shown = text(seen(machine={"module": "Jetson Orin Nano 8GB", "jetpack": "6.2"}))
    for words in (
        "plant/cam-7  Jetson Orin Nano 8GB, JetPack 6.2",
        "Sample 4, 0 s ago, one in 1 s · up 117 min · none dropped",
        "fashion           812   1.03   14.5     2     3  6.31m  onnxruntime:lowered",
        "queue 0.005  pre 0.077  in 0.000  compute 0.960  out 0.000  post 0.030",
        "POWER    13.62 W module  13.60 J in 1 s  mode 25W",
        "VDD_SOC    3.40 W",
        "HEAT     51.2 °C",
        "LIMITS   none met",
        "625 MHz",
        "1.51 GHz",
        "MEMORY     38%",
        "NOT READ 3",
        "emc_frequency_hz, emc_utilization_ratio: debugfs is root's",
        "dla_frequency_hz: Jetson Orin Nano has no DLA",
    ):
        assert words in shown, shown


def test_what_was_not_read_is_a_dash_and_never_a_number():
    bare = telemetry.Sample(v=1, device="cam-7", boot="00c0ffee", seq=0, t=0, up_s=0, interval_s=1,
                            missing={"power_w": "no power sensor"})  # fmt: skip
    shown = text(seen(sample=bare))
    assert "POWER    - W  - J in 1 s  mode -" in shown
    assert "HEAT     - °C  cpu -  gpu -  fan -" in shown
    assert "LIMITS   -  thermal -, over-current -" in shown
    assert "- of - GiB" in shown
    assert "power_w: no power sensor" in shown
    assert "█" not in shown


def test_throttling_simulation_and_absence_are_at_the_top():
    first = text(seen(sample=sample(throttled=True, simulated=True), is_online=False)).splitlines()[0]
    assert first.index("OFFLINE") < first.index("SIMULATED BOARD") < first.index("THROTTLED")
    assert not any(word in text(seen()) for word in ("OFFLINE", "SIMULATED", "THROTTLED"))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (120, 40), (200, 3), (20, 1)])
def test_no_frame_is_larger_than_the_terminal(width, height):
    wild = sample(
        models=tuple(window(model="m" * 64, engine="e" * 64, throughput_hz=1e12) for _ in range(9)),
        rails_w={"R" * 64: 1e9},
        power_mode="p" * 64,
        missing={f"metric_{number}": "a reason " * 30 for number in range(30)},
    )
    events = [telemetry.Event(v=1, device="d", boot="00c0ffee", t=0, kind="throttled", message="hot " * 100)]
    lines = frame.frame_lines(
        seen(sample=wild, events=events, others=("x" * 63,) * 5), width=width, height=height, offset=5
    )
    assert len(lines) == max(height, 4)
    assert all(sum(len(span.text) for span in line) <= width for line in lines)


def test_what_does_not_fit_is_counted_and_reached_by_scrolling():
    whole = text(seen()).splitlines()
    top = text(seen(), height=10).splitlines()
    assert "below" in top[-1]
    assert "above" not in top[-1]
    end = text(seen(), height=10, offset=1000).splitlines()
    assert end[-2].strip() == whole[-1].strip()
    assert "above" in end[-1]
    assert "up, down" not in text(seen(), height=60).splitlines()[-1]


def test_nothing_a_device_says_is_obeyed_by_the_terminal():
    evil = "\x1b[2Jowned\x9b1m\r\n"
    one = seen(
        machine={"module": evil},
        sample=sample(
            models=(window(model=evil, engine=evil),), power_boundary=evil, power_mode=evil, rails_w={evil: 1.0},
            temperatures_c={evil: 1.0}, dla_frequency_hz={evil: 1.0}, missing={evil: evil},
        ),
        events=[telemetry.Event(v=1, device="d", boot="00c0ffee", t=0, kind=evil, message=evil)],
        others=(evil,),
    )  # fmt: skip
    shown = "".join(line for line in text(one, width=120, height=60).splitlines())
    assert "owned" in shown
    assert not any(letter in shown for letter in "\x1b\x9b\r")


def test_small_curves_follow_the_history_and_leave_gaps():
    shown = text(seen(powers_w=[5.0, None, 15.0], heats_c=[50.0]))
    assert "▁ █" in shown
    assert shown.count("▁") == 1


def message(record, leaf="telemetry", device="cam-7"):
    return Message(f"edge/v1/plant/{device}/up/{leaf}", codec.to_bytes(record), False)


def test_the_newest_sample_counts_and_what_was_held_back_does_not():
    clock = FakeClock()
    devices = Devices(clock)
    assert devices.take(message(sample(seq=4)))
    assert not devices.take(message(sample(seq=3)))  # of the spool, after an outage
    assert not devices.take(message(sample(seq=4)))  # sent again
    assert devices.take(message(sample(seq=0, boot="00c0fff0", t=1.75e9 + 9)))  # a new start
    assert not devices.take(message(sample(seq=9)))  # of the start before
    clock.advance(2.5)
    one = devices.seen(("plant", "cam-7"))
    assert (one.sample.boot, one.age_s, one.is_online) == ("00c0fff0", 2.5, True)
    assert len(one.powers_w) == 2


def test_a_version_that_was_withdrawn_is_heard_of_and_shown_below_the_models():
    devices = Devices(FakeClock())
    devices.take(message(sample()))
    shown = text(devices.seen(("plant", "cam-7")))
    assert "not served any more" not in shown
    bad = telemetry.Withdrawn("fashion", "2", "99 % of 100 requests took up to 80 ms")
    born = telemetry.Birth(
        v=2, device="cam-7", boot="00c0ffee", t=1.0, sdk="1", machine={}, models=(), metrics=(), interval_s=1.0,
        withdrawn=(bad,),
    )  # fmt: skip
    devices.take(message(born, "birth"))
    shown = text(devices.seen(("plant", "cam-7")))
    assert "  fashion 2 is not served any more: 99 % of 100 requests took up to 80 ms" in shown
    assert shown.index("queue 0.005") < shown.index("not served any more") < shown.index("POWER")


def test_birth_status_and_events_are_heard_and_garbage_is_not():
    devices = Devices(FakeClock())
    birth = telemetry.Birth(v=1, device="cam-7", boot="00c0ffee", t=1, sdk="0", machine={"module": "Nano"}, models=(),
                            metrics=(), interval_s=5.0)  # fmt: skip
    event = telemetry.Event(v=1, device="cam-7", boot="00c0ffee", t=1, kind="throttled", message="hot")
    for one in (
        message(telemetry.Status("offline", "00c0ffee", 1.0), "status"),
        message(birth, "birth"),
        *[message(event, "event")] * 9,
        Message("edge/v1/plant/cam-7/up/birth", b"poison", False),
        Message("some/other", b"{}", False),
    ):
        assert not devices.take(one)
    heard = devices.seen(("plant", "cam-7"))
    assert (heard.is_online, heard.machine, len(heard.events)) == (False, {"module": "Nano"}, 4)
    assert (devices.names(), devices.interval_s()) == ([], 5.0)


@pytest.mark.parametrize(
    "wrong", [["--device", "Cam/7"], ["--site", "+"], ["--broker", "http://x"], ["--daemon", "ftp://x"]]
)
def test_wrong_options_are_usage_errors(wrong, capsys):
    assert main.run(["top", *wrong]) == errors.UsageError.exit_code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", ["top", "watch", "simulate"])
def test_whoever_listens_or_speaks_can_show_a_certificate_of_the_fleet(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = ["--ca-file", "ca.crt", "--cert-file", "my.crt", "--key-file", "my.key"]
    assert main.run([command, "--broker", "mqtts://127.0.0.1:1", *files]) == errors.SettingsError.exit_code
    assert "cannot read the certificates ca.crt, my.crt, my.key" in capsys.readouterr().err


def test_nobody_there_is_a_link_error(capsys):
    assert main.run(["top", "--daemon", "http://127.0.0.1:9"]) == errors.LinkError.exit_code
    assert "did not answer" in capsys.readouterr().err


class Answers(http.server.BaseHTTPRequestHandler):
    """A daemon that gives one Sample more each time, or what `status` says."""

    seq = 0
    status = 200

    def do_GET(self):
        type(self).seq += 1
        body = codec.to_bytes(sample(seq=self.seq)) if self.path == "/telemetry" else b""
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class UnixServer(socketserver.ThreadingUnixStreamServer):
    def get_request(self):
        link, _ = super().get_request()
        return link, ("local", 0)


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def daemon():
    answers = type("OwnAnswers", (Answers,), {"seq": 0})
    server = http.server.HTTPServer(("127.0.0.1", 0), answers)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}", answers


def test_without_a_terminal_it_prints_one_frame_and_leaves(daemon, capsys):
    assert main.run(["top", "--daemon", daemon[0]]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cam-7\nSample 1,")
    assert "\x1b" not in shown


def test_as_json_it_is_one_document_over_a_unix_socket_too(tmp_path, capsys):
    with serving(UnixServer(str(tmp_path / "s"), Answers)):
        assert main.run(["top", "--json", "--daemon", f"unix:{tmp_path / 's'}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sample"]["power_w"] == 13.62
    assert found["sample"]["missing"]["dla_frequency_hz"] == "Jetson Orin Nano has no DLA"


def test_what_is_no_daemon_of_ours_is_said(daemon, capsys):
    daemon[1].status = 404
    assert main.run(["top", "--daemon", daemon[0]]) == errors.LinkError.exit_code
    assert "answered 404" in capsys.readouterr().err


class Terminal:
    """The command on a terminal of 24 lines."""

    def __init__(self, *arguments):
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (24, 80)) if hasattr(termios, "tcsetwinsize") else None
        self.before = termios.tcgetattr(self.slave)
        self.said = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_sdk", "top", *arguments],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            env={**os.environ, "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip

    def wait_for(self, words, timeout_s=60):
        deadline_s = time.monotonic() + timeout_s
        while words not in self.said:
            assert time.monotonic() < deadline_s, self.said.decode(errors="replace")
            if select.select([self.master], [], [], 0.1)[0]:
                self.read()

    def read(self):
        self.said += os.read(self.master, 65536)  # this end keeps the other one open

    def end(self):
        code = self.process.wait(60)
        while select.select([self.master], [], [], 0)[0]:
            self.read()
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminal(daemon):
    made = Terminal("--daemon", daemon[0])
    yield made
    made.close()


@pytest.mark.parametrize("way", ["interrupt", "terminate", "key"])
def test_however_it_ends_the_terminal_is_as_it_was(terminal, way):
    terminal.wait_for(b"NOT READ")
    assert termios.tcgetattr(terminal.slave) != terminal.before
    if way == "key":
        os.write(terminal.master, b"x\x1b[B\x1b[Bq")
    else:
        terminal.process.send_signal(signal.SIGINT if way == "interrupt" else signal.SIGTERM)
    assert terminal.end() == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert terminal.said.startswith(b"\x1b[?1049h\x1b[?25l")
    assert terminal.said.endswith(b"\x1b[?25h\x1b[?1049l")


def test_it_goes_on_when_the_daemon_is_away_for_a_while(terminal, daemon):
    terminal.wait_for(b" 0 s ago")
    daemon[1].status = 503  # as while it starts
    terminal.wait_for(b" 1 s ago")
    terminal.said = b""
    daemon[1].status = 200
    terminal.wait_for(b" 0 s ago")


def test_colours_go_away_when_they_are_not_wanted(daemon, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    made = Terminal("--daemon", daemon[0], "--seconds", "1")
    try:
        assert made.end() == 0
        assert "NOT READ" in made.said.decode()
        assert b"m\x1b" not in made.said
    finally:
        made.close()
