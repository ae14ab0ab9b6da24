"""A day of a flaky device in compressed time, and the same with one protection taken away at a time."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = 1
PROTECTIONS = {
    "receipt": "deletes on the broker's acknowledgement",
    "sync": "synchronous=NORMAL",
    "error": "takes a failed commit for one",
    "commit": "receipt before the collector's commit",
    "resend": "sends once",
}

pytestmark = [pytest.mark.timeout(500), pytest.mark.usefixtures("needs_root")]


def lived(folder, without="", hours=24):
    done = subprocess.run(
        [sys.executable, "tests/faults/flaky_day.py", str(folder), str(SEED), without, str(hours)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.fault("day")
def test_a_day_of_a_flaky_device_and_every_protection_missed(fault, tmp_path):
    runs = [("", 24), *((name, 8) for name in PROTECTIONS)]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(["", *PROTECTIONS], pool.map(lambda run: lived(tmp_path / f"d{run[0]}", *run), runs)))
    day = found.pop("")
    assert (day["lost"], day["twice"], day["held"]) == (0, 0, 0)
    assert day["gaps"] == day["gaps told"]
    assert min(day["faults"].values()) >= 3
    assert day["came twice"] > 0
    for name, control in found.items():
        assert control["lost"] or control["held"], f"without {name} nothing was lost: the checker is blind"
    injected = ", ".join(f"{count} {name}" for name, count in day["faults"].items())
    fault(
        what="a day of a flaky device, one Sample per 30 s",
        injected=f"seed {SEED}, overlapping: {injected}",
        bar="0 acknowledged records lost, 0 stored twice, every gap counted",
        measured=f"{day['lost']} of {day['acknowledged']:,} lost, {day['twice']} twice ({day['came twice']:,} came twice), "
        f"{day['gaps']} gaps and {day['gaps told']} told, over {day['boots']} starts",
        control="; ".join(
            f"{PROTECTIONS[name]}: {control['lost']} lost" + (f", {control['held']} stuck" if control["held"] else "")
            for name, control in found.items()
        )
        + f"; no unique key: {day['came twice']:,} twice",
    )
