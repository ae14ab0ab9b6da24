"""What `edge-sdk watch` shows: the table, the plain lines, JSON and everything as it is."""

import json

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.cli import main, table, watch
from edge_sdk.cli.table import Shown
from edge_sdk.link.protocol import Message
from edge_sdk.records import telemetry
from edge_sdk.testing.clock import FakeClock
from edge_sdk.wire import codec


def window(**more):
    values = {
        "model": "fashion", "digest": "d", "count": 800, "errors": {"timeout": 2, "shape": 1}, "throughput_hz": 812.34,
        "queue_depth_max": 1, "latency_p50_ms": 1.0312, "latency_p99_ms": 14.49, "latency_hist": "", "stage_ms": {},
        "energy_j": 5.0, "energy_per_inference_j": 0.00631,
    }  # fmt: skip
    return telemetry.Window(**{**values, **more})


def sample(device="cam-7", **more):
    values = {
        "v": 1, "device": device, "boot": "00c0ffee", "seq": 4, "t": 1.75e9, "up_s": 1.0, "interval_s": 1.0,
        "power_w": 5.12, "memory_used_bytes": 3 * 2**30, "memory_total_bytes": 8 * 2**30, "temperature_cpu_c": 48.6,
        "temperature_gpu_c": 51.2, "models": (window(),),
    }  # fmt: skip
    return telemetry.Sample(**{**values, **more})


def test_the_table_shows_what_was_measured():
    text = table.table_text([Shown("cam-7", sample(), 0.4)])
    assert text == (
        "DEVICE      MODEL        INF/S  P50ms  P99ms  ERR     W  MEM   °C  J/INF     AGE\n"
        "cam-7       fashion        812   1.03   14.5    3  5.12  38%   51  6.31m     0 s\n"
    )


def test_what_is_not_known_is_a_dash_never_a_number():
    bare = telemetry.Sample(v=1, device="cam-7", boot="00c0ffee", seq=0, t=0, up_s=0, interval_s=1)
    unknown = window(
        latency_p50_ms=None, latency_p99_ms=None, energy_per_inference_j=None, count=0, throughput_hz=0.0, errors={}
    )
    rows = table.table_text(
        [
            Shown("a", None, None, is_online=False),
            Shown("b", bare, 3.0),
            Shown("c", msgspec.structs.replace(bare, models=(unknown,)), 3.0),
        ]
    ).splitlines()[1:]
    assert rows[0].split() == ["a", *["-"] * 9, "offline"]
    assert rows[1].split() == ["b", *["-"] * 9, "3", "s"]
    assert rows[2].split() == ["c", "fashion", "0", "-", "-", "0", "-", "-", "-", "-", "3", "s"]


def test_devices_are_in_order_with_a_line_for_each_model():
    two = sample("cam-2", models=(window(model="one"), window(model="two")))
    rows = table.table_text([Shown("cam-7", sample(), 1), Shown("cam-2", two, 1)]).splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [["cam-2", "one"], ["cam-2", "two"], ["cam-7", "fashion"]]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width):
    extreme = sample(
        "x" * 63,
        power_w=123456.0,
        temperature_max_c=-1234.0,
        memory_used_bytes=2**62,
        models=(
            window(
                model="m" * 64,
                throughput_hz=1e12,
                latency_p50_ms=1e-9,
                latency_p99_ms=1e9,
                errors={"e": 10**12},
                energy_per_inference_j=-1e-5,
            ),
        ),
    )
    for line in table.table_text([Shown("x" * 63, extreme, 1e9)], width=width).splitlines():
        assert len(line) <= width


def test_a_wide_terminal_shows_long_names_in_full():
    name = "packaging-line-3-camera-7"
    assert name in table.table_text([Shown(name, sample(name), 1)], width=140)
    assert "packaging-~" in table.table_text([Shown(name, sample(name), 1)], width=80)


def test_more_devices_than_lines_are_said_to_be_there():
    many = [Shown(f"cam-{number:03}", sample(f"cam-{number:03}"), 1) for number in range(100)]
    lines = table.table_text(many, height=24).splitlines()
    assert len(lines) == 24
    assert lines[-1] == "... and 78 more lines; --device shows one"


def test_an_empty_fleet_says_so():
    assert "no device has spoken yet" in table.table_text([])


def test_simulated_figures_are_marked():
    assert "cam-7* " in table.table_text([Shown("cam-7", sample(simulated=True), 1)])


def test_nothing_a_device_says_is_obeyed_by_the_terminal():
    evil = sample(models=(window(model="\x1b[2Jowned\x9b1m\r\n"),))
    text = table.table_text([Shown("cam-7", evil, 1)], width=120) + table.sample_line(evil)
    assert "?[2Jowned?1m??" in text
    assert not any(letter in text for letter in "\x1b\x9b\r")
    assert "\x1b" not in watch.raw_line(Message("t/\x1b[2J", b"\x1b]0;x\x07", False))


@pytest.mark.parametrize(
    ("age_s", "text"), [(0.4, "0 s"), (119, "119 s"), (180, "3 min"), (7300, "2 h"), (1e6, "278 h")]
)
def test_ages_are_short(age_s, text):
    assert table.table_text([Shown("cam-7", sample(), age_s)]).rstrip().endswith(text)


@pytest.mark.parametrize(
    "value", [1e-12, 9.999e-4, 0.0999, 0.1, 9.996, 99.96, 999.9, 9999.9, 1e4, 99999, 1e6, 1e12, -3.2, -0.00052]
)
def test_short_numbers_are_within_half_a_percent(value):
    text = table.short(value, 7)
    factor = {"u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1])
    number = float(text[:-1]) * factor if factor else float(text)
    assert number == pytest.approx(value, rel=0.005, abs=1e-8)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9999"), (12_345, "12k"), (999_600, "1M"), (10**13, ">1T")]
)
def test_error_counts_are_whole_numbers(count, text):
    row = table.table_text([Shown("cam-7", sample(models=(window(errors={"timeout": count}),)), 1)]).splitlines()[1]
    assert row.split()[5] == text


def test_a_plain_line_says_the_same():
    assert table.sample_line(sample()) == (
        "15:06:40Z cam-7 4: fashion 812/s p50 1.03 ms p99 14.5 ms errors 3 6.31m J/inference, "
        "5.12 W, memory 38%, 51.2 °C"
    )


def message(payload, topic="edge/v1/plant/cam-7/up/telemetry"):
    return Message(topic, payload, False)


def test_json_is_the_payload_as_it_came():
    payload = codec.to_bytes(sample())[:-1] + b',"from_the_future":1}'
    assert watch.json_line(message(payload)).encode() == payload


def test_json_is_one_line_whatever_came():
    line = watch.json_line(message(msgspec.json.format(codec.to_bytes(sample()), indent=2)))
    assert "\n" not in line
    assert json.loads(line) == json.loads(codec.to_bytes(sample()))


@pytest.mark.parametrize("line", [watch.json_line, watch.plain_line])
def test_what_is_no_sample_is_not_shown_as_one(line, capsys):
    view = watch.LineView(line)
    assert not view.show(message(b'{"state": "online"}'))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "left out a message on edge/v1/plant/cam-7/up/telemetry: not a Sample" in shown.err
    assert view.show(message(codec.to_bytes(sample())))
    assert capsys.readouterr().out.count("\n") == 1


def test_raw_shows_everything():
    assert watch.raw_line(message(b'{"boot":"00c0ffee","upto":3}', "edge/v1/p/d/down/receipt")) == (
        'edge/v1/p/d/down/receipt {"boot":"00c0ffee","upto":3}'
    )
    assert json.loads(watch.raw_json_line(message(b"[1]"))) == {"topic": message(b"").topic, "payload": [1]}
    assert json.loads(watch.raw_json_line(message(b"\xff{")))["payload"] == "\ufffd{"


def test_the_live_table_marks_offline_devices_and_ages(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ticks = FakeClock()
    view = watch.TableView(ticks)
    assert view.show(message(codec.to_bytes(sample())))
    online, offline = (codec.to_bytes(telemetry.Status(state, "00c0ffee", 1.0)) for state in ("online", "offline"))
    assert not view.show(message(offline, "edge/v1/plant/cam-1/up/status"))
    assert not view.show(message(online, "edge/v1/plant/cam-7/up/status"))
    assert not view.show(message(b"poison"))
    ticks.advance(3)
    view.refresh()
    shown = capsys.readouterr().out
    assert (shown.startswith("\x1b[H\x1b[2KDEVICE"), shown.endswith("\x1b[J")) == (
        True,
        True,
    )  # nothing is cleared first
    rows = [row.removeprefix("\x1b[2K") for row in shown.splitlines()]
    assert rows[1].split()[0::10] == ["cam-1", "offline"]
    assert rows[2].endswith("3 s")
    view.refresh()
    assert capsys.readouterr().out == ""
    view.show(message(offline))
    view.show(message(offline, "edge/v1/plant/cam-7/up/status"))
    ticks.advance(1)
    view.refresh()
    assert capsys.readouterr().out.splitlines()[2].endswith("offline")


def test_the_live_table_does_not_fall_back_to_what_a_device_sends_once_more(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    view = watch.TableView(FakeClock())
    assert view.show(message(codec.to_bytes(sample(seq=20, power_w=7.0))))
    assert not view.show(message(codec.to_bytes(sample(seq=3, power_w=1.0))))
    assert view.show(message(codec.to_bytes(sample(seq=0, boot="00c0fff0", t=1.75e9 + 1, power_w=8.0))))
    assert not view.show(message(codec.to_bytes(sample(seq=21, power_w=1.0))))  # of the start before
    view.refresh()
    assert " 8.00 " in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--device", "Cam/7"], ["--site", "+"], ["--broker", "http://x"]])
def test_wrong_options_are_usage_errors(wrong, capsys):
    assert main.run(["watch", *wrong]) == errors.UsageError.exit_code
    assert capsys.readouterr().out == ""
