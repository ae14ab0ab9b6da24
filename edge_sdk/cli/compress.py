"""``edge-sdk compress``: a trained torch classifier to a smaller ONNX model, and whether that helped."""

import argparse
import sys
from pathlib import Path

from edge_sdk import errors
from edge_sdk.cli import build, show
from edge_sdk.cli.command import Command
from edge_sdk.host.calibrate import data as datasets
from edge_sdk.host.calibrate.samples import Classes, skipped_text
from edge_sdk.host.compress import examples, export, recipe, sources
from edge_sdk.host.compress.report import Report, Side
from edge_sdk.host.compress.settings import COMPUTE_CAPABILITIES, CompressSettings, check_settings
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

_DEFAULT = CompressSettings()
_DATA = "a folder of class sub-folders, a labelled .npz, or module:function"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``compress`` on the parser."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="module:function or file.py:function that returns the torch.nn.Module, weights loaded, or (module, "
        "example inputs) as for build; it runs here",
    )
    parser.add_argument("--data", required=True, metavar="TRAIN", help=f"to train on: {_DATA}")
    parser.add_argument("--evaluate", required=True, metavar="DATA", help="to measure on; no sample of TRAIN in it")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.onnx", help="file to write")
    parser.add_argument("--input", metavar="NAME=CxHxW", help="the network's input; an .npz tells it by itself")
    parser.add_argument("--preprocess", type=Path, metavar="FILE.toml", help="scale, mean, std of the input")
    _add_techniques(parser)
    _add_training(parser)


def _add_techniques(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("techniques (none: a plain fine-tuning)")
    group.add_argument("--prune", type=float, default=0.0, metavar="SHARE", help="of each layer's channels, 0 to 0.9")
    group.add_argument(
        "--round-to", type=int, default=_DEFAULT.round_to, metavar="N", help="channels left: 16 (default), 8 or 32"
    )
    group.add_argument("--sparsity", metavar="2:4", help="two zeros in each four weights; for Orin and later only")
    group.add_argument("--distill", action="store_true", help="train towards the float network's outputs too")
    group.add_argument("--teacher", metavar="SOURCE", help="another network to distil from")
    group.add_argument("--temperature", type=float, default=_DEFAULT.temperature, help="default %(default)s")
    group.add_argument("--teacher-weight", type=float, default=_DEFAULT.teacher_weight, help="default %(default)s")
    group.add_argument("--new-head", type=int, metavar="K", help="transfer learning: a new last layer for K classes")
    group.add_argument("--freeze", action="store_true", help="train only the new last layer")
    group.add_argument(
        "--target", metavar="MODULE", help=f"refuse what is of no use on: {', '.join(COMPUTE_CAPABILITIES)}"
    )
    group.add_argument("--compare", action="store_true", help="train the plain controls as well: did it help?")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training and export")
    group.add_argument("--steps", type=int, default=_DEFAULT.steps, help="default %(default)s; 0 does not train")
    group.add_argument("--batch", type=int, default=_DEFAULT.batch, help="samples per step (default %(default)s)")
    group.add_argument("--rate", type=float, default=_DEFAULT.rate, help="peak learning rate (default %(default)s)")
    group.add_argument("--weight-decay", type=float, default=_DEFAULT.weight_decay, help="default %(default)s")
    group.add_argument("--seed", type=int, default=_DEFAULT.seed, help="default %(default)s")
    group.add_argument("--threads", type=int, default=_DEFAULT.threads, help="0 (default): torch's choice")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default=_DEFAULT.device, help="default %(default)s")
    group.add_argument(
        "--exporter", choices=("auto", "dynamo", "classic"), default=_DEFAULT.exporter, help="default %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compresses, writes the ONNX file and prints what it cost."""
    settings = settings_from_arguments(arguments)
    check_settings(settings, has_teacher=arguments.teacher is not None)
    export.check_target(arguments.output)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # so that module:function finds the user's own file, as `python -m` would
    net = sources.net_from_spec(arguments.source)
    teacher = sources.net_from_spec(arguments.teacher) if arguments.teacher else None
    rules = build.read_preprocess(arguments.preprocess) if arguments.preprocess else {}
    spec = parse_input(arguments.input) if arguments.input else _spec_from_data(arguments.data)
    train, classes = read_examples(arguments.data, spec, rules, classes=())
    evaluate, _ = read_examples(arguments.evaluate, spec, rules, classes=classes)
    with show.Progress() as progress:
        made = recipe.compressed(net, train, evaluate, settings, spec=spec, teacher=teacher, progress=progress)
    export.save(made.content, arguments.output)
    if arguments.json:
        show.print_json({"source": arguments.source, "output": str(arguments.output), "report": made.report})
    else:
        print(report_text(made.report, arguments.output))
    return 0


def settings_from_arguments(arguments: argparse.Namespace) -> CompressSettings:
    """Gives the settings that the options say."""
    return CompressSettings(**{name: getattr(arguments, name) for name in CompressSettings.__struct_fields__})


def parse_input(text: str) -> TensorSpec:
    """Gives the network's input of one ``--input``, the batch axis free.

    Raises:
        UsageError: it is not of that form.

    >>> print(parse_input("image=3x224x224"))
    float32[N, 3, 224, 224]
    """
    name, _, sizes = text.partition("=")
    axes = sizes.split("x")
    if not name or not all(axis.isdecimal() and int(axis) for axis in axes):
        raise errors.UsageError(f"--input {text!r} is not NAME=CxHxW without the batch, for example image=3x224x224")
    return TensorSpec(name, "float32", (None, *map(int, axes)))


def read_examples(
    text: str, spec: TensorSpec, rules: dict[str, Preprocess], *, classes: tuple[str, ...]
) -> tuple[examples.Examples, tuple[str, ...]]:
    """Gives the samples of DATA and the names of their classes, where the data says them.

    Raises:
        DataError: there is no such data, it does not fit the input, or it has no labels.
    """
    opened = datasets.open_data(text, (spec,), preprocess=rules, classes=Classes(names=classes))
    pieces = (examples.Piece(batch.raw[spec.name], batch.labels, batch.digests) for batch in opened.batches())
    found = examples.examples_from_pieces(pieces, rule=rules.get(spec.name), name=text)
    if opened.skipped:
        show.say(f"left out of {text}: {skipped_text(opened.skipped)}")
    return found, opened.classes


def report_text(report: Report, output: Path) -> str:
    """Gives the report for people: a table of before and after, the controls, the verdict."""
    before, after = report.before, report.after
    rows = [
        ("top-1", _top1(before), _top1(after)),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("not zero", f"{before.nonzero_parameters:,}", f"{after.nonzero_parameters:,}"),
        ("MACs", f"{before.macs:,}", f"{after.macs:,}"),
        ("ONNX bytes", f"{before.onnx_bytes:,}", f"{after.onnx_bytes:,}"),
        ("latency", f"{before.latency_ms:.3f} ms", f"{after.latency_ms:.3f} ms"),
    ]
    lines = [f"wrote {output}", f"  {'':<12} {'before':>24} {'after':>24}"]
    lines += [f"  {name:<12} {old:>24} {new:>24}" for name, old, new in rows]
    lines.append(f"  {report.samples} samples; latency on this CPU, 1 thread, best of {report.latency_rounds} in turns")
    if report.untuned_top1:
        lines.append(f"  top-1 before training: {report.untuned_top1.value:.4f}")
    if report.pruned:
        lines.append("  channels: " + ", ".join(f"{name} {old} -> {new}" for name, (old, new) in report.pruned.items()))
    lines += [f"  left dense: {name}: {reason}" for name, reason in report.dense.items()]
    for control in report.controls:
        lines.append(f"  control: {control.name}: top-1 {control.top1.value:.4f}, {control.cpu_s:.0f} CPU s")
    lines.append(f"  trained {report.steps} steps in {report.cpu_s:.0f} CPU s; {report.exporter} exporter")
    return "\n".join([*lines, *report.verdict])


def _spec_from_data(text: str) -> TensorSpec:
    file = Path(text)
    if file.suffix != ".npz" or not file.is_file():
        raise errors.UsageError(f"{text} does not tell the network's input; give --input image=3x224x224")
    return examples.spec_from_npz(file)


def _top1(side: Side) -> str:
    return f"{side.top1.value:.4f} ({side.top1.low:.3f}-{side.top1.high:.3f})" if side.top1 else "other classes"


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk compress training.py:network --data train.npz --evaluate test.npz --preprocess preprocess.toml \\\n"
    "      --prune 0.3 --steps 300 --compare -o smaller.onnx\n"
    "  edge-sdk build smaller.onnx -o smaller.edge --calibration train.npz --evaluate test.npz \\\n"
    "      --preprocess preprocess.toml",
)
