"""Clients that nobody here wrote, unmodified, each in an environment of its own, against a daemon in a process of its own."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sdk.device.serve import grpc_messages as messages

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SETTINGS = """\
model_repository = "repo"
model_control = true
shared_memory = true
http_port = 0
grpc_port = 0
grpc_socket = "grpc.sock"
broker = "mqtt://127.0.0.1:1"
"""


def python_of(client: str) -> str:
    """Gives the interpreter of a client's environment; where there is none, the test is skipped, and says so."""
    python = ROOT / ".venv-clients" / client / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there; `tools/test clients` sets it up")
    return str(python)


class Running:
    def __init__(self, popen, ready, folder):
        self.popen = popen
        urls = dict(url.partition(":")[::2] for url in ready["urls"])
        self.http, self.grpc = urls["http"].strip("/"), urls["grpc"].strip("/")
        self.grpc_socket = str(folder / "grpc.sock")

    @property
    def addresses(self):
        return [self.http, self.grpc, self.grpc_socket]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, tiny_onnx, write_bundle):
    folder = tmp_path_factory.mktemp("clients")
    (folder / "repo").mkdir()
    for name in ("tiny", "other"):
        write_bundle(folder / "repo" / f"{name}.edge", tiny_onnx, name=name)
    # NVIDIA's versions are whole numbers; perf_analyzer finds no statistics of any other.
    write_bundle(folder / "repo" / "numbered.edge", tiny_onnx, name="numbered", version="1")
    (folder / "device.toml").write_text(SETTINGS)
    shared_before = set(Path("/dev/shm").iterdir())
    with (folder / "log").open("w") as log:
        popen = subprocess.Popen(
            [sys.executable, "-m", "edge_sdk", "daemon", "--json", "--config", str(folder / "device.toml")],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        )
        line = popen.stdout.readline()
        assert line, (folder / "log").read_text()
        yield Running(popen, json.loads(line), folder)
        popen.terminate()
        popen.communicate(timeout=20)
    assert popen.returncode == 0
    assert "Traceback" not in (folder / "log").read_text()
    assert not list(folder.glob("*.sock"))
    left = {path.name for path in set(Path("/dev/shm").iterdir()) - shared_before}
    assert not any(name.startswith("edge_sdk") for name in left)


def run(command, timeout=110):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_tritonclient(daemon):
    said = run([python_of("triton"), str(HERE / "with_tritonclient.py"), *daemon.addresses])
    assert said.count("ok ") == 5


def test_kserve(daemon):
    said = run([python_of("kserve"), str(HERE / "with_kserve.py"), *daemon.addresses])
    assert said.count("ok ") == 3


class TestMlserver:
    """``mlserver infer``: a file of requests in, a file of answers out."""

    def infer(self, daemon, folder, *options, model="tiny", shape=(1, 3), count=20):
        data = [float(value) for value in range(shape[0] * shape[1])]
        line = json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]})
        (folder / "in.jsonl").write_text("\n".join([line] * count) + "\n")
        command = Path(python_of("mlserver")).with_name("mlserver")
        # fmt: off
        run([str(command), "infer", "-u", daemon.http, "-m", model, "-i", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"),
             "--retries", "1", *options])
        # fmt: on
        return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]

    @pytest.mark.parametrize("options", [(), ("--binary-data",)])
    def test_every_answer_is_right(self, daemon, tmp_path, options):
        answers = self.infer(daemon, tmp_path, *options)
        assert [answer["outputs"][0]["data"] for answer in answers] == [[2.0, 6.5]] * 20

    @pytest.mark.parametrize(
        ("words", "how"),
        [
            ("Request for unknown model: 'zzz' is not found", {"model": "zzz"}),
            ("takes float32[N, 3], but was given float32[1, 4]", {"shape": (1, 4)}),
        ],
    )
    def test_what_is_wrong_is_said(self, daemon, tmp_path, words, how):
        (answer,) = self.infer(daemon, tmp_path, count=1, **how)
        assert words in answer["error"]["msg"]


class TestPerfAnalyzer:
    """NVIDIA's load generator: it reads metadata, configuration and statistics before and after, and asks in between."""

    def measure(self, daemon, folder, *options):
        """Gives its report, a row by concurrency."""
        command = ROOT / ".venv-clients" / "perf" / "run"
        if not command.exists():
            pytest.skip(f"{command} is not there; `tools/test clients` sets it up")
        report = folder / "report.csv"
        said = run(
            [str(command), "-m", "numbered", "--shape", "x:3", "--request-count", "300", "-f", str(report), *options]
        )
        assert "Failed" not in said, said
        with report.open() as lines:
            return list(csv.DictReader(lines))

    @pytest.mark.parametrize("memory", ["none", "system"])
    @pytest.mark.parametrize("how", ["http", "grpc", "grpc over a unix socket", "grpc streaming"])
    def test_it_measures_the_daemon(self, daemon, tmp_path, how, memory):
        address = daemon.http if how == "http" else daemon.grpc
        options = ["-u", f"unix:{daemon.grpc_socket}" if "unix" in how else address]
        options += [] if how == "http" else ["-i", "grpc"]
        options += ["--streaming"] if "streaming" in how else []
        if memory == "system":
            options += ["--shared-memory", "system", "--output-shared-memory-size", "64"]
        rows = self.measure(daemon, tmp_path, *options, "--concurrency-range", "4")
        assert [row["Concurrency"] for row in rows] == ["4"]
        for row in rows:
            assert float(row["Inferences/Second"]) > 0
            assert float(row["Server Compute Infer"]) > 0

    def test_it_reads_the_boards_readings(self, daemon, tmp_path):
        options = ["-u", daemon.http, "--collect-metrics", "--metrics-url", f"{daemon.http}/metrics"]
        assert self.measure(daemon, tmp_path, *options, "--verbose-csv", "--metrics-interval", "200")


def test_every_field_has_the_number_that_nvidias_generated_code_has():
    known = json.loads(run([python_of("triton"), str(HERE / "with_tritonclient.py"), "numbers"]))
    tables = {
        "ServerLiveResponse": messages.LIVE,
        "ServerReadyResponse": messages.READY,
        "ModelReadyRequest": messages.MODEL,
        "ServerMetadataResponse": messages.SERVER_METADATA,
        "ModelMetadataResponse": messages.MODEL_METADATA,
        "TensorMetadata": messages.MODEL_METADATA[4].fields,
        "InferParameter": messages.PARAMETER,
        "InferTensorContents": messages.CONTENTS,
        "ModelInferRequest": messages.INFER_REQUEST,
        "InferInputTensor": messages.INFER_REQUEST[5].fields,
        "InferRequestedOutputTensor": messages.INFER_REQUEST[6].fields,
        "ModelInferResponse": messages.INFER_RESPONSE,
        "InferOutputTensor": messages.INFER_RESPONSE[5].fields,
        "ModelStreamInferResponse": messages.STREAM_RESPONSE,
        "ModelConfigResponse": messages.MODEL_CONFIG,
        "ModelConfig": messages.MODEL_CONFIG[1].fields,
        "ModelInput": messages.MODEL_CONFIG[1].fields[5].fields,
        "ModelOutput": messages.MODEL_CONFIG[1].fields[6].fields,
        "ModelInstanceGroup": messages.MODEL_CONFIG[1].fields[7].fields,
        "ModelDynamicBatching": messages.MODEL_CONFIG[1].fields[11].fields,
        "ModelQueuePolicy": messages.MODEL_CONFIG[1].fields[11].fields[6].fields,
        "ModelStatisticsResponse": messages.STATISTICS,
        "ModelStatistics": messages.STATISTICS[1].fields,
        "InferStatistics": messages.STATISTICS[1].fields[6].fields,
        "RepositoryIndexRequest": messages.INDEX_REQUEST,
        "ModelIndex": messages.INDEX[1].fields,
        "RepositoryModelLoadRequest": messages.REPOSITORY_MODEL,
        "SystemSharedMemoryRegisterRequest": messages.REGION,
        "inference.SystemSharedMemoryStatusResponse.RegionStatus": messages.REGION,
    }
    for message, table in tables.items():
        for number, field in table.items():
            assert known[message].get(field.name) == number, f"{message}.{field.name}"
