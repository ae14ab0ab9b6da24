"""The child process that tries an engine first: whatever happens in it, this process lives and says what it was."""

import hashlib
import subprocess
import sys

import pytest

from edge_sdk import errors
from edge_sdk.engines import plans, probe
from edge_sdk.records.passport import EnginePassport, Passport

OPENER = """
import ctypes, os, signal, sys
def fine(plan): sys.stderr.write("a warning\\n")
def crash(plan): ctypes.string_at(0)
def abort(plan): os.abort()
def killed(plan): os.kill(os.getpid(), signal.SIGKILL)
def hang(plan): signal.pause()
def spin(plan):
    while True: pass
def eat(plan):
    kept = []
    while True: kept.append(bytearray(1 << 26))
def leave(plan): os._exit(3)
def flood(plan):
    for _ in range(20_000): sys.stderr.write("words " * 50)
    raise SystemExit(1)
def remember(plan): open(os.path.join(os.path.dirname(__file__), "seen"), "wb").write(plan)
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    (tmp_path / "openers_of_the_test.py").write_text(OPENER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = tmp_path / "engine.x.plan"
    file.write_bytes(b"an engine")
    return file


def expected(content=b"an engine"):
    here = Passport(module="m", compute_capability="8.7", sm_count=8)
    sha256 = hashlib.sha256(content).hexdigest()
    return EnginePassport(schema=1, built_on=here, model="0" * 64, sha256=sha256, size_bytes=len(content))


def check(plan, opener, *, timeout_s=60, memory_bytes=512 << 20, passport=None):
    probe.check_plan(
        plan,
        passport or expected(),
        limits=probe.Limits(timeout_s, memory_bytes),
        opener=f"openers_of_the_test:{opener}",
    )


def test_a_good_engine_passes_and_the_child_gets_its_very_bytes(plan):
    check(plan, "fine")
    check(plan, "remember")
    assert (plan.parent / "seen").read_bytes() == b"an engine"


@pytest.mark.parametrize(("opener", "words"), [
    ("crash", r"crashed the process with SIGSEGV \(signal 11\)"),
    ("abort", r"SIGABRT \(signal 6\)"),
    ("killed", r"SIGKILL \(signal 9; the kernel kills what takes more memory"),
    ("eat", "it was refused: out of memory"),
    ("leave", "it was refused"),
    ("flood", "it was refused: .*words words"),
])  # fmt: skip
def test_whatever_happens_in_the_child_is_a_refusal_that_says_what(plan, opener, words):
    with pytest.raises(errors.BundleError, match=words) as caught:
        check(plan, opener)
    assert "edge-sdk compile" in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert plan.read_bytes() == b"an engine"


@pytest.mark.parametrize("opener", ["hang", "spin"])
def test_a_child_that_does_not_end_is_ended(plan, opener):
    with pytest.raises(errors.BundleError, match="not loaded within 2 s"):
        check(plan, opener, timeout_s=2)
    left = subprocess.run(["ps", "--ppid", str(_pid()), "-o", "args="], capture_output=True, text=True).stdout
    assert "edge_sdk.engines.probe" not in left


def test_a_hash_that_is_wrong_is_refused_before_anything_opens_it(plan):
    with pytest.raises(errors.BundleError, match="does not match its passport"):
        check(plan, "remember", passport=expected(b"another.."))
    with pytest.raises(errors.BundleError, match="has 9 bytes, its passport says 12"):
        check(plan, "remember", passport=expected(b"a longer one"))
    assert not (plan.parent / "seen").exists()


def test_the_child_limits_itself():
    code = (
        "from edge_sdk.engines import probe; import resource, pathlib, signal\n"
        "probe._limit_myself(30, 1 << 30)\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], resource.getrlimit(resource.RLIMIT_DATA)[0],"
        " resource.getrlimit(resource.RLIMIT_CPU)[0], signal.alarm(0),"
        " pathlib.Path('/proc/self/oom_score_adj').read_text().strip())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", str(1 << 30), "60", "35", "1000"]


@pytest.mark.parametrize(("content", "words"), [
    (b"{}", "is not an engine's passport"),
    (b"\xff", "is not an engine's passport"),
    (b'{"schema": 99}', "has schema 99"),
    (b"[" * 5000, "is not an engine's passport"),
])  # fmt: skip
def test_a_passport_that_is_none_is_refused(plan, content, words):
    plan.with_suffix(".json").write_bytes(content)
    with pytest.raises(errors.BundleError, match=words):
        plans.read_engine_passport(plan)


def test_a_passport_that_is_too_large_or_a_link_is_refused(plan):
    passport = plan.with_suffix(".json")
    passport.write_bytes(b" " * (plans.MAX_PASSPORT_BYTES + 1))
    with pytest.raises(errors.BundleError, match="at most"):
        plans.read_engine_passport(plan)
    passport.unlink()
    passport.symlink_to(plan)
    with pytest.raises(errors.BundleError, match="has no engine"):
        plans.read_engine_passport(plan)


def _pid():
    import os

    return os.getpid()
