"""What one model did: exact counts whatever the threads do, and quantiles that merge."""

import threading

import numpy as np
import pytest

from edge_sdk.device.serve import recorder as recording
from edge_sdk.device.serve.recorder import Spent
from edge_sdk.numerics import histogram
from edge_sdk.records import timings
from edge_sdk.records.timings import STAGES
from edge_sdk.wire import histograms

MS = 1_000_000


def Timings(*args, **kwargs):
    return Spent(timings.Timings(*args, **kwargs), 0, 0, 0)


def new():
    return recording.Recorder(model="tiny", digest="abc", engine="onnxruntime")


def test_an_idle_interval_has_no_quantiles_and_no_means():
    window = new().window(1.0)
    assert (window.count, window.throughput_hz, window.errors, window.stage_ms) == (0, 0.0, {}, {})
    assert window.latency_p50_ms is None
    assert window.latency_p99_ms is None
    assert histograms.from_text(window.latency_hist).count == 0


def test_the_window_tells_count_rate_stages_and_quantiles():
    recorder = new()
    for compute_ms in range(1, 101):
        recorder.record(Timings(1 * MS, 2 * MS, 0, compute_ms * MS, 0, 0))
    window = recorder.window(2.0)
    assert (window.count, window.throughput_hz) == (100, 50.0)
    assert list(window.stage_ms) == list(STAGES)
    assert window.stage_ms["queue"] == pytest.approx(1.0)
    assert window.stage_ms["compute"] == pytest.approx(50.5)
    assert window.latency_p50_ms == pytest.approx(53, rel=0.006)
    assert window.latency_p99_ms == pytest.approx(102, rel=0.006)
    assert (window.model, window.digest, window.engine) == ("tiny", "abc", "onnxruntime")


def test_each_interval_begins_anew():
    recorder = new()
    recorder.record(Timings(compute_ns=MS))
    recorder.record_error("input")
    recorder.window(1.0)
    second = recorder.window(1.0)
    assert (second.count, second.errors, second.queue_depth_max) == (0, {}, 0)


def test_errors_are_counted_by_kind_and_are_no_answers():
    recorder = new()
    for kind in ("input", "engine", "input"):
        recorder.record_error(kind)
    window = recorder.window(1.0)
    assert (window.errors, window.count) == ({"input": 2, "engine": 1}, 0)


def test_depth_is_the_most_requests_at_once_also_over_the_border_of_an_interval():
    recorder = new()
    for _ in range(3):
        recorder.enter()
    recorder.leave()
    assert recorder.window(1.0).queue_depth_max == 3
    assert recorder.window(1.0).queue_depth_max == 2  # two are still inside
    recorder.leave()
    recorder.leave()
    recorder.window(1.0)
    assert recorder.window(1.0).queue_depth_max == 0


def test_a_burst_beyond_the_buffer_loses_nothing():
    recorder = new()
    count = recording._FOLD_AT * 2 + 17
    spent = Timings(compute_ns=3 * MS)
    for _ in range(count):
        recorder.record(spent)
    assert len(recorder._timings) < recording._FOLD_AT
    window = recorder.window(1.0)
    assert window.count == count
    assert window.stage_ms["compute"] == pytest.approx(3.0)


def test_nothing_is_lost_between_recording_threads_and_the_telemetry_thread():
    recorder = new()
    threads, each = 4, 20_000
    windows = []
    running = [
        threading.Thread(target=lambda: [recorder.record(Timings(compute_ns=MS)) for _ in range(each)])
        for _ in range(threads)
    ]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        windows.append(recorder.window(1.0))
    windows.append(recorder.window(1.0))
    assert sum(window.count for window in windows) == threads * each
    merged = histogram.merge(histograms.from_text(window.latency_hist) for window in windows)
    assert merged.count == threads * each


def test_two_windows_merge_to_the_histogram_of_both():
    rng = np.random.default_rng(5)
    halves, recorder = [], new()
    values_ns = rng.lognormal(15, 1, 400).astype(int)
    for half in np.split(values_ns, 2):
        for value in half.tolist():
            recorder.record(Timings(compute_ns=value))
        halves.append(histograms.from_text(recorder.window(1.0).latency_hist))
    assert histogram.merge(halves) == histogram.histogram_from_values(values_ns / 1e6)
