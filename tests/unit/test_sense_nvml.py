"""NVIDIA cards through the real nvidia-ml-py on a libnvidia-ml of our own; and machines without either."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from edge_sdk.device.sense import board, power
from edge_sdk.records.telemetry import Reading
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock

LIBRARY = r"""
#include <stdlib.h>
#include <string.h>
typedef unsigned int u;
static int off(const char *what) { const char *e = getenv("NVML_WITHOUT"); return e && strstr(e, what) ? 3 : 0; }
int nvmlInitWithFlags(u f) { (void)f; return off("init") ? 9 : 0; }
int nvmlInit_v2(void) { return off("init") ? 9 : 0; }
const char *nvmlErrorString(int r) { return r == 3 ? "Not Supported" : r == 9 ? "Driver Not Loaded" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(u *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(u i, void **d) { *d = (void *)(size_t)(i + 1); return 0; }
int nvmlDeviceGetUtilizationRates(void *d, u *r) { r[0] = d == (void *)1 ? 40 : 80; r[1] = 5; return off("load"); }
int nvmlDeviceGetClockInfo(void *d, u k, u *c) { (void)k; *c = d == (void *)1 ? 1500 : 1800; return 0; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) { (void)d; m[0] = 8ull << 30; m[1] = 6ull << 30; m[2] = 2ull << 30; return off("memory"); }
int nvmlDeviceGetTemperature(void *d, u k, u *t) { (void)k; *t = d == (void *)1 ? 51 : 63; return 0; }
int nvmlDeviceGetFanSpeed(void *d, u *s) { (void)d; *s = 30; return off("fan"); }
int nvmlDeviceGetPowerUsage(void *d, u *p) { *p = d == (void *)1 ? 70500 : 30000; return off("power"); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *r) { (void)d; *r = off("limit") ? 0x40 : 0x4; return 0; }
int nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *r) { return nvmlDeviceGetCurrentClocksThrottleReasons(d, r); }
"""

SCRIPT = """
import json, sys
from pathlib import Path
from edge_sdk.device.sense import board, together
from edge_sdk.testing.clock import FakeClock
clock = FakeClock()
sensors = together.Sensors(board.sensors_of(Path(sys.argv[1]), clocks=clock, state_folder=Path(sys.argv[1])))
sensors.collect()
assert sensors.tick() in (True, False)
clock.advance(2.0)
print(json.dumps({one.metric: [one.value, one.reason] for one in sensors.collect()}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if importlib.util.find_spec("pynvml") is None or shutil.which("gcc") is None:
        pytest.skip("needs gcc, and nvidia-ml-py: pip install 'edge_sdk[nvml]'")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(LIBRARY)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(folder / "nvml.c")], check=True
    )
    return folder


@pytest.fixture
def pc(tmp_path):
    fake = FakeBoard(tmp_path)
    fake.write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module")
    return fake


def readings(root, library="/not/there", without=""):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root)],
        env={**os.environ, "LD_LIBRARY_PATH": str(library), "NVML_WITHOUT": without},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_cards_are_read_as_one_machine_and_each_rail_for_itself(pc, library):
    found = readings(pc.root, library)
    values = {metric: value for metric, (value, _) in found.items()}
    assert values["gpu_utilization_ratio"] == pytest.approx(0.6)
    assert values["gpu_frequency_hz"] == 1.8e9
    assert values["gpu_memory_used_bytes"] == 4 << 30
    assert values["temperature_gpu_c"] == 63
    assert values["fan_ratio"] == pytest.approx(0.3)
    assert values["throttled"] is False  # the power cap of normal work is none
    assert (values["power_w"], values["power_boundary"], values["energy_j"]) == (100.5, "gpu", 201.0)
    assert (values["rails_w.gpu0"], values["rails_w.gpu1"]) == (70.5, 30.0)


@pytest.mark.parametrize(
    ("without", "metric"),
    [("load", "gpu_utilization_ratio"), ("fan", "fan_ratio"), ("power", "power_w"), ("power", "rails_w.gpu0")],
)
def test_what_a_card_does_not_support_is_null_and_the_rest_is_there(pc, library, without, metric):
    found = readings(pc.root, library, without)
    assert found[metric][0] is None
    assert found[metric][1]
    assert found["gpu_frequency_hz"][0] == 1.8e9


def test_a_thermal_limit_is_throttling(pc, library):
    assert readings(pc.root, library, "limit")["throttled"][0] is True


def test_a_driver_that_is_not_loaded_is_a_reason(pc, library):
    value, reason = readings(pc.root, library, "init")["gpu_utilization_ratio"]
    assert value is None
    assert "Driver Not Loaded" in reason


def test_a_library_that_is_not_there_is_a_reason(pc, library):
    value, reason = readings(pc.root)["gpu_utilization_ratio"]
    assert value is None
    assert reason.startswith("NVML: ")


def test_a_processors_counter_that_stands_still_is_not_0_watts_and_the_card_stands_in(pc, library):
    pc.become_pc()
    found = readings(pc.root, library)
    assert (found["power_boundary"][0], found["power_w"][0]) == ("gpu", 100.5)


def test_a_machine_without_a_card_loads_nothing(tmp_path):
    FakeBoard(tmp_path)
    board.sensors_of(tmp_path, clocks=FakeClock(), state_folder=tmp_path)
    assert "edge_sdk.device.sense.nvml" not in sys.modules


class Source:
    def __init__(self, power_w, energy_j, boundary):
        self.readings = [
            Reading("power_w", power_w, "" if power_w else "none"),
            Reading("power_boundary", boundary, "" if boundary else "none"),
            Reading("energy_j", energy_j, "" if energy_j else "none"),
            Reading(f"rails_w.{boundary}", 1.0),
        ]

    def collect(self):
        return self.readings


def test_the_energy_of_one_boundary_never_meets_the_power_of_another():
    together = power.FirstPower(Source(5.0, None, "module"), Source(90.0, 90.0, "gpu"))
    found = [(one.metric, one.value) for one in together.collect()]
    assert found == [
        ("power_w", 5.0), ("power_boundary", "module"), ("energy_j", None), ("rails_w.module", 1.0), ("rails_w.gpu", 1.0)
    ]  # fmt: skip
    assert not together.tick()
