"""Engine files: ``engine.<passport>.plan`` and beside it ``engine.<passport>.json``, which is compared first."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge_sdk import errors
from edge_sdk.engines import passport
from edge_sdk.engines.nvidia import Compiled
from edge_sdk.records.passport import SCHEMA, EnginePassport, Passport

MAX_PASSPORT_BYTES = 64 * 1024
_REMEDY = "build one here: edge-sdk compile BUNDLE --backend tensorrt"


def plan_name(token: str) -> str:
    """Gives the name of an engine's file."""
    return f"engine.{token}.plan"


def passport_name(token: str) -> str:
    """Gives the name of the file with an engine's passport."""
    return f"engine.{token}.json"


def timing_name(token: str) -> str:
    """Gives the name of the compiler's timing cache."""
    return f"timing.{token}.cache"


def passport_from_bytes(payload: bytes, *, source: str) -> EnginePassport:
    """Gives the passport in `payload`; raises BundleError when it is none, or of a newer schema."""
    try:
        schema = msgspec.json.decode(payload, type=_Schema).schema
        if schema > SCHEMA:
            raise errors.BundleError(
                f"{source} has schema {schema}, this edge_sdk reads up to {SCHEMA}; update edge_sdk here"
            )
        return msgspec.json.decode(payload, type=EnginePassport)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BundleError(f"{source} is not an engine's passport: {error}; {_REMEDY}") from error


def read_engine_passport(plan: Path) -> EnginePassport:
    """Gives the passport that lies beside the engine file `plan`; not a byte of the engine is read.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    file = plan.with_suffix(".json")
    if not file.is_file() or file.is_symlink():
        raise errors.BundleError(f"{plan} has no {file.name} that says which machine it is for; {_REMEDY}")
    if file.stat().st_size > MAX_PASSPORT_BYTES:
        raise errors.BundleError(f"{file} has {file.stat().st_size} bytes; a passport has at most {MAX_PASSPORT_BYTES}")
    return passport_from_bytes(file.read_bytes(), source=str(file))


def read_plan(plan: Path, *, sha256: str, size_bytes: int) -> bytes:
    """Gives an engine's bytes once their size and SHA-256 are right: what is checked is what is used.

    Raises:
        BundleError: the file is missing or its bytes are others.
    """
    if not plan.is_file() or plan.stat().st_size != size_bytes:
        got = plan.stat().st_size if plan.is_file() else "no"
        raise errors.BundleError(f"{plan} has {got} bytes, its passport says {size_bytes}; copy it again or {_REMEDY}")
    content = plan.read_bytes()
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise errors.BundleError(
            f"{plan} does not match its passport: SHA-256 {got[:16]}..., expected {sha256[:16]}...; "
            f"it was damaged after it was built, copy it again or {_REMEDY}"
        )
    return content


def find_plan(folder: Path, names: Iterable[str], here: Passport) -> Path:
    """Gives the engine of a bundle that may run here; no engine's bytes are read.

    Args:
        folder: of the bundle.
        names: of its files, as its manifest lists them.
        here: this machine.

    Raises:
        BundleError: none may; the message compares the nearest one field by field.
    """
    listed = set(names)
    plans = sorted(name for name in listed if name.startswith("engine.") and name.endswith(".plan"))
    mine = [folder / name for name in plans if f"{name.removesuffix('.plan')}.json" in listed]
    if not mine:
        found = f"it has {', '.join(plans)}, without the passport of a TensorRT engine" if plans else "it has none"
        raise errors.BundleError(f"{folder} holds no TensorRT engine for this machine: {found}; {_REMEDY}")
    ranked = sorted((passport.mismatches(read_engine_passport(plan), here), plan) for plan in mine)
    differences, nearest = ranked[0]
    if differences:
        try:
            passport.check_passport(read_engine_passport(nearest), here)
        except errors.BundleError as error:
            raise errors.BundleError(f"{nearest.name}: {error}") from error
    return nearest


def files_from_compiled(compiled: Compiled) -> dict[str, bytes]:
    """Gives the files of a build by name: the engine, and its passport and timing cache where it has them."""
    files = {plan_name(compiled.target): compiled.plan}
    if compiled.passport is not None:
        files[passport_name(compiled.target)] = msgspec.json.encode(compiled.passport, order="sorted")
    if compiled.timing_cache:
        files[timing_name(compiled.target)] = compiled.timing_cache
    return files


def read_timing_cache(folder: Path, here: Passport) -> bytes:
    """Gives the timing cache of an earlier build on this very machine and driver; empty when there is none.

    What was measured holds for one GPU, driver and TensorRT; another's would choose the wrong kernels.
    """
    file, plan = folder / timing_name(here.token()), folder / plan_name(here.token())
    if not file.is_file() or not plan.with_suffix(".json").is_file():
        return b""
    built_on = read_engine_passport(plan).built_on
    is_same = msgspec.structs.replace(built_on, memory_bytes=here.memory_bytes) == here
    return file.read_bytes() if is_same else b""


class _Schema(msgspec.Struct):
    schema: int
