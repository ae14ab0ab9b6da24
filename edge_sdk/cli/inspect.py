"""``edge-sdk inspect``: what is in a bundle, after every byte of it was checked."""

import argparse
from pathlib import Path

from edge_sdk import errors
from edge_sdk.cli import places, show
from edge_sdk.cli.command import Command
from edge_sdk.engines import variants
from edge_sdk.wire import bundles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``inspect`` on the parser."""
    parser.add_argument("bundle", type=Path, help="folder that `edge-sdk build` wrote")


def run(arguments: argparse.Namespace) -> int:
    """Prints the manifest."""
    checked = bundles.read_bundle(arguments.bundle)
    if arguments.json:
        show.print_json(
            {
                "bundle": str(checked.path),
                "digest": checked.digest,
                "manifest": checked.manifest,
                "forms": forms(checked),
                "runs_here_as": runs_here_as(checked),
            }
        )
    else:
        print(bundle_text(checked))
    return 0


def forms(checked: bundles.Bundle) -> list[str]:
    """Gives the forms of an INT8 bundle that a CPU may choose from; none for another."""
    if checked.manifest.precision != "int8":
        return []
    return [name for name, file in variants.FILES.items() if file in checked.manifest.files]


def runs_here_as(checked: bundles.Bundle) -> str | None:
    """Gives the form that was the fastest when last measured on this CPU; None where that was not done yet."""
    try:
        choice = variants.recalled(checked, backend="onnxruntime", memory=places.variants_folder())
    except errors.UsageError:
        return None  # no ONNX Runtime here, so nothing was measured with it
    return None if choice is None else choice.variant


def forms_text(checked: bundles.Bundle) -> str:
    """Gives what a CPU may choose from, for people."""
    if not (found := forms(checked)):
        return "float"
    here = runs_here_as(checked)
    return f"{', '.join(found)}; " + (f"{here} is the fastest here" if here else "edge-sdk bench says which is faster")


def bundle_text(checked: bundles.Bundle) -> str:
    """Gives a bundle's contents for people."""
    manifest = checked.manifest
    verdict = manifest.verdict
    rows = {
        "precision": manifest.precision,
        "takes": ", ".join(f"{spec.name} {spec}" for spec in manifest.inputs),
        "gives": ", ".join(f"{spec.name} {spec}" for spec in manifest.outputs),
        "preprocessing": ", ".join(
            f"{name}: (raw * {rule.scale:g} - {list(rule.mean)}) / {list(rule.std)}"
            for name, rule in manifest.preprocess.items()
        )
        or "none, raw values go in as they are",
        "classes": ", ".join(manifest.classes) or "not named",
        "on a CPU": forms_text(checked),
        verdict.metric: f"float {verdict.float_score.value:.2%}, {manifest.precision} {verdict.int8_score.value:.2%} "
        f"({verdict.int8_score.low:.2%} to {verdict.int8_score.high:.2%}), {verdict.drop:+.2f} points lost, "
        f"{verdict.max_drop:g} allowed, {verdict.samples} samples",
        "counter": str(manifest.counter),
        "made by": f"edge_sdk {manifest.sdk}",
        "digest": checked.digest,
    }
    lines = [f"{manifest.name} {manifest.version}", *(f"  {name:<14} {text}" for name, text in rows.items()), "  files"]
    lines += [f"    {name:<22} {entry.size_bytes:>12,} bytes" for name, entry in sorted(manifest.files.items())]
    return "\n".join(lines)


COMMAND = Command(add_arguments, run, "  edge-sdk inspect fashion.edge")
