"""Collects what every fault test measured into one table: fault, what was injected, pass figure, measured, control.

A test of the suite carries ``@pytest.mark.fault("D1")`` and says what it found with the fixture `fault`::

    @pytest.mark.fault("D1")
    def test_kill_9(fault):
        ...
        fault(
            what="daemon killed with -9 while it puts, sends and deletes",
            injected="100 kills after 20-400 ms",
            bar="0 acknowledged records lost",
            measured="0 of 5,124 lost",
            control="without a commit before the acknowledgement: 5,001 of 5,001 lost",
        )

A row is kept only if its test passed; several tests may share a name, each with a row of its own (`part`). With
``--fault-table FILE`` the rows are written there, over the rows of the same name; the others stay.
"""

import datetime as dt
import json
import os
import platform
import re
from pathlib import Path

import link_rig
import pytest

ROWS = pytest.StashKey[list]()
NEW = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--fault-table", type=Path, metavar="FILE", help="write what the fault tests measured there")


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture
def fault(request):
    """Takes the figures of one fault; called once, at the end of the test."""
    name = request.node.get_closest_marker("fault").args[0]

    def note(*, what, injected, bar, measured, control, part=""):
        row = dict(fault=name, part=part, what=what, injected=injected, bar=bar, measured=measured, control=control)
        request.node.stash[NEW] = {**row, "ok": True}
        print(
            f"\n{name} {part}: {what}\n  injected {injected}\n  bar      {bar}\n  measured {measured}\n  control  {control}"
        )

    return note


@pytest.fixture
def rig(tmp_path):
    """Brokers, proxies, collectors and devices of this test."""
    made = link_rig.Rig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def needs_root():
    if os.geteuid() != 0:
        pytest.skip("SKIPPED LOUDLY: needs root (loop devices, mounts); run `sudo tools/test faults`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" and report.passed and NEW in item.stash:
        item.config.stash[ROWS].append(item.stash[NEW])
    return report


def pytest_sessionfinish(session):
    file, rows = session.config.getoption("--fault-table"), session.config.stash[ROWS]
    if file is None or not rows:
        return
    saved = json.loads(file.read_text())["rows"] if file.exists() else []
    new = {(row["fault"], row["part"]) for row in rows}
    rows = sorted([*(row for row in saved if (row["fault"], row["part"]) not in new), *rows], key=_order)
    machine = f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, Python {platform.python_version()}"
    document = {"machine": machine, "date": dt.date.today().isoformat(), "rows": rows}
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _order(row):
    letters, digits = re.fullmatch(r"([A-Za-z]+)(\d*)", row["fault"]).groups()
    return letters, int(digits or 0), row["part"]
