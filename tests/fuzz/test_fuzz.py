"""atheris on every parser, ten seconds each; skips, saying so, where it is not installed (the dev-fuzz extra)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import targets

SECONDS = 10


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="SKIPPED LOUDLY: no atheris: pip install 'edge_sdk[dev-fuzz]'"
)
@pytest.mark.parametrize("name", targets.TARGETS)
def test_nothing_but_refusals_is_found(name, tmp_path):
    program = Path(__file__).with_name("fuzz.py")
    answer = subprocess.run(
        [sys.executable, program, name, str(SECONDS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS * 5 + 30,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert not list(tmp_path.glob("crash-*"))
