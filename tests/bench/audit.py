"""What the audit says of every tool's output on every model, and whether NVIDIA's parser and compiler agree."""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import quantisers
import zoo
from rows import Row, main

from edge_sdk import errors
from edge_sdk.engines import compilers
from edge_sdk.host import auditing

TOOLS = (
    quantisers.OURS,
    quantisers.MODELOPT_ENTROPY,
    quantisers.ORT_DEFAULT,
    quantisers.ORT_MINMAX,
    quantisers.NNCF,
    quantisers.QUARK,
    quantisers.QUARK_LEGAL,
    quantisers.AIMET,
)
COUNT = 32


def add_options(parser):
    parser.add_argument("--models", default=",".join(zoo.ENTRIES), help="of the zoo, by commas (default: all)")


def measure(arguments):
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            entry = zoo.ENTRIES[name](Path(folder) / name, count=COUNT, evaluated=zoo.FEW)
            for tool in TOOLS:
                yield row(entry, tool, quantisers.quantised(tool, entry, entry.model.parent))


def row(entry, tool, spent):
    """Ratio 0 where audit and compiler agree (and, for ours, no rule is broken), 1 where they do not."""
    figure = f"audit of {tool.title} on the {entry.name}"
    if spent.error:
        return Row(figure, f"the tool failed: {spent.error[:120]}", "-", None, None)
    report = compilers.check_model(spent.output.read_bytes())
    if report.ok is None:
        return Row(figure, "no compiler of NVIDIA's is installed here", "-", None, None)
    nvidia = "NVIDIA: builds" if report.ok else f"NVIDIA: refused ({report.messages[0].splitlines()[0][:90]})"
    try:
        found = auditing.audit_source(spent.output)
    except errors.ModelError as error:
        return Row(figure, f"not audited: {error}", nvidia, 1.0, 0.0)
    rules = Counter(violation.rule for violation in found.violations)
    counts = ", ".join(f"{rule} x{count}" for rule, count in sorted(rules.items())) or "no rule broken"
    is_wrong = found.is_refused == report.ok or (tool.script == "edge_sdk" and bool(rules))
    return Row(figure, f"{counts}; {'refused' if found.is_refused else 'builds'}", nvidia, float(is_wrong), 0.0)


if __name__ == "__main__":
    sys.exit(main("audit", measure, add_options))
