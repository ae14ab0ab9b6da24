"""Passports: read on a board, compared field by field, with both values and the remedy in the message."""

import msgspec
import pytest

from edge_sdk import errors
from edge_sdk.engines import modules, passport
from edge_sdk.engines.passport import Gpu
from edge_sdk.records.passport import EnginePassport, Passport
from edge_sdk.testing.board import FakeBoard

ORIN_NX = Passport(
    module="p3767-0000",
    compute_capability="8.7",
    sm_count=8,
    dla_cores=2,
    l4t="36.4.3",
    tensorrt="10.3.0.26",
    cuda="12.6",
    memory_bytes=16 << 30,
)
PC = Passport(
    module="NVIDIA RTX A2000",
    compute_capability="8.6",
    sm_count=26,
    tensorrt="10.13.3.9",
    cuda="13.0",
    memory_bytes=12 << 30,
)
GPU = Gpu("Orin", "8.7", 8, 7 << 30, "12.6", is_integrated=True, can_map=True)


def engine(built_on=ORIN_NX, **fields):
    made = EnginePassport(schema=1, built_on=built_on, model="0" * 64, sha256="1" * 64, size_bytes=10)
    return msgspec.structs.replace(made, **fields)


def refusal(made, here):
    with pytest.raises(errors.BundleError) as caught:
        passport.check_passport(made, here)
    return str(caught.value)


def test_an_engine_runs_where_it_was_built():
    passport.check_passport(engine(), ORIN_NX)
    passport.check_passport(engine(PC), PC)


@pytest.mark.parametrize(("field", "value", "words"), [
    ("module", "p3767-0003", "module: built for p3767-0000 (Jetson Orin NX 16 GB), here is p3767-0003 (Jetson Orin Nano)"),
    ("module", None, "here is unknown"),
    ("compute_capability", "11.0", "compute capability: built for 8.7, here is 11.0"),
    ("sm_count", 4, "streaming multiprocessors: built for 8, here is 4"),
    ("sm_count", None, "streaming multiprocessors: built for 8, here is unknown"),
    ("tensorrt", "10.3.0.30", "TensorRT: built with 10.3.0.26, here is 10.3.0.30"),
    ("tensorrt", None, "TensorRT: built with 10.3.0.26, here is None"),
    ("cuda", "13.2", "CUDA: built for 12.6, here is 13.2"),
    ("l4t", "39.2.0", "L4T: built for 36.4.3 (JetPack 6.2), here is 39.2.0 (JetPack 7.2)"),
    ("memory_bytes", 8 << 30, "memory: built with 16.0 GiB, here is 8.0 GiB"),
])  # fmt: skip
def test_every_field_that_matters_is_compared_and_both_values_are_named(field, value, words):
    text = refusal(engine(), msgspec.structs.replace(ORIN_NX, **{field: value}))
    assert words in text
    assert "edge-sdk compile BUNDLE --backend tensorrt" in text


@pytest.mark.parametrize(("field", "value"), [("l4t", "36.4.7"), ("cuda", "12.8"), ("memory_bytes", 15.6 * 2**30)])
def test_what_an_engine_does_not_depend_on_may_differ(field, value):
    passport.check_passport(engine(), msgspec.structs.replace(ORIN_NX, **{field: value}))


def test_all_differences_are_named_at_once():
    text = refusal(engine(), PC)
    assert all(
        label in text for label in ("module", "compute capability", "multiprocessors", "TensorRT", "CUDA", "L4T")
    )


def test_one_compute_capability_is_not_one_device():
    nano = msgspec.structs.replace(ORIN_NX, module="p3767-0004", sm_count=4, dla_cores=0, memory_bytes=4 << 30)
    assert nano.compute_capability == ORIN_NX.compute_capability
    assert passport.mismatches(engine(), nano) == 3


@pytest.mark.parametrize(("built", "here", "is_step"), [
    ("8.6.2.3", "10.3.0.26", True), ("10.3.0.26", "11.4.1.1", True), ("8.6.2.3", "11.4.1.1", False),
    ("11.4.1.1", "10.3.0.26", False), ("10.3.0.26", "10.7.0.1", True),
])  # fmt: skip
def test_version_compatible_engines_cross_some_versions_but_carry_host_code(built, here, is_step):
    made = engine(msgspec.structs.replace(PC, tensorrt=built), version_compatible=True)
    text = refusal(made, msgspec.structs.replace(PC, tensorrt=here))
    assert ("cannot go from" not in text) == is_step
    assert "carries host code, which is never allowed" in text


def test_hardware_compatible_engines_move_between_gpus_but_not_on_jetpack():
    made = engine(PC, hardware_compatible=True)
    passport.check_passport(made, msgspec.structs.replace(PC, compute_capability="8.9", sm_count=60, module="other"))
    made = engine(ORIN_NX, hardware_compatible=True)
    assert "compute capability" in refusal(made, msgspec.structs.replace(ORIN_NX, compute_capability="11.0"))


def test_an_engine_for_a_dla_needs_that_core():
    one_core = msgspec.structs.replace(ORIN_NX, dla_cores=1)
    passport.check_passport(engine(dla_core=1), ORIN_NX)
    passport.check_passport(engine(dla_core=0), one_core)
    assert "DLA: built for core 1 of 2, here are 1" in refusal(engine(dla_core=1), one_core)


def test_it_is_read_from_the_board(tmp_path):
    board = FakeBoard(tmp_path)
    board.become_orin_nano()
    board.write("proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    here = passport.read_passport(tmp_path, GPU, tensorrt="10.3.0.26")
    assert here == Passport(
        module="p3767-0005",  # not the carrier board p3768
        compute_capability="8.7",
        sm_count=8,
        dla_cores=0,
        l4t="36.4.3",
        tensorrt="10.3.0.26",
        cuda="12.6",
        memory_bytes=7 << 30,
    )


def test_a_pc_is_known_by_its_gpu(tmp_path):
    here = passport.read_passport(tmp_path, GPU._replace(name="NVIDIA RTX A2000"), tensorrt="10.13.3.9")
    assert (here.module, here.l4t, here.dla_cores) == ("NVIDIA RTX A2000", None, 0)


@pytest.mark.parametrize(("here", "name"), [
    (ORIN_NX, "p3767-0000-sm87x8-trt10.3.0.26"),
    (PC, "nvidia-rtx-a2000-sm86x26-trt10.13.3.9"),
    (msgspec.structs.replace(PC, module="../../etc/pässwd"), "etc-p-sswd-sm86x26-trt10.13.3.9"),
])  # fmt: skip
def test_the_name_of_a_file_holds_only_what_a_bundle_allows(here, name):
    assert here.token() == name


@pytest.mark.parametrize(("part", "tensorrt", "l4t", "words"), [
    ("p3767-0000", "10.3.0", "36.4.3", ""),
    ("p2888-0001", "8.5.2", "35.3.1", ""),
    ("p3701-0005", "11.4.1", "39.2.2", ""),
    ("p3767-0005", "10.3.0", "36.4.3", "has no DLA"),
    ("p3834-0008", "10.13.3", "38.4", "has no DLA"),
    ("p3701-0005", "10.16.2", "39.2.0", "has no DLA: 10.7 was the last"),
    ("p3701-0005", "11.3.0", "39.2.2", "has no DLA"),
    ("p3767-0000", "11.4.1", "39.2.2", "AGX Orin only"),
    ("p3701-0005", "11.4.1", "39.2.1", "needs JetPack 7.2.2"),
    (None, "10.3.0", None, "no Jetson module"),
])  # fmt: skip
def test_the_dla_is_used_where_module_and_tensorrt_have_it_only(part, tensorrt, l4t, words):
    reason = modules.dla_refusal(part, tensorrt=tensorrt, l4t=l4t)
    assert (words in reason) if words else (reason == "")


def test_every_row_of_the_tables_says_where_it_comes_from():
    assert all(row.source for row in (*modules.MODULES, *modules.RELEASES))
    parts = [row.part for row in modules.MODULES]
    assert all(modules.find_module(part).part == part for part in parts)  # no row hides a later one
    releases = [row.l4t for row in modules.RELEASES]
    assert all(row.jetpack in modules.jetpack_text(row.l4t) for row in modules.RELEASES)
    assert len(releases) == len(set(releases))
