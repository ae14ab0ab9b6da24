"""README's commands run, in order, in one shell, from a folder that looks like the root of a clone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(match["language"], match["code"]) for match in BLOCK.finditer(README)]
TOOLS = sorted(path.name for path in (ROOT / "tools").iterdir() if os.access(path, os.X_OK) and path.is_file())


def script() -> str:
    """Gives README's shell and Python blocks as one script; tools/ are run by their own tests and by CI."""
    parts = []
    for language, code in BLOCKS:
        if language == "sh":
            parts.append("\n".join(line for line in code.splitlines() if not line.startswith("tools/")))
        elif language == "python":
            parts.append(f"python3 - <<'PYTHON'\n{code}PYTHON")
    return "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n" + "\n".join(parts) + "\n"


@pytest.mark.live
@pytest.mark.timeout(240)
def test_readme_runs_from_top_to_bottom(tmp_path):
    (tmp_path / "edge_sdk").symlink_to(ROOT / "edge_sdk")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; README asks the daemon with it")
    done = subprocess.run(
        ["bash", "-c", script()], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "(1, 10)" in done.stdout
    assert '"outputs"' in done.stdout
    assert "keeps every rule" in done.stdout


def test_every_tool_that_readme_names_is_there_and_has_help():
    named = set(re.findall(r"\btools/([a-z_]+)\b", README))
    assert named - {"environment"} <= set(TOOLS)
    for name in sorted(named - {"train_demo_model"}):
        done = subprocess.run([ROOT / "tools" / name, "--help"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "example" in done.stdout, name


def test_readme_names_no_file_that_is_not_there():
    for path in re.findall(r"`((?:edge_sdk|tests|systemd|tools)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
