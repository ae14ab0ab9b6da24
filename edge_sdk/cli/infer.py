"""``edge-sdk infer``: runs a bundle on arrays or images and prints or saves the answers."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edge_sdk.cli import show
from edge_sdk.cli.command import Command
from edge_sdk.engines import bundled, registry, variants
from edge_sdk.engines.protocol import Tensors
from edge_sdk.host.calibrate import inputs
from edge_sdk.host.judge import pairs
from edge_sdk.host.pack import golden
from edge_sdk.numerics import scores
from edge_sdk.wire import bundles


class Answer(NamedTuple):
    """One sample's name and outputs."""

    name: str
    outputs: Tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``infer`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")
    parser.add_argument("input", type=Path, nargs="+", help="image, folder of images, .npz or .npy with raw values")
    parser.add_argument("--output", type=Path, metavar="FILE.npz", help="save the outputs, one row per sample")
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        help=f"{', '.join(registry.BACKENDS)} or module:Class (default %(default)s)",
    )
    parser.add_argument(
        "--variant",
        choices=(variants.AUTO, *variants.FILES),
        help="form of an INT8 bundle on a CPU (default: the very model that the gate judged)",
    )
    parser.add_argument("--top", type=int, default=3, help="classes to print (default %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Runs each sample on its own, as a request would be."""
    checked = bundles.read_bundle(arguments.bundle)
    kept: list[Tensors] = []
    shown: list[dict[str, Any]] = []
    for answer in answers(checked, arguments.input, arguments.backend, arguments.variant):
        if arguments.output:
            kept.append(answer.outputs)
        summary = summarized(checked, answer, arguments.top)
        if arguments.json:
            shown.append(summary)
        else:
            print(answer_text(summary))
    if arguments.output:
        arguments.output.write_bytes(golden.npz_bytes(golden.joined(kept)))
        show.say(f"wrote {arguments.output}")
    if arguments.json:
        show.print_json({"bundle": str(checked.path), "digest": checked.digest, "results": shown})
    return 0


def answers(checked: bundles.Bundle, paths: list[Path], backend: str, variant: str | None = None) -> Iterator[Answer]:
    """Gives the outputs of every sample in `paths`; without a `variant`, of the very model that the gate judged.

    Raises:
        DataError: an input can't be read or does not fit.
        EngineError: the engine failed.
    """
    manifest = checked.manifest
    variant = variant or manifest.precision
    with bundled.engine_from_bundle(checked, backend=backend, variant=variant) as engine:
        for path in paths:
            for request in inputs.requests_from_path(path, manifest.inputs, manifest.preprocess):
                yield Answer(request.name, engine.infer(request.feeds))


def summarized(checked: bundles.Bundle, answer: Answer, top: int) -> dict[str, Any]:
    """Gives the top classes of a classifier's answer, or the shapes of any other's."""
    manifest = checked.manifest
    shapes = {name: list(values.shape) for name, values in answer.outputs.items()}
    if pairs.class_count(manifest.outputs) is None:
        return {"input": answer.name, "outputs": shapes}
    ranked = scores.top_classes(answer.outputs[manifest.outputs[0].name], top)
    named = [
        {"index": index, "class": manifest.classes[index] if manifest.classes else str(index), "value": value}
        for index, value in ranked
    ]
    return {"input": answer.name, "outputs": shapes, "top": named}


def answer_text(summary: dict[str, Any]) -> str:
    """Gives one answer as a line."""
    if "top" in summary:
        text = ", ".join(f"{entry['class']} {entry['value']:.4g}" for entry in summary["top"])
    else:
        text = ", ".join(f"{name} {shape}" for name, shape in summary["outputs"].items())
    return f"{summary['input']}: {text}"


COMMAND = Command(
    add_arguments,
    run,
    "  edge-sdk infer fashion.edge photo.png\n  edge-sdk infer fashion.edge evaluation.npz --output answers.npz",
)
