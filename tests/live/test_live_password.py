"""A mosquitto that asks for user and password: who has them comes in, who has not stays out, and nothing shows them."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sdk import errors
from edge_sdk.link import watch
from edge_sdk.link.mqtt import MqttLink, MqttSettings

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
SECRET, OTHER = "s3cr3t of the camera", "s3cr3t of who listens"
pytestmark = [pytest.mark.live, pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")]


def hashed(password):
    """As mosquitto_passwd writes it."""
    salt = b"twelve bytes"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


@pytest.fixture
def guarded(tmp_path, until):
    """The address of a broker that lets in cam-7 and the ear."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    passwords = tmp_path / "passwords"
    passwords.write_text(f"cam-7:{hashed(SECRET)}\near:{hashed(OTHER)}\n")
    passwords.chmod(0o600)
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nuser root\n")
    with subprocess.Popen([MOSQUITTO, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as broker:

        def listens():
            assert broker.poll() is None
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listens, "mosquitto to listen")
        yield f"mqtt://127.0.0.1:{port}"
        broker.kill()


@pytest.fixture
def daemon(guarded, tmp_path):
    """Starts `edge-sdk daemon` with settings of its own; gives it, its log, and its folder."""
    running = []

    def start(name, settings, **environment):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "device.toml").write_text(
            f'broker = "{guarded}"\nsite = "plant"\ndevice = "cam-7"\nhttp_port = 0\ninterval_s = 0.2\n'
            f'state_folder = "state"\n{settings}\n'
        )
        log = (folder / "log").open("wb")
        command = [sys.executable, "-m", "edge_sdk", "daemon", "--config", folder / "device.toml"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        running.append((process, log))
        return process, folder

    yield start
    for process, log in running:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        log.close()


@pytest.mark.parametrize("place", ["file", "credential"])
def test_a_device_comes_in_with_a_password_that_nobody_sees(daemon, guarded, tmp_path, place):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "mqtt").write_text(SECRET + "\n")
    said = "credential:mqtt" if place == "credential" else f"file:{tmp_path / 'given' / 'mqtt'}"
    access, heard = watch.Access("ear", OTHER), []
    with watch.open_tap(guarded, ["edge/v1/plant/cam-7/up/#"], access=access) as tap:
        process, folder = daemon(
            "device", f'username = "cam-7"\npassword = "{said}"', CREDENTIALS_DIRECTORY=str(tmp_path / "given")
        )
        while not {"birth", "status", "telemetry"} <= {message.topic.rpartition("/")[2] for message in heard}:
            message = tap.next(20.0)
            assert message is not None, (folder / "log").read_text()
            heard.append(message)
    argv = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    seen = [argv, *(message.payload for message in heard)]
    seen += [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert not [text for text in seen if SECRET.encode() in text]


@pytest.mark.parametrize("settings", ["", 'username = "cam-7"\npassword = "s3cr3t, but wrong"'])
def test_a_device_without_the_password_keeps_what_it_has_and_says_why(daemon, until, settings):
    process, folder = daemon("device", settings)
    log = folder / "log"
    until(lambda: "refused the connection" in log.read_text(), "the refusal in the log", 20.0)
    until(lambda: (folder / "state" / "spool" / "queue.db").exists(), "the queue")
    assert process.poll() is None
    assert "s3cr3t" not in log.read_text()


def test_watch_takes_the_password_from_a_file(guarded, tmp_path):
    (tmp_path / "password").write_text(OTHER)
    link = MqttLink(MqttSettings(url=guarded, client_id="cam-7", username="cam-7", password=SECRET))
    link.open()
    assert link.wait_for_connected(10)
    link.publish("edge/v1/plant/cam-7/up/status", b'{"state":"online"}', retain=True)
    command = [
        sys.executable,
        "-m",
        "edge_sdk",
        "watch",
        "--broker",
        guarded,
        "--raw",
        "--count",
        "1",
        "--seconds",
        "20",
    ]
    shown = subprocess.run(
        [*command, "--username", "ear", "--password-file", tmp_path / "password"], capture_output=True, text=True
    )
    refused = subprocess.run(command, capture_output=True, text=True)
    link.close()
    assert json.loads(shown.stdout.split(maxsplit=1)[1]) == {"state": "online"}
    assert refused.returncode == errors.LinkError.exit_code
    assert "uthorized" in refused.stderr
