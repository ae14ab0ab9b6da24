"""`edge-sdk compress`: files in, ONNX out, and nothing written when it is refused or stopped."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'edge_sdk[torch]')")
pytest.importorskip("torch_pruning", reason="torch-pruning is not installed (pip install 'edge_sdk[torch]')")

import compress_nets as nets  # noqa: E402 - needs torch

from edge_sdk import errors  # noqa: E402
from edge_sdk.cli import compress, main  # noqa: E402
from edge_sdk.host.compress import export, sources  # noqa: E402

HERE = Path(__file__).parent
SOURCE = """
import sys
sys.path.insert(0, {here!r})
import torch
import compress_nets as nets

def network():
    return nets.trained_net()

def broken():
    raise RuntimeError("the weights are gone")

def number():
    return 4

def not_finite():
    net = nets.trained_net()
    net[4].bias.data[0] = float("nan")
    return net

class Hidden(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 32, 3)
        self.head = torch.nn.Linear(32, 4)

    def forward(self, x):
        if torch.is_grad_enabled():
            raise RuntimeError("no way to look inside")
        return self.head(self.first(x).mean((2, 3)))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "theirs.py").write_text(SOURCE.format(here=str(HERE)))
    for name, seed, count in (("train", 1, 256), ("test", 2, 100)):
        images, labels = nets.corners(count, seed)
        np.savez(tmp_path / f"{name}.npz", image=images, labels=labels)
    return tmp_path


def command(folder, *options, source="theirs.py:network", output="out.onnx", train="train.npz"):
    return [
        "compress",
        f"{folder}/{source}",
        "--data",
        str(folder / train),
        "--evaluate",
        str(folder / "test.npz"),
        "-o",
        str(folder / output),
        "--threads=1",
        "--exporter=classic",
        "--batch=32",
        "--steps=10",
        *options,
    ]


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def refusal(folder, capsys, *options, **parts):
    """Runs a command that is to be refused: gives its message after checking that no file came or went."""
    before = files(folder)
    code = main.run(command(folder, *options, **parts))
    shown = capsys.readouterr()
    assert code == errors.UsageError.exit_code, shown.err
    assert shown.out == ""
    assert files(folder) == before
    return shown.err


def test_a_pruned_network_is_written_and_reported_as_json(folder, capsys):
    assert main.run(command(folder, "--prune=0.5", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["output"] == str(folder / "out.onnx")
    report = document["report"]
    assert report["after"]["onnx_bytes"] == (folder / "out.onnx").stat().st_size
    assert report["pruned"]["0"] == [32, 16]
    assert report["helped"].keys() == {"prune"}


def test_people_see_both_sides_the_controls_and_the_verdict(folder, capsys):
    assert main.run(command(folder, "--sparsity=2:4", "--distill", "--compare", "--target=orin-nano")) == 0
    text = capsys.readouterr().out
    for words in (
        "before",
        "after",
        "top-1",
        "MACs",
        "latency",
        "control: same compression",
        "left dense: 0",
        "Distillation",
    ):
        assert words in text
    assert "not measured here" in text


def test_folders_of_images_with_an_input_of_ones_own(folder, capsys):
    from PIL import Image

    for name, seed in (("train", 1), ("test", 2)):
        images, labels = nets.corners(64, seed, noise=0.3)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            target = folder / name / f"corner{label}" / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(image[0] * 127 + 64, 0, 255).astype(np.uint8)).save(target)
    (folder / "rules.toml").write_text("[image]\nscale = 0.01\nmean = 0.5\n")
    arguments = command(folder, "--input=image=1x8x8", f"--preprocess={folder}/rules.toml", "--json", train="train")
    arguments[arguments.index("--evaluate") + 1] = str(folder / "test")
    assert main.run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["report"]["samples"] == 64


def test_a_folder_does_not_tell_the_input(folder, capsys):
    (folder / "images").mkdir()
    assert "give --input" in refusal(folder, capsys, train="images")


@pytest.mark.parametrize("text", ["image", "image=", "=3x8", "image=3xx8", "image=0x8", "image=-1x8"])
def test_an_input_of_another_form_is_refused(text):
    with pytest.raises(errors.UsageError, match="NAME=CxHxW"):
        compress.parse_input(text)


@pytest.mark.parametrize(
    ("options", "parts", "says"),
    [
        (["--prune=0.95"], {}, "from 0 to 0.9"),
        (["--sparsity=2:4", "--target=nano"], {}, "no use on nano"),
        ([], {"output": "missing/out.onnx"}, "can't be written to"),
        ([], {"output": "out.bin"}, "should end in .onnx"),
        ([], {"source": "theirs.py:netwrok"}, "did you mean 'network'"),
        ([], {"source": "none.py:network"}, "there is no file"),
        ([], {"source": "theirs.py:broken"}, "the weights are gone"),
        ([], {"source": "theirs.py:number"}, "gave int; expected a torch.nn.Module"),
        ([], {"source": "theirs.py:not_finite"}, "NaN"),
        (["--prune=0.5"], {"source": "theirs.py:Hidden"}, "no way to look inside"),
        ([], {"train": "none.npz"}, "none.npz"),
        ([], {"train": "test.npz"}, "are the same"),
        (["--rate=1", "--weight-decay=1", "--new-head=2"], {}, "outside the classes 0 to 1"),
    ],
)
def test_what_can_not_be_done_is_refused_and_nothing_is_written(folder, capsys, options, parts, says):
    assert says in refusal(folder, capsys, *options, **parts)


def test_a_loss_that_is_not_finite_writes_nothing(folder, capsys):
    images, labels = nets.corners(64, 3)
    np.savez(folder / "huge.npz", image=images * np.float32(1e37), labels=labels)
    assert "the loss became" in refusal(folder, capsys, train="huge.npz")


def test_a_refused_run_leaves_an_older_output_as_it_was(folder, capsys):
    (folder / "out.onnx").write_bytes(b"from last week")
    refusal(folder, capsys, source="theirs.py:broken")
    assert (folder / "out.onnx").read_bytes() == b"from last week"


def test_an_older_output_is_replaced_whole(folder):
    (folder / "out.onnx").write_bytes(b"from last week")
    export.save(b"new", folder / "out.onnx")
    assert (folder / "out.onnx").read_bytes() == b"new"
    assert (folder / "out.onnx").stat().st_mode & 0o777 == 0o644
    assert not list(folder.glob(".out*"))


def test_ctrl_c_leaves_nothing_half_written(folder):
    script = folder / "slow.py"
    script.write_text(
        SOURCE.format(here=str(HERE))
        + textwrap.dedent(
            """
            class Slow(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = nets.trained_net()

                def forward(self, x):
                    if self.training:
                        print("training", file=sys.stderr, flush=True)
                    return self.inner(x)
            """
        )
    )
    before = files(folder)
    arguments = command(folder, source="slow.py:Slow")
    arguments[arguments.index("--steps=10")] = "--steps=1000000"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "edge_sdk", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(HERE.parents[1])},
    )
    deadline = time.monotonic() + 100
    for line in process.stderr:
        if line.strip() == "training" or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert files(folder) == before


def test_a_file_beside_the_source_can_be_imported(folder):
    (folder / "beside.py").write_text("WIDTH = 16\n")
    (folder / "uses.py").write_text(
        SOURCE.format(here=str(HERE)) + "import beside\n\ndef network():\n    return nets.fresh_net(beside.WIDTH)\n"
    )
    paths = list(sys.path)
    net = sources.net_from_spec(f"{folder}/uses.py:network")
    assert net[0].out_channels == 16
    assert not net.training
    assert [path for path in sys.path if path not in paths] in ([], [str(HERE)])


def test_the_function_that_build_takes_will_do_too(folder, capsys):
    pair = "\n\ndef with_inputs():\n    return nets.fresh_net(), (torch.zeros(1, 1, 8, 8),)\n"
    wrong = "\n\ndef three():\n    return nets.fresh_net(), 1, 2\n"
    (folder / "theirs.py").write_text(SOURCE.format(here=str(HERE)) + pair + wrong)
    net = sources.net_from_spec(f"{folder}/theirs.py:with_inputs")
    assert net[0].out_channels == 32
    assert not net.training
    assert "gave tuple; expected a torch.nn.Module" in refusal(folder, capsys, source="theirs.py:three")


def test_a_module_that_python_finds_will_do_too():
    assert sources.net_from_spec("compress_nets:fresh_net")[0].out_channels == 32
