"""Two collectors of one group under the access list of `broker --write-config`: both work, all is stored once."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from edge_sdk.clock import SystemClock
from edge_sdk.collector.identity import authority
from edge_sdk.link import broker_config
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.testing.fleet import Fleet, Plan

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed: apt install mosquitto"),
]
DEVICES, ROUNDS = 4, 30


@pytest.fixture
def certified(tmp_path):
    """Gives a maker of certificates: the settings of a name's files."""
    ca = authority.create(tmp_path / "ca", SystemClock())

    def issue(name, kind, folder=None, **more):
        made = ca.issue(name, kind=kind, **more)
        folder = folder or tmp_path / name
        folder.mkdir(exist_ok=True)
        files = {"ca_file": "ca.crt", "cert_file": f"{kind}.crt", "key_file": f"{kind}.key"}
        for file, content in zip(files.values(), (made.authority, made.certificate, made.key), strict=True):
            (folder / file).write_bytes(content)
        (folder / "crl.pem").write_bytes(ca.revocations.read_bytes())
        return {name: folder / file for name, file in files.items()}

    return issue


@pytest.fixture
def url(tmp_path, certified, until):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "broker"
    certified("broker", "server", folder, hosts=["127.0.0.1"])
    broker_config.write_config(folder, host="127.0.0.1", port=port, collectors=["collector-1", "collector-2"])
    if not os.getuid():  # mosquitto leaves root for its own user, who must read it all
        subprocess.run(["chmod", "-R", "a+rwX", folder], check=True)
        for parent in [folder, *folder.parents][:-2]:
            parent.chmod(parent.stat().st_mode | 0o055)
    with open(tmp_path / "log", "wb") as log:
        broker = subprocess.Popen([MOSQUITTO, "-c", folder / "mosquitto.conf"], stdout=log, stderr=log)

    def listens():
        assert broker.poll() is None, (tmp_path / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, "mosquitto to listen")
        yield f"mqtts://127.0.0.1:{port}"
    finally:
        broker.kill()
        broker.wait()


@pytest.fixture
def start_collector(url, database, certified, tmp_path):
    processes = []

    def start(name):
        lines = {"broker": url, "database": database, "share": "fleet", "web": "", "client_id": name}
        lines |= {key: str(file) for key, file in certified(name, "collector").items()}
        config = tmp_path / f"{name}.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
        command = [sys.executable, "-m", "edge_sdk", "collector", "--config", str(config), "--json"]
        with open(tmp_path / f"{name}.log", "wb") as log:
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def summary(process):
    process.send_signal(signal.SIGTERM)
    return json.loads(process.communicate(timeout=30)[0])


def test_a_share_group_works_under_the_access_list_and_each_member_stores_its_part(
    url, certified, start_collector, until, tmp_path
):
    collectors = [start_collector(name) for name in ("collector-1", "collector-2")]
    port = int(url.rpartition(":")[2])
    until(lambda: connections(port) == 2, "both collectors to be connected", 30)

    def new_link(number):
        name = f"sim-{number:05d}"
        files = certified(name, "device")
        return MqttLink(MqttSettings(url=url, client_id=name, session_expiry_s=0, **files))

    plan = Plan(devices=DEVICES, interval_s=0.1)
    fleet = Fleet(plan, tmp_path / "boards", new_link, SystemClock(), links=DEVICES)
    fleet.open()
    try:
        for _ in range(ROUNDS):
            fleet.step()
        assert fleet.drain(60), fleet.snapshot()
    finally:
        fleet.close()
    counts = fleet.snapshot()
    assert (counts.made, counts.receipted) == (DEVICES * ROUNDS, DEVICES * ROUNDS)
    stored = [summary(process)["stored"] for process in collectors]
    assert sum(stored) == counts.made
    assert min(stored) > 0, stored


def connections(port):
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)
