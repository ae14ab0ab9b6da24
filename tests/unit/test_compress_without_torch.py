"""Where torch is not installed, compress still explains itself and says what brings it."""

import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = """
import sys
sys.modules["torch"] = None
sys.modules["torch_pruning"] = None
from edge_sdk.cli import main
sys.exit(main.run(sys.argv[1:]))
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )


def test_help_answers():
    done = run("compress", "--help")
    assert done.returncode == 0, done.stderr
    assert "--prune" in done.stdout


@pytest.mark.parametrize("source", ["theirs.py:network", "theirs:network"])
def test_the_missing_package_is_named_with_the_command_that_brings_it(tmp_path, source):
    done = run("compress", source, "--data", "a.npz", "--evaluate", "b.npz", "-o", str(tmp_path / "out.onnx"))
    assert done.returncode == 2
    assert "'torch', which is not installed here: pip install 'edge_sdk[torch]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
