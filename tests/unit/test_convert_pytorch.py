"""Torch modules and exported programs -> ONNX that answers as torch does, with a free batch."""

import io
import re
import zipfile
from pathlib import Path

import host_graphs as hg
import numpy as np
import pytest
from convert_checks import refused

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.convert.source import onnx_from_source

torch = pytest.importorskip("torch", reason="torch is not installed (edge_sdk[torch])")
nets = pytest.importorskip("convert_nets")


def assert_answers_as(module, path, *arrays):
    specs, _ = ort.specs_from_model(str(path))
    got = ort.runner_from_model(str(path))(dict(zip([spec.name for spec in specs], arrays, strict=True)))
    with torch.no_grad():
        expected = module.eval()(*map(torch.from_numpy, arrays))
    values = expected.values() if isinstance(expected, dict) else expected
    for want, have in zip(values, got.values(), strict=True):
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-3, atol=1e-5)


def images(count):
    return np.random.default_rng(count).random((count, 3, 16, 16), np.float32)


@pytest.mark.parametrize(("function", "name"), [("net", "images"), ("named", "images"), ("renamed", "pixels")])
def test_a_function_gives_a_module_and_its_inputs(work, function, name):
    done = onnx_from_source(f"convert_nets:{function}", workdir=work)
    inputs, outputs = ort.specs_from_model(str(done.path))
    assert [(spec.name, spec.shape) for spec in inputs] == [(name, (None, 3, 16, 16))]
    assert [spec.name for spec in outputs] == ["scores", "features", "best"]
    assert done.origin == f"PyTorch {torch.__version__} module convert_nets:{function}"
    assert re.match(r"exported with opset 18; its outputs differ from torch's (by at most|not at all)", done.notes[0])
    for count in (1, 2, 5):
        assert_answers_as(nets.seeded(nets.Net), done.path, images(count))


def test_a_function_in_a_file_may_import_its_neighbours(tmp_path, work):
    (tmp_path / "neighbour.py").write_text("import torch\nINPUT = torch.ones(1, 4)\n")
    code = "import torch\nimport neighbour\ndef build(): return torch.nn.Linear(4, 2), neighbour.INPUT\n"
    (tmp_path / "my-nets.py").write_text(code)
    onnx_from_source(f"{tmp_path}/my-nets.py:build", workdir=work)


def test_float16_stays_float16(work):
    done = onnx_from_source("convert_nets:half", workdir=work)
    assert ort.specs_from_model(str(done.path))[0][0].dtype == "float16"


def test_a_state_beside_the_batch_keeps_its_own_axes(work):
    done = onnx_from_source("convert_nets:stateful", workdir=work)
    inputs, _ = ort.specs_from_model(str(done.path))
    assert [(spec.name, spec.shape) for spec in inputs] == [("sound", (None, 8)), ("state", (2, 1, 4))]
    assert_answers_as(nets.Stateful(), done.path, np.ones((3, 8), np.float32), np.ones((2, 1, 4), np.float32))


def test_a_module_that_needs_its_batch_keeps_it_and_says_so(work):
    done = onnx_from_source("convert_nets:writes_shapes", workdir=work)
    assert ort.specs_from_model(str(done.path))[0][0].shape == (1, 4)
    assert any(note.startswith("the batch is fixed at 1") for note in done.notes)
    assert_answers_as(lambda_module(nets.seeded(nets.WritesShapes)), done.path, np.ones((1, 4), np.float32))


def lambda_module(module):
    """Gives its one output as a tuple."""

    class Wrapped(torch.nn.Module):
        def forward(self, x):
            return (module(x),)

    return Wrapped()


def test_a_module_that_is_held_is_exported_as_it_is_and_left_as_it_was(work):
    module = nets.seeded(nets.Net).train()
    module.norm.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    done = onnx_from_source(module, inputs={"images": nets.IMAGE.numpy()}, workdir=work)
    assert done.origin.endswith("module Net")
    assert [part.training for part in (module, module.norm, module.dropout)] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert_answers_as(module, done.path, images(3))
    assert hg.files_below(work) == ["model.onnx"]


def test_a_module_by_its_name_takes_inputs_from_the_caller(work):
    done = onnx_from_source("convert_nets:MODULE", inputs=[nets.IMAGE.numpy()], workdir=work)
    assert_answers_as(nets.MODULE, done.path, images(2))


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        ("random", errors.ModelError, ["differently from torch", "random numbers"]),
        ("data_dependent", errors.ModelError, ["can't export", "data-dependent"]),
        ("bfloat", errors.ModelError, ["bfloat16"]),
        ("without_inputs", errors.UsageError, ["convert_nets:without_inputs needs example inputs", "inputs="]),
        ("no_module", errors.UsageError, ["gave a str", "torch.nn.Module"]),
        ("fails", errors.ModelError, ["no weights at /data/best.pt"]),
        ("nothing", errors.UsageError, ["has no 'nothing'"]),
    ],
)
def test_what_can_not_be_exported_says_why(work, function, kind, words):
    refused(f"convert_nets:{function}", work, *words, kind=kind)


def test_a_module_whose_input_is_not_used(work):
    refused(nets.Unused(), work, "input", inputs=[np.ones((1, 4), np.float32)])


def test_a_file_that_is_not_there_or_can_not_be_imported(tmp_path, work):
    refused(f"{tmp_path}/none.py:build", work, "none", kind=errors.UsageError)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    refused(f"{tmp_path}/broken.py:build", work, "no_such_package")


class TestExportedProgram:
    @pytest.fixture
    def program(self, tmp_path):
        shapes = {"images": {0: torch.export.Dim("batch")}}
        wide = torch.cat((nets.IMAGE, nets.IMAGE))
        path = tmp_path / "net.pt2"
        torch.export.save(torch.export.export(nets.seeded(nets.Net).eval(), (wide,), dynamic_shapes=shapes), path)
        return path

    def test_it_keeps_its_free_axes(self, program, work):
        done = onnx_from_source(program, workdir=work)
        assert ort.specs_from_model(str(done.path))[0][0].shape == (None, 3, 16, 16)
        assert done.origin.endswith("exported program net.pt2")
        assert_answers_as(nets.seeded(nets.Net), done.path, images(5))

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"whatever" * 100])
    def test_what_is_none(self, tmp_path, work, content):
        (tmp_path / "m.pt2").write_bytes(content)
        refused(tmp_path / "m.pt2", work, "not an exported program", "torch.export.save")

    def test_another_zip(self, tmp_path, work):
        with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
            archive.writestr("readme.txt", "hello")
        refused(tmp_path / "m.pt2", work, "can't read")

    @pytest.mark.parametrize("where", ["sample_inputs", "constant"])
    def test_code_in_it_does_not_run(self, program, tmp_path, work, where):
        rewritten = tmp_path / "evil.pt2"
        witness = tmp_path / "pwned"
        with zipfile.ZipFile(program) as source, zipfile.ZipFile(rewritten, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if where == "sample_inputs" and "sample_inputs" in name:
                    content = pickled(Touches(witness))
                target.writestr(name.replace("net/", "evil/", 1), content)
            if where == "constant":
                target.writestr("evil/data/constants/opaque_obj_0", pickled(Touches(witness)))
        refused(rewritten, work, "pickled objects" if where == "constant" else "can't read|weights_only|failed")
        assert not witness.exists()


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(thing):
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()
