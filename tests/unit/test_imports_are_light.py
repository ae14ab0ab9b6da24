"""What an import costs: the light rooms load nothing heavy, and --help starts like a bare interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edge_sdk

HEAVY = (
    "numpy",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx_bindings",
    "pycuda",
    "jtop",
    "paho",
    "torch",
    "iotcore",
)
ROOT = Path(edge_sdk.__file__).parent
LIGHT = [
    "edge_sdk",
    "edge_sdk.cli",
    "edge_sdk.cli.main",
    "edge_sdk.records",
    "edge_sdk.wire",
    "edge_sdk.errors",
    "edge_sdk.clock",
]
LIGHT += [
    f"edge_sdk.{room}.{path.stem}" for room in ("records", "wire") for path in sorted((ROOT / room).glob("[a-z]*.py"))
]
ROOMS = sorted(
    ".".join(("edge_sdk", *path.parent.relative_to(ROOT).parts))
    for path in ROOT.rglob("__init__.py")
    if path.parent != ROOT
)


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_imports_alone_and_loads_nothing_heavy(room):
    assert loaded_by(f"import {room}").isdisjoint(HEAVY)


def test_the_probe_can_fail():
    assert "numpy" in loaded_by("import edge_sdk.numerics.histogram")


def test_help_loads_nothing_heavy_and_not_even_a_wing():
    modules = loaded_by("from edge_sdk.cli import main\nmain.run(['--help'])")
    assert modules.isdisjoint(HEAVY)
    assert not any(
        name.startswith(("edge_sdk.host", "edge_sdk.device", "edge_sdk.collector", "msgspec")) for name in modules
    )


def test_a_failing_import_inside_a_module_is_not_mistaken_for_no_such_module(tmp_path):
    (tmp_path / "theirs.py").write_text("import package_that_is_not_there\n")
    code = "from edge_sdk import imports\nimports.object_from_spec('theirs:thing')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "No module named 'package_that_is_not_there'" in done.stderr
