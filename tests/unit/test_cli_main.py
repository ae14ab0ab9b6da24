"""The frame of the command line: help, exit codes, one-line errors, settings files."""

import subprocess
import sys

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.cli import main, settings_file


class Settings(msgspec.Struct, frozen=True):
    broker: str = "mqtt://127.0.0.1:1883"
    interval_s: float = 1.0


def test_help_lists_every_command_and_exits_0(capsys):
    assert main.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in main.COMMANDS)


def test_no_command_shows_the_help_and_exits_2(capsys):
    assert main.run([]) == 2
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_every_command_has_help_with_an_example_and_json(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main.run([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"edge-sdk {name}" in text.partition("example:")[2]
    assert "--json" in text


def test_a_mistyped_command_names_the_nearest(capsys):
    assert main.run(["colector"]) == 2
    assert "did you mean 'collector'?" in capsys.readouterr().err


def test_a_mistake_is_one_line_on_stderr_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "edge_sdk", "inspect", str(tmp_path / "none.edge")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == errors.BundleError.exit_code
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "none.edge" in done.stderr


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m edge_sdk --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_version(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edge-sdk ")


def test_settings_come_from_toml_and_keep_their_defaults(tmp_path):
    file = tmp_path / "device.toml"
    file.write_text("interval_s = 5.0\n")
    assert settings_file.read_settings(file, Settings) == Settings(interval_s=5.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("intervals_s = 1.0", "did you mean 'interval_s'"),
        ("interval_s = 'often'", "interval_s"),
        ("interval_s = ", "is not TOML"),
    ],
)
def test_bad_settings_name_the_key_and_the_file(tmp_path, text, says):
    file = tmp_path / "device.toml"
    file.write_text(text)
    with pytest.raises(errors.SettingsError, match=says) as caught:
        settings_file.read_settings(file, Settings)
    assert "device.toml" in str(caught.value)


def test_an_absent_settings_file_is_named(tmp_path):
    with pytest.raises(errors.SettingsError, match=r"none\.toml"):
        settings_file.read_settings(tmp_path / "none.toml", Settings)
