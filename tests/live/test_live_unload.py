"""A model is taken away from under its callers, in a daemon of its own: whoever is inside is answered."""

import http.client
import json
import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.live

CONNECTIONS = 16
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 0, 0]}]})
GONE = "Request for unknown model: 'tiny' is not found"


@pytest.fixture
def daemon(tmp_path, tiny_bundle):
    """A daemon that lets its clients load and unload; gives its host and port."""
    (tmp_path / "device.toml").write_text(
        f'bundles = ["{tiny_bundle.path}"]\nmodel_control = true\nhttp_port = 0\nstate_folder = "{tmp_path / "state"}"\n'
    )
    command = [sys.executable, "-m", "edge_sdk", "daemon", "--json", "--config", str(tmp_path / "device.toml")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    line = process.stdout.readline()
    assert line, (tmp_path / "log").read_text()
    yield json.loads(line)["url"].removeprefix("http://")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


class Caller:
    """One connection that asks without a pause; every answer with when it was asked for and when it came."""

    def __init__(self, host, ending):
        self.host, self.ending, self.answers, self.broken = host, ending, [], []
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()

    def _ask(self):
        client = http.client.HTTPConnection(self.host, timeout=30)
        while not self.ending.is_set():
            asked_s = time.monotonic()
            try:
                client.request("POST", "/v2/models/tiny/infer", BODY)
                answer = client.getresponse()
                text = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.broken.append(repr(error))
                client.close()
                continue
            self.answers.append((asked_s, time.monotonic(), answer.status, text))
        client.close()


@pytest.fixture
def callers(daemon):
    ending = threading.Event()
    found = [Caller(daemon, ending) for _ in range(CONNECTIONS)]
    yield found
    ending.set()
    for one in found:
        one.thread.join(60)


def control(host, action):
    """Gives when it was asked for and when it was done."""
    client = http.client.HTTPConnection(host, timeout=30)
    asked_s = time.monotonic()
    client.request("POST", f"/v2/repository/models/tiny/{action}")
    status = client.getresponse().status
    done_s = time.monotonic()
    client.close()
    assert status == 200
    return asked_s, done_s


def wait_for_more(callers, count=8):
    """Waits until every connection has that many more answers."""
    wanted = [len(one.answers) + count for one in callers]
    deadline_s = time.monotonic() + 60
    while any(len(one.answers) < least for one, least in zip(callers, wanted, strict=True)):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_an_unload_under_16_connections_fails_no_request_that_could_be_served(daemon, callers):
    wait_for_more(callers)
    gone = []
    for _ in range(5):
        asked_s, _ = unloaded = control(daemon, "unload")
        wait_for_more(callers)
        loading_s, loaded_s = control(daemon, "load")
        gone.append((*unloaded, loading_s, loaded_s))
        wait_for_more(callers)
    assert [one.broken for one in callers] == [[]] * CONNECTIONS
    answers = [answer for one in callers for answer in list(one.answers)]
    kinds = {"served": 0, "refused": 0}
    for began_s, came_s, status, text in answers:
        is_served = status == 200 and text["outputs"][0]["data"] == [1.0, -1.0]
        is_refused = status == 404 and text == {"error": GONE}
        assert is_served != is_refused, (status, text)
        kinds["served" if is_served else "refused"] += 1
        if is_refused:  # at some moment between its question and its answer the model was on its way out, or gone
            assert any(began_s <= loaded_s and came_s >= asked_s for asked_s, _, _, loaded_s in gone), (began_s, gone)
        else:  # nobody is served by what had been taken away before the question, and not yet been asked back
            assert not any(done_s < began_s and came_s < loading_s for _, done_s, loading_s, _ in gone)
    assert min(kinds.values()) >= 5 * CONNECTIONS
