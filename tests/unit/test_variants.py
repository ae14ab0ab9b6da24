"""Which form of an INT8 bundle runs on a CPU: checked against the golden samples, timed, remembered."""

import hashlib
import io
import re

import msgspec
import numpy as np
import onnx
import pytest
from host_graphs import constant, graph, initializer, node

import edge_sdk
from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.engines import bundled, golden, ort, registry, remembered, variants
from edge_sdk.engines.engine import Result
from edge_sdk.host.graph import lowering, placement, qdq
from edge_sdk.host.graph import model as models
from edge_sdk.host.pack import golden as packing
from edge_sdk.records import bundle
from edge_sdk.records.timings import Timings
from edge_sdk.wire import bundles

WIDTH = 32


def net(*, is_depthwise, blocks=3, side=16):
    """A residual net, or one of depthwise and pointwise convolutions, of which integer kernels gain nothing."""
    rng = np.random.default_rng(0)
    weights, nodes = [], []

    def conv(x, name, channels_in, channels, kernel, group=1):
        spread = np.sqrt(2 / (channels_in // group * kernel**2))
        shape = (channels, channels_in // group, kernel, kernel)
        weights.append(constant(f"{name}.w", (rng.normal(size=shape) * spread).astype(np.float32)))
        weights.append(constant(f"{name}.b", (rng.normal(size=channels) * 0.05).astype(np.float32)))
        pads = [kernel // 2] * 4
        nodes.append(node("Conv", [x, f"{name}.w", f"{name}.b"], [name], name, pads=pads, group=group))
        return name

    def relu(x):
        nodes.append(node("Relu", [x], [f"{x}.relu"], f"{x}.relu"))
        return f"{x}.relu"

    x = relu(conv("image", "stem", 3, WIDTH, 3))
    for block in range(blocks):
        if is_depthwise:
            x = relu(conv(x, f"{block}.depth", WIDTH, WIDTH, 3, group=WIDTH))
            x = relu(conv(x, f"{block}.point", WIDTH, WIDTH, 1))
        else:
            inner = relu(conv(x, f"{block}.a", WIDTH, WIDTH, 3))
            nodes.append(node("Add", [conv(inner, f"{block}.b", WIDTH, WIDTH, 3), x], [f"{block}.sum"], f"{block}.sum"))
            x = relu(f"{block}.sum")
    nodes.append(node("GlobalAveragePool", [x], ["pooled"], "pool"))
    nodes.append(node("Flatten", ["pooled"], ["flat"], "flatten"))
    weights.append(constant("head.w", rng.normal(size=(10, WIDTH)).astype(np.float32) * np.float32(0.2)))
    weights.append(constant("head.b", np.zeros(10, np.float32)))
    nodes.append(node("Gemm", ["flat", "head.w", "head.b"], ["logits"], "head", transB=1))
    return graph(nodes, weights, {"image": ["N", 3, side, side]}, {"logits": ["N", 10]})


def images(count, seed, side=16):
    return np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32)


def int8_of(proto, feeds):
    model = models.model_from_proto(proto, 17)
    placed = placement.placement_from_model(model)
    inner = [name for name in placed.tensors if name != "image"]
    seen = ort.runner_from_model(qdq.with_outputs(model, inner), inner)(feeds)
    scales = {name: float(np.abs(values).max()) / 127 for name, values in {**seen, **feeds}.items()}
    return models.serialized(qdq.quantized_proto(model, placed, scales))


def files_of(proto, folder):
    """The model files and golden samples that the builder would write."""
    feeds = {"image": images(16, 1)}
    int8 = int8_of(proto, feeds)
    lowered = lowering.write_lowered(int8, [feeds], folder)
    picked = [{"image": one[None]} for one in images(8, 2)]
    run_float, run_int8 = (ort.runner_from_model(model) for model in (proto.SerializeToString(), int8))
    arrays = packing.golden_arrays(
        {"image": images(8, 2)},
        {"image": images(8, 2)},
        packing.joined([run_float(one) for one in picked]),
        packing.joined([run_int8(one) for one in picked]),
    )
    return {
        bundles.FLOAT_MODEL: proto.SerializeToString(),
        bundles.INT8_MODEL: int8,
        bundles.CPU_MODEL: lowered["percentile"].read_bytes(),
        bundles.GOLDEN: packing.npz_bytes(arrays),
        bundles.CALIBRATION: b"{}",
    }


@pytest.fixture(scope="module")
def residual_files(tmp_path_factory):
    return files_of(net(is_depthwise=False), tmp_path_factory.mktemp("lowered"))


@pytest.fixture
def write(tmp_path):
    def written(files, *, name="net", precision="int8"):
        score = bundle.Score(0.9, 0.8, 1.0)
        proto = onnx.load_model_from_string(files[bundles.FLOAT_MODEL])
        inputs, outputs = ort.specs_from_model(proto.SerializeToString())
        manifest = bundle.Manifest(
            schema=bundle.SCHEMA, name=name, version="1", counter=0, sdk="0", precision=precision, inputs=inputs,
            outputs=outputs, preprocess={}, classes=(),
            calibration=hashlib.sha256(files[bundles.CALIBRATION]).hexdigest(),
            verdict=bundle.Verdict("top-1", 10, score, score, score, 0.0, 0.5, True),
            files={file: bundles.file_entry(content) for file, content in files.items()},
        )  # fmt: skip
        return bundles.write_bundle(tmp_path / f"{name}.edge", manifest, files)

    return written


def without(files, *names):
    return {name: content for name, content in files.items() if name not in names}


def test_integer_kernels_are_chosen_where_they_are_faster_and_said_to_run(write, residual_files):
    checked = write(residual_files)

    choice = bundled.chosen(checked, threads=1)

    assert choice.variant == "lowered", choice
    assert choice.best_ns["float"] >= 1.5 * choice.best_ns["lowered"]
    assert not choice.refused
    with edge_sdk.open_engine(checked.path, threads=1) as engine:
        assert engine.name == "onnxruntime:lowered"
        assert engine.infer({"image": images(1, 5)})["logits"].shape == (1, 10)


def test_on_depthwise_convolutions_the_timing_decides_otherwise(write, tmp_path):
    """ONNX Runtime's float kernels are near or ahead of its integer kernels there, and INT8 as it is far behind."""
    choice = bundled.chosen(write(files_of(net(is_depthwise=True), tmp_path)), threads=1)

    assert choice.best_ns["float"] < choice.best_ns["int8"]
    assert choice.best_ns[choice.variant] <= variants.GAIN * min(choice.best_ns.values())
    assert choice.best_ns["float"] < 1.5 * choice.best_ns["lowered"]


@pytest.mark.parametrize(
    ("best_ns", "expected"),
    [
        ({"int8": 100, "lowered": 95, "float": 99}, "int8"),
        ({"int8": 100, "lowered": 80, "float": 90}, "lowered"),
        ({"int8": 300, "lowered": 104, "float": 100}, "lowered"),
        ({"int8": 300, "lowered": 160, "float": 100}, "float"),
        ({"int8": 120, "float": 100}, "float"),
    ],
)
def test_what_is_hardly_slower_but_nearer_to_the_judged_numbers_runs(best_ns, expected):
    assert variants._fastest(best_ns) == expected


@pytest.mark.parametrize("variant", ["int8", "lowered", "float"])
def test_a_variant_that_is_asked_for_runs(write, residual_files, variant):
    checked = write(residual_files)

    with edge_sdk.open_engine(checked.path, variant=variant) as engine:
        given = engine.infer({"image": images(1, 5)})["logits"]

    assert engine.name == f"onnxruntime:{variant}"
    wanted = ort.runner_from_model(str(checked.file(variants.FILES[variant])))({"image": images(1, 5)})["logits"]
    assert np.array_equal(given, wanted)


def test_every_variant_keeps_what_is_promised_of_its_numbers(write, residual_files):
    checked = write(residual_files)
    known = golden.read_golden(checked.file(bundles.GOLDEN))
    allowed = known.tolerances["logits"]

    for variant, precision, factor in (("int8", "int8", 1.0), ("lowered", "int8", 2.0)):
        with edge_sdk.open_engine(checked.path, variant=variant) as engine:
            for feeds, answer in zip(known.feeds, known.answers[precision], strict=True):
                off = np.abs(engine.infer(feeds)["logits"] - answer["logits"]).max()
                assert off <= factor * allowed * 1.001


def test_a_form_that_misses_the_golden_answers_does_not_run(write, residual_files):
    damaged = onnx.load_model_from_string(residual_files[bundles.CPU_MODEL])
    biases = initializer(damaged, "logits_cpu_bias").copy()
    biases[3] += 2**20
    next(t for t in damaged.graph.initializer if t.name == "logits_cpu_bias").CopyFrom(
        constant("logits_cpu_bias", biases)
    )
    checked = write(residual_files | {bundles.CPU_MODEL: damaged.SerializeToString()})

    choice = bundled.chosen(checked, threads=1)

    assert choice.variant != "lowered"
    assert re.match(r"golden sample 0: output 'logits' is \S+ off, \S+ allowed", choice.refused["lowered"])
    with pytest.raises(errors.EngineError, match="gives other answers here than its golden samples say"):
        bundled.engine_from_bundle(checked, variant="lowered")


def test_a_model_that_cannot_be_loaded_is_out_of_the_question_only_for_itself(write, residual_files):
    checked = write(residual_files | {bundles.CPU_MODEL: b"no model"})

    choice = bundled.chosen(checked)

    assert choice.variant in ("int8", "float")
    assert "cannot load" in choice.refused["lowered"]


def test_left_to_itself_it_takes_one_thread_or_all(write, residual_files):
    checked = write(residual_files)

    assert bundled.chosen(checked).threads in (0, 1)
    assert bundled.chosen(checked, threads=2).threads == 2
    assert bundled.chosen(checked, variant="lowered").threads == 0


class Timed:
    """An engine whose runs take so many nanoseconds."""

    def __init__(self, spent_ns):
        self.spent_ns = spent_ns

    def run(self, feeds):
        return Result({}, Timings(0, 0, 0, self.spent_ns, 0))


@pytest.mark.parametrize(
    ("everyone_ns", "gain", "threads"),
    [
        (100, 1.0, 1),
        (99, 1.0, 0),
        (99, variants.AWAKE_GAIN, 1),  # that little more speed is not worth the power of all cores
        (80, variants.AWAKE_GAIN, 0),
    ],
)
def test_every_core_is_taken_where_it_gains_enough(everyone_ns, gain, threads):
    known = golden.Golden(({},), {}, {})
    found = variants._fewest_threads(Timed(everyone_ns), Timed(100), known, SystemClock(), gain=gain)
    assert found == threads


def test_cores_are_kept_awake_only_for_whoever_is_in_this_process(write, residual_files, tmp_path, monkeypatch):
    checked, folder, opened = write(residual_files), tmp_path / "variants", []
    open_backend = registry.open_backend
    monkeypatch.setattr(
        registry, "open_backend", lambda *names, **more: opened.append(more["options"]) or open_backend(*names, **more)
    )
    monkeypatch.setattr(variants, "_fewest_threads", lambda *_, **__: 0)
    served = bundled.chosen(checked, memory=folder)
    assert not served.is_awake
    assert not any(options.get("awake") for options in opened)
    own = bundled.chosen(checked, memory=folder, is_alone=True)
    assert (own.threads, own.is_awake, own.is_remembered) == (0, True, False)
    assert not bundled.chosen(checked, memory=folder).is_awake
    with edge_sdk.open_engine(checked.path, memory=folder) as engine:
        assert opened[-1] == {"threads": 0, "awake": 1}
        assert engine.infer({"image": images(1, 5)})["logits"].shape == (1, 10)
    with edge_sdk.open_engine(checked.path, threads=2, memory=folder):
        assert opened[-1] == {"threads": 2}


def test_the_choice_is_remembered_by_bundle_and_threads(write, residual_files, tmp_path):
    checked, folder = write(residual_files), tmp_path / "state" / "variants"

    first = bundled.chosen(checked, threads=1, memory=folder)
    again = bundled.chosen(checked, threads=1, memory=folder)

    assert not first.is_remembered
    assert again == msgspec.structs.replace(first, is_remembered=True)
    assert variants.recalled(checked, backend="onnxruntime", threads=1, memory=folder) == again
    assert variants.recalled(checked, backend="onnxruntime", threads=2, memory=folder) is None
    assert len(list(folder.iterdir())) == 1


def test_a_remembered_choice_is_taken_without_loading_anything(write, residual_files, tmp_path):
    checked = write(residual_files)
    bundled.chosen(checked, threads=1, memory=tmp_path / "v")
    checked.file(bundles.FLOAT_MODEL).write_bytes(b"gone")

    assert bundled.chosen(checked, threads=1, memory=tmp_path / "v").is_remembered


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"key": 1}'])
def test_a_damaged_memory_is_measured_anew(write, residual_files, tmp_path, content):
    checked = write(residual_files)
    bundled.chosen(checked, threads=1, memory=tmp_path / "v")
    (file,) = (tmp_path / "v").iterdir()
    file.write_bytes(content)

    choice = bundled.chosen(checked, threads=1, memory=tmp_path / "v")

    assert not choice.is_remembered
    assert len(choice.best_ns) == 3


def test_a_memory_that_cannot_be_written_only_costs_time(write, residual_files, tmp_path):
    (tmp_path / "file").write_text("in the way")

    assert bundled.chosen(write(residual_files), memory=tmp_path / "file").variant in variants.FILES


def test_without_golden_samples_the_judged_model_runs(write, residual_files):
    choice = bundled.chosen(write(without(residual_files, bundles.GOLDEN)))

    assert choice.variant == "int8"
    assert choice.refused["lowered"] == "the bundle has no golden samples"


def test_a_bundle_of_before_has_two_forms(write, residual_files):
    checked = write(without(residual_files, bundles.CPU_MODEL))

    assert set(bundled.chosen(checked).best_ns) == {"int8", "float"}
    with pytest.raises(errors.UsageError, match=r"holds no model.cpu.onnx; ask for int8, float or auto"):
        bundled.engine_from_bundle(checked, variant="lowered")


def test_a_float_bundle_has_nothing_to_choose(write, residual_files):
    checked = write(without(residual_files, bundles.INT8_MODEL, bundles.CPU_MODEL), precision="float")

    assert bundled.chosen(checked) is None
    assert bundled.engine_from_bundle(checked).name == "onnxruntime"
    assert bundled.engine_from_bundle(checked, variant="float").name == "onnxruntime"
    with pytest.raises(errors.UsageError, match="a bundle in float has one form of a model only, and not 'int8'"):
        bundled.engine_from_bundle(checked, variant="int8")


def test_an_unknown_variant_names_the_nearest(write, residual_files):
    with pytest.raises(errors.UsageError, match=r"no variant 'lowred' \(did you mean 'lowered'\?\)"):
        bundled.engine_from_bundle(write(residual_files), variant="lowred")


def test_a_golden_file_of_something_else_is_refused(write, residual_files):
    content = io.BytesIO()
    np.savez(content, nothing=np.zeros(3))
    checked = write(residual_files | {bundles.GOLDEN: content.getvalue()})

    with pytest.raises(errors.BundleError, match="is not what `edge-sdk build` writes: it holds no inputs"):
        bundled.chosen(checked)


def test_only_back_ends_on_the_cpu_choose():
    assert registry.can_choose("onnxruntime")
    assert not registry.can_choose("tensorrt")
    assert not registry.can_choose("own.module:Backend")


def test_the_processor_is_named_as_the_kernel_does(tmp_path):
    (tmp_path / "proc").mkdir()
    assert remembered.cpu_name(tmp_path) == "unknown"
    rows = "processor\t: 0\nmodel name\t: Fast CPU\n\nprocessor\t: 1\nmodel name\t: Fast CPU\n"
    (tmp_path / "proc/cpuinfo").write_text(rows)
    assert remembered.cpu_name(tmp_path) == "Fast CPU"
    (tmp_path / "proc/cpuinfo").write_text("CPU implementer\t: 0x41\nCPU part\t: 0xd42\n")
    assert remembered.cpu_name(tmp_path) == "0x41, 0xd42"
