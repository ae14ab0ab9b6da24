"""The whole of compress on a tiny network: the report's figures, the exported file, refusals."""

import copy

import msgspec
import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'edge_sdk[torch]')")
pytest.importorskip("torch_pruning", reason="torch-pruning is not installed (pip install 'edge_sdk[torch]')")

import compress_nets as nets  # noqa: E402 - needs torch

from edge_sdk import errors  # noqa: E402
from edge_sdk.engines import ort  # noqa: E402
from edge_sdk.host.compress import export, measure, recipe, sparsity  # noqa: E402
from edge_sdk.host.compress.report import UNCOMPRESSED, UNDISTILLED, Report  # noqa: E402
from edge_sdk.host.compress.settings import CompressSettings  # noqa: E402

QUICK = CompressSettings(steps=15, batch=32, rate=5e-3, threads=1, exporter="classic")
NO_STEPS = msgspec.structs.replace(QUICK, steps=0)


def compressed(net, settings, **options):
    train, evaluate = nets.samples(256, seed=1), nets.samples(200, seed=2)
    return recipe.compressed(net, train, evaluate, settings, spec=nets.SPEC, **options)


def outputs(content, images):
    return ort.runner_from_model(content, threads=1)({"image": images})["logits"]


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_pruning_reports_before_and_after_and_leaves_the_network_alone():
    net = nets.trained_net()
    before = state(net)
    made = compressed(net, msgspec.structs.replace(QUICK, prune=0.5))
    report = made.report
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert report.pruned == dict.fromkeys(("0", "2.first", "2.second"), (32, 16))
    assert report.after.parameters < report.before.parameters / 2
    assert report.after.macs < report.before.macs / 2
    assert report.after.onnx_bytes == len(made.content) < report.before.onnx_bytes
    assert report.before.top1.value > 0.9
    assert report.after.top1.value > 0.8
    assert report.untuned_top1.value < report.after.top1.value
    assert report.before.latency_ms > 0
    assert report.speedup_ratio == pytest.approx(report.before.latency_ms / report.after.latency_ms)
    assert report.steps == 15
    assert len(report.verdict) == 1


def test_the_exported_file_says_what_the_report_says():
    made = compressed(nets.trained_net(), msgspec.structs.replace(QUICK, prune=0.5))
    evaluate = nets.samples(200, seed=2)
    right = outputs(made.content, evaluate.inputs(slice(None))).argmax(1) == evaluate.labels
    assert right.mean() == pytest.approx(made.report.after.top1.value)
    onnx.checker.check_model(made.content, full_check=True)


@pytest.mark.parametrize("exporter", ["dynamo", "classic"])
def test_the_batch_axis_is_free_with_either_exporter(exporter):
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install 'edge_sdk[torch]')")
    net = nets.trained_net()
    images = nets.samples(7).inputs(slice(None))
    made = export.onnx_from_net(net, nets.SPEC, images[:3], exporter)
    assert made.exporter == exporter
    for count in (1, 7):
        with torch.no_grad():
            expected = net(torch.from_numpy(images[:count])).numpy()
        np.testing.assert_allclose(outputs(made.content, images[:count]), expected, atol=1e-4)
    graph = onnx.load_from_string(made.content)
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert b"compress_nets" not in made.content, "the author's paths went into the file"


def test_2_to_4_is_in_the_exported_weights():
    made = compressed(nets.trained_net(), msgspec.structs.replace(QUICK, sparsity="2:4", target="orin-nano"))
    assert set(made.report.dense) == {"0"}
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load_from_string(made.content).graph.initializer}
    thin = [w for w in weights.values() if w.ndim > 1 and w.shape[1] > 1]
    assert len(thin) == len(made.report.sparse) == 3
    assert all(sparsity.has_pattern(torch.from_numpy(w.copy())) for w in thin)
    assert made.report.after.nonzero_parameters < 0.6 * made.report.after.parameters
    assert made.report.helped == {"sparsity": None}


def test_compare_trains_each_plain_control():
    settings = msgspec.structs.replace(QUICK, prune=0.5, distill=True, compare=True)
    report = compressed(nets.trained_net(), settings).report
    assert [control.name for control in report.controls] == [UNDISTILLED, UNCOMPRESSED]
    plain = compressed(nets.trained_net(), msgspec.structs.replace(QUICK, prune=0.5)).report
    assert report.controls[0].top1 == plain.after.top1, "the control is not what plain training gives"
    assert report.helped["distill"] in (True, False)


def test_a_teacher_of_ones_own():
    student = nets.fresh_net(16)
    made = compressed(student, msgspec.structs.replace(QUICK, distill=True, steps=30), teacher=nets.trained_net())
    assert made.report.after.top1.value > made.report.before.top1.value
    assert made.report.helped == {"distill": None}


def test_transfer_to_other_classes():
    net = nets.trained_net()
    train, evaluate = nets.samples(256, seed=1), nets.samples(200, seed=2)
    for data in (train, evaluate):
        data.labels[:] = data.labels // 2
    settings = msgspec.structs.replace(QUICK, new_head=2, freeze=True, steps=30)
    made = recipe.compressed(net, train, evaluate, settings, spec=nets.SPEC)
    assert made.report.new_head == "4"
    assert made.report.before.top1 is None
    assert made.report.difference_points is None
    assert made.report.helped == {"new_head": True}
    assert outputs(made.content, evaluate.inputs(slice(0, 5))).shape == (5, 2)


def test_without_anything_to_do_the_network_is_exported_as_it_came():
    made = compressed(nets.trained_net(), NO_STEPS)
    assert made.report.before.top1 == made.report.after.top1
    assert made.report.cpu_s == 0
    assert "as it came" in made.report.verdict[0]


def test_the_same_seed_gives_the_same_file():
    settings = msgspec.structs.replace(QUICK, prune=0.5)
    assert compressed(nets.trained_net(), settings).content == compressed(nets.trained_net(), settings).content


def test_the_report_is_a_json_document():
    report = compressed(nets.trained_net(), msgspec.structs.replace(NO_STEPS, prune=0.5)).report
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_the_threads_of_torch_are_given_back():
    before = torch.get_num_threads()
    compressed(nets.trained_net(), NO_STEPS)
    assert torch.get_num_threads() == before


def test_labels_outside_the_classes_are_refused_before_any_training():
    train, evaluate = nets.samples(64, seed=1), nets.samples(64, seed=2)
    train.labels[5] = nets.CLASSES
    told = []
    with pytest.raises(errors.DataError, match="sample 5 of data of seed 1 has the label 4"):
        recipe.compressed(
            nets.trained_net(), train, evaluate, QUICK, spec=nets.SPEC, progress=lambda *step: told.append(step)
        )
    assert told == []


def test_evaluation_samples_in_the_training_data_are_refused():
    data = nets.samples(64, seed=1)
    with pytest.raises(errors.DataError, match="are the same"):
        recipe.compressed(nets.trained_net(), data, nets.samples(64, seed=1), QUICK, spec=nets.SPEC)


def test_a_teacher_with_other_classes_is_refused():
    settings = msgspec.structs.replace(QUICK, distill=True)
    with pytest.raises(errors.UsageError, match="teacher gives 9 classes"):
        compressed(nets.trained_net(), settings, teacher=nets.fresh_net(classes=9))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(errors.UsageError, match="no CUDA device"):
        compressed(nets.trained_net(), msgspec.structs.replace(QUICK, device="cuda"))


def test_a_network_that_no_exporter_takes_is_refused_in_their_words():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nets.fresh_net(16)

        def forward(self, x):
            if torch.jit.is_tracing() or torch.compiler.is_compiling():
                raise RuntimeError("not to be traced")
            return self.inner(x)

    with pytest.raises(errors.ModelError, match="classic exporter refuses.*not to be traced"):
        export.onnx_from_net(Counting(), nets.SPEC, nets.samples(3).inputs(slice(None)), "classic")


def test_an_export_that_computes_something_else_is_refused():
    class Branching(torch.nn.Module):
        """Takes another way for one sample than for several: a trace keeps only one of them."""

        def __init__(self):
            super().__init__()
            self.inner = nets.fresh_net(16)

        def forward(self, x):
            return self.inner(x) if len(x) > 1 else self.inner(x) * 2

    with pytest.raises(errors.ModelError, match="differ from torch's"):
        export.onnx_from_net(Branching().eval(), nets.SPEC, nets.samples(3).inputs(slice(None)), "classic")


def test_latencies_take_turns_and_tell_a_slow_network_from_a_fast_one():
    class Ticks:
        def __init__(self):
            self.now = 0

        def tick_ns(self):
            self.now += 1_000_000
            return self.now

    sample = nets.samples(1).inputs(slice(None))
    content = export.onnx_from_net(nets.fresh_net(16), nets.SPEC, sample, "classic").content
    found = measure.latencies(content, content, "image", sample, Ticks())
    assert found.speedup_ratio == 1.0
    assert found.before_ms == 1.0
    assert found.rounds >= 20


def test_a_network_is_not_changed_by_a_refused_run():
    net = nets.trained_net()
    net.train()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(errors.UsageError):
        compressed(net, msgspec.structs.replace(QUICK, prune=2.0))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
