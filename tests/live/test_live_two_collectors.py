"""Two collectors that share one PostgreSQL and one fleet: one is killed, and nothing is lost, nothing stored twice."""

import contextlib
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_sdk.clock import SystemClock
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.testing.fleet import Fleet, Plan

pytestmark = pytest.mark.live


@pytest.fixture
def start_collector(broker, database):
    processes = []

    def start():
        command = [sys.executable, "-m", "edge_sdk", "collector", "--broker", broker.url, "--database", database]
        processes.append(subprocess.Popen([*command, "--share", "fleet", "--web", ""], stderr=subprocess.DEVNULL))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def query(database, text):
    import psycopg

    with contextlib.closing(psycopg.connect(database)) as db:
        return db.execute(text).fetchall()


def test_one_of_two_collectors_is_killed_and_nothing_is_lost_or_stored_twice(
    broker, database, start_collector, until, tmp_path
):
    first, _ = start_collector(), start_collector()
    until(lambda: _clients(broker) == 2, "both collectors to be connected", 30)

    def new_link(number):
        return MqttLink(MqttSettings(url=broker.url, client_id=f"fleet-{number}", session_expiry_s=0))

    plan = Plan(devices=20, interval_s=0.1, seed=random.randrange(2**31))
    fleet = Fleet(plan, tmp_path / "boards", new_link, SystemClock(), links=4)
    fleet.open()
    kill = threading.Timer(2.0, first.kill)
    try:
        kill.start()
        for _ in range(50):
            fleet.step()
        assert first.wait(10) == -9
        assert fleet.drain(60), fleet.snapshot()
    finally:
        kill.cancel()
        fleet.close()
    made = fleet.snapshot().made
    assert made == 20 * 50
    assert query(
        database,
        "SELECT COUNT(*), COUNT(DISTINCT (device, boot, seq)), SUM(lost) FROM samples JOIN marks USING (device, boot)",
    ) == [(made, made, 0)]
    assert query(database, "SELECT MIN(upto), MAX(upto) FROM marks") == [(49, 49)]


def _clients(broker):
    """Counts the connections that the broker holds, as the kernel tells them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{broker.port:04X}") and row[3] == "01" for row in rows)
