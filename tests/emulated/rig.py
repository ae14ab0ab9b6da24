"""Sets up what the emulated suite runs on: real pycuda from PyPI, and a test driver `libcuda.so.1` over host memory.

``python tests/emulated/rig.py COMMAND ...`` builds both into a cache outside the checkout (two to five minutes the
first time, then nothing) and runs the command where they are seen. It needs Python, pip's network and gcc; no GPU, no
CUDA toolkit. Where they can't be had it says so on stderr and ends with 0. Nothing else sees driver or double.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PYCUDA = "pycuda==2026.1"
HEADERS = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-profiler-api==13.0.85")
"""Wheels of NVIDIA on PyPI that bring cuda.h and cudaProfiler.h."""

STUBS = "tensorrt-stubs==10.13.0.35.1"
"""Type stubs of TensorRT: the second witness of the contract test."""


MARK = "EDGE_SDK_EMULATED_STUBS"
"""Set in the environment of the suite: it runs on the rig, and TensorRT's stubs lie there."""


class Rig(NamedTuple):
    """Where things are; `missing` says why there is nothing."""

    site: Path
    driver: Path
    stubs: Path
    missing: str = ""

    def environment(self) -> dict[str, str]:
        """Gives the environment in which a child sees the double as `tensorrt` and the test driver as CUDA."""
        paths = [str(HERE / "as_tensorrt"), str(HERE), str(HERE.parents[1]), str(self.site)]
        inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        return {
            **os.environ,
            MARK: str(self.stubs),
            "PYTHONPATH": os.pathsep.join(paths + inherited),
            "LD_LIBRARY_PATH": str(self.driver.parent),
        }


def cache() -> Path:
    """Gives the folder that holds everything built; one per Python and per version of what is built."""
    key = hashlib.sha256(repr((PYCUDA, HEADERS, STUBS, sysconfig.get_config_var("SOABI"))).encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "edge_sdk" / f"emulated-{sys.version_info.major}.{sys.version_info.minor}-{key}"


def set_up() -> Rig:
    """Builds what is missing and gives the rig; `missing` says what could not be had."""
    root = cache()
    if not (root / "ready").exists():
        if shutil.which("gcc") is None or shutil.which("g++") is None:
            return Rig(root, root, root, "no gcc and g++: apt install build-essential, then run tools/test emulated")
        try:
            _fill(root)
        except (subprocess.CalledProcessError, OSError) as error:
            return Rig(root, root, root, f"could not set up pycuda on the emulated driver: {error}")
    rig = Rig(root / "site", root / "driver" / _driver_key() / "libcuda.so.1", root / "stubs")
    if not rig.driver.exists():
        build_driver(rig.driver, root / "headers")
    return rig


def _fill(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    _say(f"emulated suite: fetching NVIDIA's headers and building {PYCUDA} into {root} (2 to 5 minutes, once)")
    _pip("install", "--no-deps", "--target", str(root / "wheels"), *HEADERS)
    headers = next((root / "wheels").rglob("cuda.h")).parent
    if not (root / "headers").exists():
        (root / "headers").symlink_to(headers)
    _pip("install", "--no-deps", "--target", str(root / "stubs"), STUBS)
    _build_pycuda(root)
    shutil.rmtree(root / "build", ignore_errors=True)
    (root / "ready").touch()


def _build_pycuda(root: Path) -> None:
    """Builds against a library that has every name and does nothing, so that a change to the driver needs no new build."""
    build = root / "build"
    (build / "home").mkdir(parents=True, exist_ok=True)
    names = build / "names.c"
    names.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(_declared(root / "headers"))))
    _run("gcc", "-fPIC", "-shared", "-Wl,-soname,libcuda.so.1", "-o", str(build / "libcuda.so"), str(names))
    (build / "home" / ".aksetup-defaults.py").write_text(
        f"CUDA_ENABLE_CURAND = False\nCUDA_INC_DIR = [{str(root / 'headers')!r}]\nCUDADRV_LIB_DIR = [{str(build)!r}]\n"
    )
    # Its set-up reads the home folder, where a person's own settings may lie; give it one of its own.
    environment = {**os.environ, "HOME": str(build / "home"), "CUDA_ROOT": str(build), "MAX_JOBS": "2"}
    options = ("--no-cache-dir", "--no-binary", "pycuda", "--upgrade", "--target", str(root / "site"))
    _pip("install", *options, "--no-deps", PYCUDA, environment=environment)
    _pip("install", "--no-deps", "--upgrade", "--target", str(root / "site"), "pytools", "platformdirs", "mako",
         "markupsafe", "typing-extensions")  # fmt: skip


def build_driver(target: Path, headers: Path) -> None:
    """Compiles the test driver: its own functions, and 'not supported' for every other name of cuda.h."""
    staging = target.parent.with_name(f"{target.parent.name}.{os.getpid()}")
    staging.mkdir(parents=True, exist_ok=True)
    flags = ("-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-pthread", f"-I{headers}")
    objects = []
    for source in sorted((HERE / "driver").glob("*.c")):
        objects.append(str(staging / f"{source.stem}.o"))
        _run("gcc", *flags, "-c", str(source), "-o", objects[-1])
    listed = subprocess.run(["nm", "--defined-only", "-g", *objects], capture_output=True, text=True, check=True).stdout
    own = set(re.findall(r" T (cu[A-Z]\w+)", listed))
    stubs = staging / "stubs.c"
    lines = [f"int {name}(void) {{ return 801; }}\n" for name in sorted(_declared(headers) - own)]
    stubs.write_text(
        "/* Names of cuda.h that the driver does not offer: CUDA_ERROR_NOT_SUPPORTED. */\n" + "".join(lines)
    )
    link = ("-shared", "-Wl,-soname,libcuda.so.1", "-o", str(staging / target.name))
    _run("gcc", "-O1", "-fPIC", "-pthread", *link, *objects, str(stubs))
    target.parent.parent.mkdir(exist_ok=True)
    if not target.exists():
        staging.rename(target.parent)


def _declared(headers: Path) -> set[str]:
    """Gives the names of the functions in cuda.h and cudaProfiler.h as the preprocessor leaves them (with their _v2)."""
    text = "#include <cuda.h>\n#include <cudaProfiler.h>\n"
    done = subprocess.run(
        ["gcc", "-E", f"-I{headers}", "-"], input=text, capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"CUresult\s+(cu[A-Z]\w+)\s*\(", done))


def _driver_key() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sorted((HERE / "driver").glob("*.[ch]")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _pip(*arguments: str, environment: dict[str, str] | None = None) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, environment=environment)


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        _say(done.stdout[-2000:] + done.stderr[-4000:])
        raise subprocess.CalledProcessError(done.returncode, command)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    made = set_up()
    if made.missing:
        _say(f"EMULATED SUITE SKIPPED: {made.missing}")
    else:
        os.execve(sys.argv[1], sys.argv[1:], made.environment())
