"""A version that takes the daemon down, under the real systemd and the shipped unit: it gives way with no human."""

import contextlib
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "systemd"))
import namespace

pytestmark = [
    pytest.mark.skipif(bool(namespace.why_not()), reason=namespace.why_not() or "it can be run"),
    pytest.mark.timeout(400),
]

UNIT = "edge-sdk-device.service"
TRIES, RESTART_S, TIMEOUT_START_S, LATE_S = 3, 0.3, 3, 0.5
BURST = 10
"""As shipped."""
WAIT_S = 120
"""Longer than any of it takes on a busy machine; what it took is measured."""


@pytest.fixture
def run(tmp_path, write_bundle, tiny_onnx):
    """Starts systemd with the first version of a model, on request; `make` makes others."""

    def make(version):
        return write_bundle(tmp_path / "made" / version, tiny_onnx, name="tiny", version=version, counter=int(version))

    (tmp_path / "made").mkdir()
    first = make("1").path
    with contextlib.ExitStack() as ending:

        def start():
            one = namespace.Namespace(tmp_path / "stage", first, burst=BURST, settings=namespace.REPOSITORY)
            one = ending.enter_context(one)
            one.drop_in(f"[Service]\nTimeoutStartSec={TIMEOUT_START_S * 5}\n")
            one.install(first)
            one.make = make
            return one

        yield start


def began(one):
    """Starts the daemon and waits until its version has proved itself; gives the seconds of a start."""
    start_s = time.monotonic()
    one.systemctl("start", "--no-block", UNIT)
    one.wait_for(lambda: serves(one) == "1", WAIT_S)
    took_s = time.monotonic() - start_s
    one.wait_for(lambda: one.trials()["1"]["is_confirmed"], WAIT_S)
    return took_s


def serves(one):
    """The version that is served; empty while nobody answers."""
    return ",".join(one.ask().get("versions", ()))


def bad(one):
    return sorted(version for version, trial in one.trials().items() if trial["bad"])


def deploy(one, way, version="2"):
    """Installs a version that misbehaves, and restarts once; gives the seconds until the first one serves again."""
    one.install(one.make(version).path, way)
    one.systemctl("reset-failed", UNIT)
    start_s = time.monotonic()
    one.systemctl("restart", "--no-block", UNIT)
    one.wait_for(lambda: version in bad(one) and serves(one) == "1", WAIT_S)
    return time.monotonic() - start_s


@pytest.mark.fault("U10")
@pytest.mark.parametrize("way", ["segfault at load", "hang at load", "crash after READY"])
def test_a_new_version_that_takes_the_daemon_down_is_rolled_back(run, fault, way):
    one = run()
    one.broker()
    start_s = began(one)
    if way == "hang at load":
        one.drop_in(f"[Service]\nTimeoutStartSec={max(TIMEOUT_START_S, 2 * start_s):.0f}\n")
    hangs_s = max(TIMEOUT_START_S, 2 * start_s)
    took_s = deploy(one, way)
    one.wait_for(lambda: "rolled_back" in one.events(), WAIT_S)
    pid = one.show()["MainPID"]
    one.wait_for(lambda: one.show()["ActiveState"] == "active", WAIT_S)
    assert one.infer(1.0, timeout_s=10) == (0, "200")
    assert one.fired() == []
    assert one.events().count("rolled_back") == 1
    one.wait_for(lambda: one.trials()["1"]["lost_starts"] == 0, WAIT_S)
    assert one.show()["MainPID"] == pid
    each_s = {"segfault at load": start_s, "hang at load": hangs_s, "crash after READY": start_s + LATE_S}[way]
    bar_s = 2 * (TRIES * (each_s + RESTART_S) + start_s)
    assert took_s <= bar_s + 10
    # The control: the same version, and nothing that outlives the crash.
    one.drop_in(f"{namespace.FORGETFUL}TimeoutStartSec={hangs_s:.0f}\n")
    one.systemctl("reset-failed", UNIT)
    one.systemctl("restart", "--no-block", UNIT)
    one.wait_for(lambda: int(one.show()["NRestarts"]) > TRIES + 1, WAIT_S)
    assert bad(one) == []
    fault(
        part=way,
        what=f"a new version of a model: {way}",
        injected=f"installed and restarted once, the old one confirmed; real systemd, RestartSec={RESTART_S}"
        + (f", TimeoutStartSec={hangs_s:.0f}" if way == "hang at load" else ""),
        bar=f"the old one serves again after {TRIES} tries with no human, one event rolled_back: twice {TRIES} such starts "
        f"and one whole, {bar_s:.0f} s",
        measured=f"{took_s:.1f} s; a start takes {start_s:.1f} s here; OnFailure 0 times",
        control=f"without trials.json more than {TRIES + 1} restarts and the old one is not served",
    )


@pytest.mark.fault("U11")
def test_with_both_versions_bad_the_daemon_senses_on_without_the_model(run, fault):
    one = run()
    one.broker()
    began(one)
    (one.srv / "ways/1").write_text("segfault at load")
    one.install(one.make("2").path, "crash after READY")
    one.systemctl("reset-failed", UNIT)
    start_s = time.monotonic()
    one.systemctl("restart", "--no-block", UNIT)
    one.wait_for(lambda: bad(one) == ["1", "2"] and one.ask("/v2").get("name"), WAIT_S)
    took_s = time.monotonic() - start_s
    lost = sum(trial["lost_starts"] for trial in one.trials().values())
    assert lost == 2 * TRIES
    assert "error" in one.ask()
    pid, seen = one.wait_until_ready(), len(one.samples())
    one.wait_for(lambda: len(one.samples()) >= seen + 4, WAIT_S)  # longer than its trial
    assert (one.show()["MainPID"], one.fired()) == (pid, [])
    assert one.events().count("safe_mode") >= 1
    one.drop_in(namespace.FORGETFUL)
    one.systemctl("reset-failed", UNIT)
    one.systemctl("restart", "--no-block", UNIT)
    one.wait_for(lambda: one.show()["ActiveState"] == "failed" and one.fired(), WAIT_S)
    fault(
        what="the version to go back to is bad as well",
        injected="the new one crashes after READY, the old one at load, real systemd",
        bar=f"telemetry only, in no more than {2 * TRIES} lost starts; no loop, OnFailure 0 times",
        measured=f"{lost} lost starts, {took_s:.1f} s; then Samples from one process, the model a 404",
        control="without trials.json a storm of restarts: the unit stops, no telemetry",
    )


@pytest.mark.fault("D16")
def test_a_storm_of_restarts_is_over_before_the_unit_is_stopped(run, fault):
    one = run()
    began(one)
    one.install(one.make("2").path, "segfault at load")
    one.systemctl("reset-failed", UNIT)
    one.systemctl("restart", "--no-block", UNIT)
    one.wait_for(lambda: bad(one) == ["2"] and serves(one) == "1", WAIT_S)
    pid, restarts = one.wait_until_ready(), int(one.show()["NRestarts"])
    assert restarts == TRIES
    one.wait_for(lambda: one.trials()["1"]["lost_starts"] == 0 and serves(one) == "1", WAIT_S)
    assert (one.show()["MainPID"], one.fired()) == (pid, [])
    # What no other version can mend: it stops, and says so once.
    one.drop_in(namespace.FORGETFUL)
    one.systemctl("reset-failed", UNIT)
    one.systemctl("restart", "--no-block", UNIT)
    one.wait_for(lambda: one.show()["ActiveState"] == "failed" and one.fired(), WAIT_S)
    storm = int(one.show()["NRestarts"])
    time.sleep(5 * RESTART_S)
    assert (one.show()["ActiveState"], one.fired()) == ("failed", [UNIT])
    assert storm <= BURST
    fault(
        what="restart storm: the newest version crashes the daemon at every start",
        injected=f"SIGSEGV at load, the shipped limit of {BURST} starts in 300 s, real systemd",
        bar="rollback first; else it stops restarting, and OnFailure fires once",
        measured=f"{restarts} restarts, then the version before it serves; OnFailure 0 times",
        control=f"without trials.json {storm} restarts, the unit stopped, OnFailure once",
    )
