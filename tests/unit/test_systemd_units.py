"""The units as systemd itself judges them: no unknown key, and an exposure of 2.0 at most."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = sorted(file.name for file in FOLDER.glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")

needs_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="systemd-analyze is not on PATH, so no unit was judged: apt-get install systemd"
)


def analyze(*arguments):
    done = subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def copied(unit, folder, *, change=lambda text: text):
    """A unit whose program is one that is installed here."""
    text = (FOLDER / unit).read_text()
    text = re.sub(r"/opt/edge-sdk/bin/\S+|/usr/bin/logger", sys.executable, text)
    target = folder / unit.replace("@", "@x")
    target.write_text(change(text))
    return str(target)


def values(unit, key):
    return re.findall(rf"^{key}=(.*)$", (FOLDER / unit).read_text(), re.MULTILINE)


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_knows_every_key(unit, tmp_path):
    others = [copied(other, tmp_path) for other in UNITS if other != unit]
    code, words = analyze("verify", "--man=no", copied(unit, tmp_path))
    assert (code, words) == (0, ""), others


@needs_systemd
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("ProtectHome=", "ProtectHomes="),
        lambda text: re.sub("^ExecStart=.*$", "ExecStart=/not/there", text, flags=re.MULTILINE),
    ],
    ids=["unknown key", "no such program"],
)
def test_systemd_says_no_to_a_broken_one(tmp_path, change):
    _, words = analyze("verify", "--man=no", copied("edge-sdk-jtop.service", tmp_path, change=change))
    assert words


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_two_at_most(unit):
    code, words = analyze("security", "--offline=true", "--no-pager", "--threshold=20", str(FOLDER / unit))
    assert code == 0, words[-300:]


@needs_systemd
def test_a_unit_without_hardening_is_over_the_bar(tmp_path):
    (tmp_path / "naked.service").write_text("[Service]\nExecStart=/bin/true\n")
    code, _ = analyze("security", "--offline=true", "--no-pager", "--threshold=20", str(tmp_path / "naked.service"))
    assert code != 0


@pytest.mark.parametrize("unit", UNITS)
def test_no_unit_is_root_or_gains_anything(unit):
    assert values(unit, "DynamicUser") == ["yes"] or values(unit, "User")[0].startswith("edge-sdk")
    assert values(unit, "NoNewPrivileges") == ["yes"]
    assert values(unit, "CapabilityBoundingSet") == [""]
    assert values(unit, "ProtectSystem") == ["strict"]


def test_only_the_reader_holds_jtops_group_and_it_has_no_network():
    holders = [unit for unit in UNITS if "jtop" in " ".join(values(unit, "SupplementaryGroups"))]
    assert holders == ["edge-sdk-jtop.service"]
    assert values(holders[0], "RestrictAddressFamilies") == ["AF_UNIX"]
    assert values(holders[0], "PrivateNetwork") == ["yes"]


def test_the_runtime_is_watched_restarted_and_given_up_on():
    unit = "edge-sdk-device.service"
    expected = {
        "Type": "notify",
        "WatchdogSec": "30",
        "Restart": "on-failure",
        "StartLimitBurst": "10",
        "StartLimitIntervalSec": "300",
        "OnFailure": "edge-sdk-failed@%n.service",
        "LimitCORE": "0",
    }
    assert {key: values(unit, key) for key in expected} == {key: [value] for key, value in expected.items()}


def test_every_user_and_group_of_a_unit_is_made():
    made = set(re.findall(r"^[ug]\s+(\S+)", (FOLDER / "edge-sdk.sysusers").read_text(), re.MULTILINE))
    needed = set()
    for unit in UNITS:
        for key in ("User", "Group", "SupplementaryGroups"):
            needed |= set(" ".join(values(unit, key)).split())
    assert needed <= made


def test_the_groups_of_the_static_users_are_members_as_well():
    text = (FOLDER / "edge-sdk.sysusers").read_text()
    assert re.findall(r"^m\s+(\S+)\s+(\S+)", text, re.MULTILINE) == [
        ("edge-sdk", "video"),
        ("edge-sdk", "render"),
        ("edge-sdk-jtop", "jtop"),
    ]
