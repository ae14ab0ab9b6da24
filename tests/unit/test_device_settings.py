"""The daemon's settings and its options: unknown keys, bounds, what overrides what, and what this machine fills in."""

import argparse
import signal
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk import errors
from edge_sdk.cli import daemon as command
from edge_sdk.cli import places
from edge_sdk.cli.signals import Stop
from edge_sdk.device.notify import Notifier
from edge_sdk.device.settings import DaemonSettings, device_from_hostname
from edge_sdk.wire import topics


def settings_of(*argv):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.settings_from_arguments(parser.parse_args(list(argv)))


@pytest.fixture
def config(tmp_path):
    def write(text):
        file = tmp_path / "device.toml"
        file.write_text(text)
        return str(file)

    return write


def test_an_empty_file_is_a_valid_one(config):
    settings = settings_of("--config", config(""))
    assert settings.device == device_from_hostname(socket.gethostname())
    assert (settings.http_host, settings.http_port, settings.interval_s) == ("127.0.0.1", 8000, 1.0)
    assert settings.state_folder is None


def test_bundles_in_a_file_are_relative_to_it_and_options_override(config, tmp_path):
    file = config('bundles = ["a.edge", "/b.edge"]\nsite = "north"\nhttp_port = 9000\n')
    settings = settings_of("--config", file, "--port", "0", "--device", "cam-7")
    assert settings.bundles == (str(tmp_path / "a.edge"), "/b.edge")
    assert (settings.site, settings.http_port, settings.device) == ("north", 0, "cam-7")
    assert settings_of("--config", file, "--bundle", "c", "--bundle", "d").bundles == ("c", "d")


@pytest.mark.parametrize(
    ("said", "password"),
    [('"geheim"', "geheim"), ('"file:secret"', "from the file"), ('"credential:mqtt"', "from systemd")],
)
def test_the_brokers_password_comes_from_where_the_setting_says_and_is_shown_nowhere(
    config, tmp_path, monkeypatch, said, password
):
    (tmp_path / "secret").write_text("from the file\n")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "mqtt").write_text("from systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "given"))
    settings = settings_of("--config", config(f'username = "cam-7"\npassword = {said}\n'))
    link = command.mqtt_settings(settings)
    assert (link.username, link.password) == ("cam-7", password)
    assert password not in repr(settings) + repr(link)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("file:nowhere", "cannot read the secret"),
        ("file:empty", "is empty"),
        ("credential:mqtt", "LoadCredential=mqtt"),
    ],
)
def test_a_password_that_is_not_where_it_should_be_is_refused(config, tmp_path, monkeypatch, said, words):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "empty").write_text("\n")
    settings = settings_of("--config", config(f'username = "cam-7"\npassword = "{said}"\n'))
    with pytest.raises(errors.SettingsError, match=words):
        command.mqtt_settings(settings)


def test_sockets_and_the_repository_in_a_file_are_relative_to_it(config, tmp_path):
    settings = settings_of(
        "--config", config('model_repository = "m"\nframes_socket = "/run/f"\n[models.a]\nmax_batch = 4\n')
    )
    assert (settings.model_repository, settings.frames_socket) == (str(tmp_path / "m"), "/run/f")
    assert (settings.models["a"].max_batch, settings.http_socket, settings.shared_memory) == (4, None, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[models.a]\nmax_bach = 4", "max_bach"),
        ("grpc_port = 70000", "grpc_port"),
        ('brokr = "x"', "unknown setting 'brokr' (did you mean 'broker'?)"),
        ("interval_s = 0", "interval_s"),
        ("http_port = 70000", "http_port"),
        ('device = "Cam 7"', "device"),
        ("bundles = 'x'", "bundles"),
        ("bundles = [", "is not TOML"),
        ("threads = -1", "threads"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_by_name(config, text, words):
    with pytest.raises(errors.SettingsError) as refusal:
        settings_of("--config", config(text))
    assert words in str(refusal.value)
    assert "device.toml" in str(refusal.value)


def test_an_option_out_of_bounds_is_refused():
    with pytest.raises(errors.SettingsError, match="device"):
        settings_of("--device", "Not Allowed")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(errors.SettingsError, match="No such file"):
        settings_of("--config", str(tmp_path / "none.toml"))


def test_systemds_state_directory_is_taken(monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edge-sdk")
    assert settings_of().state_folder == "/var/lib/edge-sdk"


def test_a_daemon_started_by_hand_keeps_its_queue_in_a_folder_of_its_device(tmp_path, monkeypatch):
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = (places.state_folder("plant", device) for device in ("cam-7", "cam-8"))
    assert one == tmp_path / "edge-sdk/plant.cam-7"
    assert one.is_dir()
    assert one != other
    assert settings_of("--state", "/srv/queue").state_folder == "/srv/queue"


def test_where_no_folder_can_be_made_there_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert places.state_folder("plant", "cam-7") is None


@given(st.text(max_size=100))
def test_any_host_name_becomes_a_name_for_topics(hostname):
    assert topics.check_name("device", device_from_hostname(hostname))


def test_every_setting_says_what_it_is():
    documented = DaemonSettings.__doc__
    assert [name for name in DaemonSettings.__struct_fields__ if f"{name}: " not in documented] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_and_stays_asked(number):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop.wait(0.0)
        signal.raise_signal(number)
        assert stop.wait(60.0)
        assert stop.wait(60.0)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_hears_that_the_daemon_is_ready_alive_and_stopping(tmp_path, is_abstract):
    name = f"@edge-sdk-test-{tmp_path.name}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name[1:]}" if is_abstract else name)
        notifier = Notifier(name)
        notifier.ready()
        notifier.progress()
        notifier.stopping()
        assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_without_systemd_nobody_is_told_and_a_dead_socket_is_only_logged(tmp_path, caplog):
    Notifier(None).ready()
    Notifier("").ready()
    assert caplog.text == ""
    Notifier(str(tmp_path / "nobody")).ready()
    assert "READY=1" in caplog.text
