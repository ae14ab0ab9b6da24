"""``edge-sdk audit``: which of TensorRT's rules a Q/DQ model breaks, whichever tool made it."""

import argparse
from collections import Counter
from pathlib import Path

from edge_sdk.cli import show
from edge_sdk.cli.command import Command
from edge_sdk.host import auditing
from edge_sdk.records.audit import Audit

_SHOWN_PER_RULE = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Puts the options of ``audit`` on the parser."""
    parser.add_argument("model", type=Path, help="quantised .onnx file, from any tool")
    parser.add_argument(
        "--all", action="store_true", help=f"every violation, not the first {_SHOWN_PER_RULE} of a rule"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the violations; 1 when there are any."""
    found = auditing.audit_source(arguments.model)
    if arguments.json:
        show.print_json(
            {"model": str(arguments.model), "refused": found.is_refused, "rules": rule_counts(found), "audit": found}
        )
    else:
        print(audit_text(found, shown=len(found.violations) if arguments.all else _SHOWN_PER_RULE))
    return 1 if found.violations else 0


def rule_counts(found: Audit) -> dict[str, int]:
    """Gives the number of violations by rule."""
    return dict(sorted(Counter(violation.rule for violation in found.violations).items()))


def audit_text(found: Audit, *, shown: int) -> str:
    """Gives the audit for people: a verdict, then up to `shown` violations of each rule."""
    head = f"opset {found.opset}, {found.pairs} dequantised tensors"
    if not found.violations:
        return f"{head}: keeps every rule"
    counts = rule_counts(found)
    verdict = (
        "NVIDIA's parser refuses it" if found.is_refused else "it builds, but slower or less accurate than it could be"
    )
    lines = [f"{head}: {sum(counts.values())} violations; {verdict}"]
    for rule, count in counts.items():
        of_rule = [violation for violation in found.violations if violation.rule == rule]
        lines += [f"  {rule}  {v.node} {v.message}; {v.remedy}" for v in of_rule[:shown]]
        if count > shown:
            lines.append(f"  {rule}  and {count - shown} more (--all)")
    return "\n".join(lines)


COMMAND = Command(add_arguments, run, "  edge-sdk audit quantised-by-another-tool.onnx")
