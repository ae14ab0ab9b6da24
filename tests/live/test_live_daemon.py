"""The daemon as a process of its own, with a real broker: ready, requests, Samples, SIGTERM, kill -9, bad bundles."""

import http.client
import json
import signal
import subprocess
import sys
import time

import pytest

from edge_sdk.records import telemetry
from edge_sdk.wire import codec, topics

pytestmark = pytest.mark.live


class Process:
    """``edge-sdk daemon`` and what it printed when it was ready."""

    def __init__(self, *arguments):
        self.popen = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "edge_sdk",
                "daemon",
                "--json",
                "--port",
                "0",
                "--site",
                "plant",
                "--device",
                "cam-7",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        line = self.popen.stdout.readline()
        assert line, self.popen.communicate()[1].decode()
        self.ready = json.loads(line)

    def infer(self, **changes):
        tensor = {"name": "x", "shape": [1, 3], "datatype": "UINT8", "data": [255, 0, 0], **changes}
        connection = http.client.HTTPConnection(self.ready["url"].removeprefix("http://"), timeout=10)
        connection.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": [tensor]}))
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    def end(self, number):
        """Sends a signal; gives exit code, seconds until the end, what more was on stdout, and the log."""
        start = time.monotonic()
        self.popen.send_signal(number)
        out, log = self.popen.communicate(timeout=20)
        return self.popen.returncode, time.monotonic() - start, out, log.decode()


@pytest.fixture
def run(broker):
    processes = []

    def start(*arguments):
        processes.append(Process("--broker", broker.url, *arguments))
        return processes[-1]

    yield start
    for process in processes:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate()


class Heard:
    """Every record of the fleet in order, with what it was said on."""

    def __init__(self, link):
        self.link = link
        self.records = []
        link.subscribe("edge/v1/#", self._note)
        link.open()
        assert link.wait_for_connected(10)

    def _note(self, message):
        leaf = topics.parse(message.topic).leaf
        if leaf in codec.UP_RECORDS:
            self.records.append((leaf, codec.from_bytes(message.payload, codec.UP_RECORDS[leaf])))

    def of(self, leaf):
        return [record for found, record in list(self.records) if found == leaf]


@pytest.fixture
def heard(new_link):
    return Heard(new_link())


def test_from_ready_to_sigterm(run, heard, until, tiny_bundle):
    daemon = run("--bundle", str(tiny_bundle.path))
    assert daemon.ready["models"] == ["tiny"]
    until(lambda: heard.of("up/birth"), "the birth")
    assert daemon.infer() == (
        200,
        {
            "model_name": "tiny",
            "model_version": "1.2.0",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, -1.0]}],
        },
    )
    assert daemon.infer(name="z")[0] == 400
    until(lambda: len(heard.of("up/telemetry")) >= 3, "three Samples")
    code, seconds, rest, log = daemon.end(signal.SIGTERM)
    assert (code, rest) == (0, b"")
    assert seconds < 3
    assert "Traceback" not in log
    until(lambda: heard.of("up/status")[-1].state == "offline", "the goodbye")
    samples = heard.of("up/telemetry")
    assert [sample.seq for sample in samples] == list(range(len(samples)))
    assert {sample.boot for sample in samples} == {daemon.ready["boot"]}
    assert sum(sample.models[0].count for sample in samples) == 1
    assert [sample.models[0].errors for sample in samples if sample.models[0].errors] == [{"input": 1}]
    assert all(sample.process_memory_bytes > 0 for sample in samples)
    assert all(0.9 < sample.interval_s < 1.5 for sample in samples[:-1])


def test_after_kill_9_the_broker_says_that_it_is_offline(run, heard, until):
    daemon = run()
    until(lambda: heard.of("up/status"), "the status")
    assert daemon.end(signal.SIGKILL)[0] == -signal.SIGKILL
    until(lambda: heard.of("up/status")[-1].state == "offline", "the last will")
    assert heard.of("up/status")[-1].boot == daemon.ready["boot"]


def test_offline_is_retained_for_whoever_comes_later(run, heard, new_link, until):
    daemon = run()
    until(lambda: heard.of("up/status"), "the status")
    daemon.end(signal.SIGINT)
    late, found = new_link(), []
    late.subscribe(topics.up("plant", "cam-7", "status"), found.append)
    late.open()
    until(lambda: found, "the retained status")
    assert found[0].retained
    assert codec.from_bytes(found[0].payload, telemetry.Status).state == "offline"


def test_what_a_receipt_covers_is_forgotten(run, heard, until):
    daemon = run()
    until(lambda: len(heard.of("up/telemetry")) >= 2, "two Samples")
    receipt = codec.to_bytes(telemetry.Receipt(daemon.ready["boot"], 1))
    heard.link.publish(topics.receipt("plant", "cam-7"), receipt)
    # The Sample after the receipt begins where it ended.
    until(lambda: heard.of("up/telemetry")[-1].oldest_seq == 2, "a Sample that knows of the receipt")
    _, _, _, log = daemon.end(signal.SIGTERM)
    assert "2 receipted, 0 dropped" in log


def test_without_a_broker_it_serves_says_so_and_stops_as_well(run, tiny_bundle):
    daemon = run("--bundle", str(tiny_bundle.path), "--broker", "mqtt://127.0.0.1:1")
    assert daemon.infer()[0] == 200
    said = b"the broker cannot be reached, telemetry is kept here"
    while said not in daemon.popen.stderr.readline():
        assert daemon.popen.poll() is None
    code, seconds, _, log = daemon.end(signal.SIGTERM)
    assert code == 0
    assert seconds < 3
    assert said.decode() not in log  # once is enough


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "extra.bin").write_bytes(b"x"), "extra.bin"),
        (lambda folder: (folder / "model.float.onnx").unlink(), "model.float.onnx"),
        (lambda folder: (folder / "model.float.onnx").write_bytes(bytes(116)), "model.float.onnx"),
    ],
)
def test_a_bad_bundle_ends_it_with_exit_code_3_before_anything_is_said(broker, heard, tiny_bundle, damage, words):
    damage(tiny_bundle.path)
    done = subprocess.run(
        [sys.executable, "-m", "edge_sdk", "daemon", "--bundle", str(tiny_bundle.path), "--broker", broker.url, "--port", "0", "--json"],
        capture_output=True,
        text=True,
        timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert heard.records == []


def test_a_taken_port_ends_it_with_exit_code_2(run, broker):
    taken = run().ready["url"].rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "edge_sdk", "daemon", "--broker", broker.url, "--port", taken],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1" in done.stderr
