"""Tools that people already run, unmodified, on live telemetry: mosquitto_sub and jq, Node-RED, psql, Prometheus,
VictoriaMetrics, AsyncAPI, Sparkplug, Home Assistant."""

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import postgres_server
import pytest

from edge_sdk.clock import SystemClock
from edge_sdk.link import broker as brokers
from edge_sdk.link.mqtt import MqttLink, MqttSettings
from edge_sdk.records import metrics, telemetry
from edge_sdk.testing.fleet import Fleet, Plan
from edge_sdk.wire import sparkplug, topics
from edge_sdk.wire.sparkplug import Metric, Payload

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
NPM = ROOT / ".venv-clients" / "npm"
PACKAGES = ("@asyncapi/parser@3.6.3", "node-red@4", "sparkplug-payload@1.0.3")
WAIT_S = 60.0


def needs(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"SKIPPED LOUDLY: not installed here: {', '.join(missing)}")


def until(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}"
        time.sleep(0.05)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def npm():
    """Gives the folder with the packages; installs them once (about 190 MB)."""
    if shutil.which("npm") is None:
        pytest.skip("SKIPPED LOUDLY: npm is not installed")
    NPM.mkdir(parents=True, exist_ok=True)
    stamp = NPM / ".packages"
    if not stamp.exists() or stamp.read_text() != " ".join(PACKAGES):
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
        done = subprocess.run(command, cwd=NPM, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"SKIPPED LOUDLY: npm could not install {PACKAGES}: {done.stderr[-500:]}")
        stamp.write_text(" ".join(PACKAGES))
    return NPM


@pytest.fixture
def broker():
    with brokers.open_broker(port=0) as running:
        yield running


@pytest.fixture
def fleet(broker, tmp_path):
    """Three simulated devices that publish twice a second."""

    def new_link(number):
        return MqttLink(MqttSettings(url=broker.url, client_id=f"fleet-{number}", session_expiry_s=0))

    fleet = Fleet(Plan(devices=3, interval_s=0.5), tmp_path / "boards", new_link, SystemClock(), links=3)
    fleet.open()
    stop = threading.Event()

    def live():
        while not stop.is_set():
            fleet.step()

    thread = threading.Thread(target=live)
    thread.start()
    yield fleet
    stop.set()
    thread.join()
    fleet.close()


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def collector(broker, database, web):
    return running(
        [sys.executable, "-m", "edge_sdk", "collector", "--broker", broker.url, "--database", database, "--web", web]
    )


@needs("mosquitto_sub", "jq")
def test_mosquitto_sub_and_jq_read_a_sample_as_it_is(broker, fleet):
    pipe = f"mosquitto_sub -p {broker.port} -t 'edge/v1/+/+/up/telemetry' -C 6 -W 30 | jq -r '[.device, .memory_used_bytes, .models[0].latency_p99_ms] | @tsv'"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True, timeout=60)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len(rows) == 6
    assert {row[0] for row in rows} <= {f"sim-{number:05d}" for number in range(3)}
    assert all(float(row[1]) > 0 and float(row[2]) > 0 for row in rows)


def test_node_red_parses_samples_without_a_plug_in(broker, fleet, npm, tmp_path):
    out = tmp_path / "out.jsonl"
    flow = [
        {"id": "tab", "type": "tab", "label": "edge"},
        {"id": "b", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(broker.port), "clientid": "", "autoConnect": True,
         "protocolVersion": "5", "keepalive": "60", "cleansession": True},
        {"id": "in", "z": "tab", "type": "mqtt in", "topic": "edge/v1/+/+/up/telemetry", "qos": "1", "datatype": "json", "broker": "b", "wires": [["f"]]},
        {"id": "f", "z": "tab", "type": "function", "outputs": 1, "wires": [["o"]],
         "func": "msg.payload = JSON.stringify({d: msg.topic.split('/')[3], w: msg.payload.memory_used_bytes, s: msg.payload.seq}); return msg;"},
        {"id": "o", "z": "tab", "type": "file", "filename": str(out), "filenameType": "str", "appendNewline": True,
         "overwriteFile": "false", "encoding": "none", "wires": [[]]},
    ]  # fmt: skip
    (tmp_path / "flows.json").write_text(json.dumps(flow))
    command = [
        "node",
        str(npm / "node_modules/node-red/red.js"),
        "-u",
        str(tmp_path),
        "-p",
        str(free_port()),
        str(tmp_path / "flows.json"),
    ]
    with running(command, env={**os.environ, "NO_UPDATE_NOTIFIER": "1"}):
        until(lambda: out.exists() and len(out.read_text().splitlines()) >= 6, "six Samples through Node-RED")
    rows = [json.loads(line) for line in out.read_text().splitlines()[:6]]
    assert all(row["d"].startswith("sim-") and row["w"] > 0 and row["s"] >= 0 for row in rows)


@needs("psql")
def test_psql_reads_the_collectors_tables(broker, fleet):
    with postgres_server.running("fsync=off") as base:
        if base is None:
            pytest.skip("SKIPPED LOUDLY: no PostgreSQL server here: apt install postgresql")
        database = base + "postgres"

        def ask(text):
            done = subprocess.run(
                ["psql", database, "-AtF", " ", "-c", text], capture_output=True, text=True, timeout=30
            )
            return [line.split() for line in done.stdout.splitlines()]

        with collector(broker, database, ""):
            until(
                lambda: len(ask("SELECT device, count(*) FROM samples GROUP BY device HAVING count(*) > 2")) == 3,
                "Samples",
            )
            rows = ask(
                "SELECT device, avg((payload::json->>'memory_used_bytes')::float) FROM samples GROUP BY device ORDER BY 1"
            )
    assert [row[0] for row in rows] == ["sim-00000", "sim-00001", "sim-00002"]
    assert all(float(row[1]) > 0 for row in rows)


@needs("promtool")
def test_prometheus_own_checker_finds_nothing_to_say_about_the_page(broker, fleet, tmp_path):
    port = free_port()
    with collector(broker, str(tmp_path / "t.db"), f"127.0.0.1:{port}"):

        def page():
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer,
            ):
                return answer.read().decode()
            return ""

        text = until(
            lambda: (found := page()).count("edge_memory_used_bytes{") == 3 and found, "three devices on the page"
        )
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    control = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text + "edge_power_watts{} one\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert control.returncode != 0


def test_the_asyncapi_parser_takes_our_description_and_would_see_a_mistake(npm, tmp_path):
    script = tmp_path / "check.mjs"
    script.write_text(
        f"import parser from '{npm}/node_modules/@asyncapi/parser/cjs/index.js'; import fs from 'fs';\n"
        "const found = await new parser.Parser().parse(fs.readFileSync(process.argv[2], 'utf8'));\n"
        "console.log(JSON.stringify({errors: found.diagnostics.filter(one => one.severity === 0).map(one => one.message),"
        " channels: found.document ? found.document.channels().all().length : 0}));\n"
    )

    def check(file):
        done = subprocess.run(["node", str(script), str(file)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    described = ROOT / "edge_sdk/wire/asyncapi.yaml"
    assert check(described) == {"errors": [], "channels": 5}
    broken = tmp_path / "broken.yaml"
    broken.write_text(described.read_text().replace("action: receive", "action: recieve"))
    assert check(broken)["errors"]


def decoded_by_npm(npm, tmp_path, payloads):
    """Gives each payload as npm's sparkplug-payload reads it; 64-bit numbers as text, which JSON can hold."""
    script = tmp_path / "decode.cjs"
    script.write_text(
        f"const spb = require('{npm}/node_modules/sparkplug-payload').get('spBv1.0'); const fs = require('fs');\n"
        "const text = (_, value) => value && value.constructor && value.constructor.name === 'Long' ? value.toString() : value;\n"
        "const lines = fs.readFileSync(process.argv[2], 'utf8').trim().split('\\n');\n"
        "console.log(JSON.stringify(lines.map(line => spb.decodePayload(Buffer.from(line, 'base64'))), (key, value) =>\n"
        "  value && typeof value === 'object' && 'low' in value && 'high' in value\n"
        "    ? ((BigInt(value.high | 0) << 32n) | BigInt(value.low >>> 0)).toString() : value));\n"
    )
    (tmp_path / "payloads").write_text("\n".join(base64.b64encode(payload).decode() for payload in payloads))
    done = subprocess.run(["node", str(script), str(tmp_path / "payloads")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def as_npm_says(metric):
    """Gives what npm must say of a metric of ours."""
    value = str(metric.value) if metric.kind == "Int64" and metric.value is not None else metric.value
    said = {"value": value, "type": metric.kind, "timestamp": None if metric.t_ms is None else str(metric.t_ms)}
    if metric.name:
        said["name"] = metric.name
    if metric.alias is not None:
        said["alias"] = str(metric.alias)
    if metric.is_historical:
        said["isHistorical"] = True
    if metric.properties:
        said["properties"] = {key: {"value": text, "type": "String"} for key, text in metric.properties.items()}
    return {key: one for key, one in said.items() if key == "value" or one is not None}


def test_sparkplug_of_a_live_fleet_is_read_without_loss_by_npms_sparkplug_payload(broker, fleet, npm, tmp_path):
    heard = []
    host = MqttLink(MqttSettings(url=broker.url, client_id="host", session_expiry_s=0))
    host.subscribe("spBv1.0/plant/#", heard.append)
    host.open()
    assert host.wait_for_connected(WAIT_S)

    def kinds():
        return [message.topic.split("/")[2] for message in list(heard)]

    command = [sys.executable, "-m", "edge_sdk", "sparkplug", "--broker", broker.url, "--group", "plant"]
    with running(command):
        until(lambda: kinds().count("DDATA") >= 12 and kinds().count("DBIRTH") >= 3, "births and data of three devices")
        node = next(message.topic.split("/")[3] for message in heard if "/NBIRTH/" in message.topic)
        before = len(heard)
        request = Payload((Metric(sparkplug.REBIRTH, "Boolean", value=True, t_ms=1),), 1)
        host.publish(sparkplug.topic("plant", "NCMD", node), sparkplug.encode(request))
        until(lambda: f"spBv1.0/plant/NBIRTH/{node}" in [message.topic for message in heard[before:]], "a rebirth")
    until(lambda: kinds().count("NDEATH") >= kinds().count("NBIRTH") - 1, "the end of every node")
    host.close()
    told = [message for message in heard if "/NCMD/" not in message.topic]
    assert not any(message.retained for message in told)
    ours = [sparkplug.decode(message.payload) for message in told]
    theirs = decoded_by_npm(npm, tmp_path, [message.payload for message in told])
    for mine, said in zip(ours, theirs, strict=True):
        assert said["timestamp"] == str(mine.t_ms)
        assert said.get("seq") == (None if mine.seq is None else str(mine.seq))
        assert said.get("metrics", []) == [as_npm_says(metric) for metric in mine.metrics]
    births = [mine for message, mine in zip(told, ours, strict=True) if "/DBIRTH/" in message.topic]
    values = {metric.name: metric for metric in births[0].metrics}
    assert values["memory_used_bytes"].value > 0
    assert values["simulated"].value is True
    assert any(metric.value is None and metric.properties.get("reason") for mine in births for metric in mine.metrics)
    for name in {message.topic.split("/")[3] for message in told}:
        seqs = [
            mine.seq
            for message, mine in zip(told, ours, strict=True)
            if message.topic.split("/")[3] == name and mine.seq is not None
        ]
        assert all(later in (0, (earlier + 1) % 256) for earlier, later in zip(seqs, seqs[1:], strict=False))


def test_npms_sparkplug_payload_reads_null_without_a_datatype_so_data_keeps_it(npm, tmp_path):
    whole = sparkplug.encode(Payload((Metric("", "Double", 7.5, 1, 3),), 1, 0))
    size = whole.index(b"\x12") + 1  # of the metric, in one byte
    bare = whole[:size] + bytes([whole[size] - 2]) + whole[size + 1 :].replace(b"\x20\x0a", b"")
    assert sparkplug.decode(bare).metrics[0].value == 7.5
    said = decoded_by_npm(npm, tmp_path, [whole, bare])
    assert [one["metrics"][0]["value"] for one in said] == [7.5, None]


@needs("mosquitto_sub", "mosquitto_pub", "jq")
def test_the_recipe_for_home_assistant_leaves_a_discovery_document_for_each_metric(broker, fleet):
    block = (ROOT / "README.md").read_text().partition("```text\nmosquitto_sub -t 'edge/v1/+/+/up/birth'")[2]
    recipe = "mosquitto_sub -t 'edge/v1/+/+/up/birth'" + block.partition("```")[0]
    for program in ("mosquitto_sub", "mosquitto_pub"):
        recipe = recipe.replace(f"{program} ", f"{program} -p {broker.port} ")
    done = subprocess.run(["bash", "-c", recipe], capture_output=True, text=True, timeout=120)
    assert "error" not in done.stderr, done.stderr
    heard = []
    home = MqttLink(MqttSettings(url=broker.url, client_id="home", session_expiry_s=0))
    home.subscribe("homeassistant/#", heard.append)
    home.subscribe("edge/v1/+/+/up/#", heard.append)
    home.open()
    names = [metric.name for metric in metrics.METRICS if metric.unit and not metric.is_map]

    def documents():
        return {
            one.topic: json.loads(one.payload)
            for one in list(heard)
            if one.topic.startswith("homeassistant/") and one.retained
        }

    until(lambda: len(documents()) == 3 * len(names), "a document for each metric of three devices")
    seen = {}
    until(
        lambda: (
            seen.update((one.topic, one.payload) for one in list(heard))
            or sum("telemetry" in topic for topic in seen) == 3
        ),
        "Samples",
    )
    home.close()
    for topic, document in documents().items():
        prefix, component, node, name, config = topic.split("/")
        assert (prefix, component, config) == ("homeassistant", "sensor", "config")
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", level) for level in (node, name))
        assert document["unique_id"] == f"{node}_{name}"
        assert document["value_template"] == "{{ value_json." + name + " }}"
        assert name in json.loads(seen[document["state_topic"]])
        assert json.loads(seen[document["availability_topic"]])["state"] == "online"
    power = next(one for topic, one in documents().items() if topic.endswith("/power_w/config"))
    assert (power["unit_of_measurement"], power["device_class"]) == ("W", "power")
    assert len({one["unique_id"] for one in documents().values()}) == 3 * len(names)


def test_the_recipe_for_telegraf_is_toml_and_names_what_a_sample_has():
    block = (ROOT / "README.md").read_text().partition("```text\n[[inputs.mqtt_consumer]]")[2].partition("```")[0]
    (plugin,) = tomllib.loads("[[inputs.mqtt_consumer]]" + block)["inputs"]["mqtt_consumer"]
    fields = set(telemetry.Sample.__struct_fields__)
    assert {plugin["json_time_key"], *plugin["json_string_fields"]} <= fields
    (parsing,) = plugin["topic_parsing"]
    levels = dict(zip(parsing["tags"].split("/"), str(topics.Topic("s", "d", "up/telemetry")).split("/"), strict=True))
    assert (levels["site"], levels["device"]) == ("s", "d")


@needs("victoria-metrics")
def test_victoria_metrics_scrapes_the_collectors_page(broker, fleet, tmp_path):
    web, own = free_port(), free_port()
    config = tmp_path / "scrape.yml"
    config.write_text(json.dumps({"scrape_configs": [
        {"job_name": "edge", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{web}"]}]}]}))  # fmt: skip
    command = [
        "victoria-metrics", f"-promscrape.config={config}", f"-httpListenAddr=127.0.0.1:{own}",
        f"-storageDataPath={tmp_path / 'victoria'}", "-memory.allowedBytes=64MB",
    ]  # fmt: skip

    def series():
        question = f"http://127.0.0.1:{own}/api/v1/series?match[]=edge_memory_used_bytes"
        with contextlib.suppress(OSError), urllib.request.urlopen(question, timeout=5) as answer:
            return {one["device"] for one in json.load(answer)["data"]}
        return set()

    with collector(broker, str(tmp_path / "t.db"), f"127.0.0.1:{web}"), running(command):
        until(lambda: len(series()) == 3, "three devices in VictoriaMetrics")
        assert series() == {"sim-00000", "sim-00001", "sim-00002"}
