"""The settings of `edge-sdk collector`: file, options, and what they become."""

import argparse
from pathlib import Path

import pytest

from edge_sdk import errors
from edge_sdk.cli import collector, main, settings_file
from edge_sdk.collector.service import CollectorState
from edge_sdk.collector.settings import CollectorSettings, shown_database
from edge_sdk.link.protocol import LinkState


def settings(*argv):
    parser = argparse.ArgumentParser()
    collector.add_arguments(parser)
    return collector.settings_from_arguments(parser.parse_args(argv))


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "collector.toml"
        file.write_text(text)
        return str(file)

    return write


def test_without_file_and_options_everything_has_a_default():
    assert settings() == CollectorSettings()


def test_options_override_the_file(write):
    file = write('broker = "mqtt://a:1"\ndatabase = "x.db"\nbatch_records = 7\n')
    got = settings("--config", file, "--broker", "mqtt://b:2", "--site", "plant")
    assert (got.broker, got.site, got.batch_records) == ("mqtt://b:2", "plant", 7)


def test_paths_in_a_file_are_beside_it_and_those_of_options_here(write, tmp_path):
    file = write('database = "x.db"\nca_file = "ca.pem"\ncert_file = "/etc/c.pem"\nkey_file = ""\n')
    got = settings("--config", file)
    assert (got.database, got.ca_file) == (str(tmp_path / "x.db"), str(tmp_path / "ca.pem"))
    assert (got.cert_file, got.key_file) == ("/etc/c.pem", "")
    assert settings("--config", file, "--database", "y.db").database == "y.db"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('brokr = "x"', "unknown setting 'brokr' .did you mean 'broker'"),
        ("batch_records = 0", "batch_records"),
        ('site = "Plant 1"', "site"),
        ("queue_bytes = 1", "queue_bytes"),
        ("broker = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(write, text, words, capsys):
    assert main.run(["collector", "--config", write(text)]) == errors.UsageError.exit_code
    assert __import__("re").search(words, capsys.readouterr().err)


def test_a_wrong_url_or_database_ends_with_one_line_and_nothing_made(tmp_path, capsys):
    database = tmp_path / "t.db"
    assert main.run(["collector", "--broker", "tcp://x", "--database", str(database)]) == 2
    assert not database.exists()
    assert main.run(["collector", "--database", str(tmp_path / "no" / "t.db")]) == 2
    assert "choose another with --database" in capsys.readouterr().err


def test_the_password_is_shown_nowhere():
    got = CollectorSettings(username="me", password="geheim")
    assert "geheim" not in repr(got)
    assert "geheim" not in repr(collector.mqtt_settings(got))
    assert collector.mqtt_settings(got).password == "geheim"
    assert collector.mqtt_settings(CollectorSettings(ca_file="ca.pem")).ca_file == Path("ca.pem")


def state(**more):
    counts = dict.fromkeys(CollectorState.__struct_fields__, 0)
    return CollectorState(**{**counts, "is_running": True, "last_error": "", **more})


def link(*, is_connected, last_error=""):
    return LinkState(is_connected, 1, 0, 0, 0, 0, 0, last_error)


def test_the_log_line_tells_problems_only_when_there_are_some():
    calm = collector.report_line(state(stored=5, devices=1), link(is_connected=True))
    assert calm == "1 devices, 5 stored, 0 duplicates, 0 refused, 0 lost, 0 waiting"
    trouble = collector.report_line(
        state(overflowed=3, store_failures=2, last_error="locked"), link(is_connected=False, last_error="refused")
    )
    assert trouble.endswith(
        "; not connected: refused; 3 not taken, as the database is too slow; 2 failed commits, the last: locked"
    )


def test_a_key_and_a_password_come_from_where_systemd_puts_them(tmp_path, monkeypatch):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "key").write_text("secret\n")
    config = tmp_path / "collector.toml"
    config.write_text('cert_file = "c.crt"\nkey_file = "credential:key"\npassword = "credential:key"\n')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "given"))
    arguments = argparse.ArgumentParser()
    collector.add_arguments(arguments)
    arguments = arguments.parse_args(["--config", str(config)])
    link = collector.mqtt_settings(collector.settings_from_arguments(arguments))
    assert link.key_file == tmp_path / "given" / "key"
    assert link.cert_file == tmp_path / "c.crt"
    assert link.password == "secret"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(errors.SettingsError, match="LoadCredential=key"):
        collector.settings_from_arguments(arguments)


@pytest.mark.parametrize(
    ("database", "shown"),
    [
        ("postgresql://me:geheim@db.example:5433/fleet?password=geheim", "postgresql://db.example:5433/fleet"),
        ("postgresql://me:ge@heim@db/fleet", "postgresql://db/fleet"),
        ("/var/lib/edge/telemetry.db", "/var/lib/edge/telemetry.db"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
    ],
)
def test_a_database_is_shown_without_what_may_be_a_password(database, shown):
    assert shown_database(database) == shown
    assert "heim" not in repr(CollectorSettings(database=database))


@pytest.mark.parametrize("name", ["", "../key", "no-such"])
def test_a_credential_that_was_not_given_is_named_with_the_remedy(tmp_path, monkeypatch, name):
    (tmp_path / "key").write_text("x")
    (tmp_path / "given").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "given"))
    with pytest.raises(errors.SettingsError, match="no credential"):
        settings_file.place_from_text(f"credential:{name}", tmp_path)
