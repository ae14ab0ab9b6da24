"""The suite can fail: with any one of these lines broken, the named tests go red.

Each mutant is the product with one text replaced, in a copy that a child process imports instead.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_sdk

PACKAGE = Path(edge_sdk.__file__).parent
HERE = Path(__file__).parent
ANSWERS = "answers_are_those or thousand or promises"

MUTANTS = {
    "synchronise": ("network.py", "        self._cuda.synchronize()\n        started_ns", "        started_ns", ANSWERS),
    "context push": ("cuda.py", "        self._context.push()\n        return self", "        return self", ANSWERS),
    "context pop": ("cuda.py", "        drv.Context.pop()\n", "        pass\n", ANSWERS),
    "leftover of pycuda's detach": ("cuda.py", "            cuda_graph.drop_current_context()\n", "", ANSWERS),
    "context detach": ("cuda.py", "            self._context.detach()\n", "", ANSWERS),
    "free of device memory": ("cuda.py", "            self._device.free()\n", "            _log.__dict__.setdefault('kept', []).append(self._device)\n", ANSWERS),
    "free of host memory": ("cuda.py", "            self._allocation.free()\n", "            pass\n", ANSWERS),
    "free of the graph": ("cuda_graph.py", '        self._destroy("cuGraphExecDestroy", self._exec)\n', "", ANSWERS),
    "drop of the execution context": ("network.py", "        self._context = None\n        self._engine = None\n        self._runtime", "        self._runtime", ANSWERS),
    "enqueue's returned bool": ("network.py", "        if not self._context.execute_async_v3(self._cuda.stream):\n            self._cuda", "        self._context.execute_async_v3(self._cuda.stream)\n        if False:\n            self._cuda", "refused_enqueue"),
    "capture's returned bool and the graph's check": ("network.py", "        if not all(_is_same(", "        if False and not all(_is_same(", "captured_nothing"),
    "page-locked memory": ("cuda.py", "drv.pagelocked_empty((size_bytes,), np.uint8, mem_flags=flags)", "np.empty(size_bytes, np.uint8)", ANSWERS),
    "the device's address of mapped memory": ("cuda.py", "return int(self._allocation.get_device_pointer())", "return int(self.host.ctypes.data)", ANSWERS),
    "outputs of the caller's own": ("network.py", "tensor.view.copy() for tensor in self._outputs}", "tensor.view for tensor in self._outputs}", ANSWERS),
    "shape set when it changes": ("network.py", "if None in tensor.spec.shape and not self._context.set_input_shape(tensor.spec.name, shape):", "if False:", "shapes_may_change"),
    "graph dropped with its shape": ("network.py", "        self._cuda.drop_graph()\n        self._graph = None\n        self._shapes", "        self._shapes", "shapes_may_change"),
    "copy in": ("cuda.py", "            drv.memcpy_htod_async(", "            (lambda *_: None)(", ANSWERS),
    "free after a failed load": ("trt.py", "            undo.callback(self._session.close)\n", "", "out_of_memory or driver_that_fails"),
    "passport compared first": ("trt.py", "        passport.check_passport(expected,", "        (lambda *_: None)(expected,", "another_machine"),
    "hash of the engine": ("plans.py", "    if got != sha256:", "    if False:", "damaged"),
    "host code forbidden": ("network.py", "engine_host_code_allowed = False", "engine_host_code_allowed = True", "host_code"),
    "time-out of the probe": ("probe.py", "child.wait(limits.timeout_s)", "child.wait(20)", "hangs"),
}  # fmt: skip


def run_suite(package_root: Path, words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(package_root), os.environ["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", str(PACKAGE.parent / "pyproject.toml"),
         str(HERE / "test_trt_backend.py"), str(HERE / "test_trt_load.py"), "-k", words],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, timeout=100, cwd=package_root,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package without its wings: engines know nothing of them."""
    root = tmp_path_factory.mktemp("mutant")
    shutil.copytree(
        PACKAGE, root / "edge_sdk", ignore=shutil.ignore_patterns("__pycache__", "host", "device", "collector", "cli")
    )
    return root


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name, copy):
    file, old, new, words = MUTANTS[name]
    target = copy / "edge_sdk" / "engines" / file
    source = target.read_text()
    assert source.count(old) == 1, f"the mutant {name!r} no longer fits the product"
    target.write_text(source.replace(old, new))
    try:
        done = run_suite(copy, words)
    finally:
        target.write_text(source)
    assert done.returncode != 0, f"nothing noticed: {name}\n{done.stdout[-2000:]}"
    assert done.returncode != 5, f"no test matches {words!r}"
    assert "Error" in done.stdout or done.returncode < 0, done.stdout[-2000:]


def test_the_unchanged_copy_passes(copy):
    done = run_suite(copy, "answers_are_those or refused_enqueue or another_machine")
    assert done.returncode == 0, done.stdout[-3000:]
