"""report.html: the report as one page that stands alone, offline, at any width, light or dark."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_sdk.host.pack import charts
from edge_sdk.host.pack.report import Report
from edge_sdk.records.bundle import Score

_STYLE = Path(__file__).with_name("page.css")


def page_bytes(report: Report) -> bytes:
    """Gives the page; equal reports give equal bytes."""
    title = f"{report.name} {report.version}"
    sections = (
        _head(report, title),
        _accuracy(report),
        _compute(report),
        _compiler(report),
        _calibration(report),
        _data(report),
        _environment(report),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    ).encode()


def _head(report: Report, title: str) -> str:
    verdict = report.verdict
    kind = "good" if verdict.passed else "bad"
    precision = "INT8" if report.precision == "int8" else report.precision
    shrink = f"{report.float_bytes / report.int8_bytes:.1f}x" if report.int8_bytes else "-"
    cards = (
        (_percent(verdict.float_score), f"float {verdict.metric}"),
        (_percent(verdict.int8_score), f"{precision} {verdict.metric}"),
        (f"{verdict.drop:+.2f}", f"points lost, {verdict.max_drop:g} allowed"),
        (f"{100 * report.int8_compute_ratio:.1f} %", "of the arithmetic in INT8"),
        (shrink, "smaller than the float model"),
    )
    boxes = "".join(
        f'<div class="card"><b>{_text(value)}</b><span>{_text(label)}</span></div>' for value, label in cards
    )
    word = "within budget" if verdict.passed else "over budget"
    return (
        f"<h1>{_text(title)}</h1><p class='verdict {kind}'>{_text(precision)}: {word}</p>"
        f'<div class="cards">{boxes}</div>'
        f"<p class='soft'>Takes {_specs(report.inputs)}; gives {_specs(report.outputs)}.</p>"
    )


def _accuracy(report: Report) -> str:
    verdict = report.verdict
    rows = [("float", verdict.float_score, "var(--float)"), (report.precision, verdict.int8_score, "var(--int8)")]
    figures = [(_text(label), _percent(score), _interval(score)) for label, score, _ in rows]
    if verdict.agreement != verdict.int8_score:
        figures.append(("same answer as float", _percent(verdict.agreement), _interval(verdict.agreement)))
    table = _table(("", verdict.metric, "95 % interval"), figures)
    errors = _table(
        ("output", "SQNR, dB", "cosine"),
        [(_text(name), f"{error.sqnr_db:.1f}", f"{error.cosine:.6f}") for name, error in report.output_errors.items()],
    )
    return (
        f"<h2>Accuracy on {verdict.samples} evaluation samples</h2>{charts.intervals(rows)}{table}"
        f"<h2>Error of each output</h2>{errors}"
    )


def _compute(report: Report) -> str:
    ratio = charts.share(report.int8_compute_ratio, "share of multiply-accumulates in INT8")
    pinned = _table(("left in float", "why"), [(_text(entry.node), _text(entry.reason)) for entry in report.pinned])
    nothing = "<p>No weighted layer was left in float.</p>"
    return (
        f"<h2>Arithmetic</h2><p>{report.int8_nodes} weighted layers run in INT8, "
        f"{100 * report.int8_compute_ratio:.1f} % of the multiply-accumulates.</p>{ratio}"
        f"{pinned if report.pinned else nothing}"
    )


def _compiler(report: Report) -> str:
    words = report.compiler
    if words.ok is None:
        return "<h2>NVIDIA's compiler</h2><p>None was at hand: the INT8 graph was not compiled.</p>"
    messages = "\n".join(words.messages) or "(no warnings)"
    answer = "took the INT8 graph" if words.ok else "refused the INT8 graph"
    return (
        f"<h2>NVIDIA's compiler</h2><p>{_text(words.name)} {_text(words.version)} {answer}.</p>"
        f"<pre>{_text(messages)}</pre>"
    )


def _calibration(report: Report) -> str:
    tried = _table(
        ("method", "SQNR of the worst output, dB"),
        [
            (_text(name) + (" (taken)" if value == max(report.method_sqnr_db.values()) else ""), f"{value:.2f}")
            for name, value in report.method_sqnr_db.items()
        ],
    )
    swapped = _table(
        ("tensor with another method", "method"),
        [(_text(name), _text(other)) for name, other in report.swapped.items()],
    )
    rows = [
        (
            _text(name),
            f"{tensor.range.minimum:.4g}",
            f"{tensor.range.maximum:.4g}",
            f"{tensor.range.threshold:.4g}",
            f"{tensor.range.scale:.4g}",
            charts.histogram(tensor.counts, tensor.limit, tensor.range.threshold),
        )
        for name, tensor in report.tensors.items()
    ]
    tensors = _table(("tensor", "min", "max", "threshold", "scale", "|x|, red: clipped beyond"), rows)
    choice = f"<p>Measured on held-out calibration samples:</p>{tried}" if report.method_sqnr_db else ""
    choice += swapped if report.swapped else ""
    return (
        f"<h2>Calibration</h2><p>{report.calibration_samples} samples, method {_text(report.method)}.</p>{choice}"
        f"{_coverage(report)}<details><summary>{len(rows)} calibrated tensors</summary>{tensors}</details>"
    )


def _coverage(report: Report) -> str:
    if not report.coverage.points:
        return ""
    rows = [
        (
            str(point.samples),
            "-" if point.sqnr_db is None else f"{point.sqnr_db:.2f}",
            f"{100 * point.moved_share:.0f} %",
            f"{100 * point.largest_change:.1f} %",
        )
        for point in report.coverage.points
    ]
    table = _table(("samples", "held-out SQNR, dB", "ranges still more than 5 % off", "largest change"), rows)
    curve = charts.curve([(point.samples, point.moved_share) for point in report.coverage.points])
    return f"<h2>Would more samples help?</h2><p>{_text(report.coverage.sentence)}</p>{curve}{table}"


def _data(report: Report) -> str:
    """Tells where model and data came from: the conversion, what is odd about the data, what could not be read."""
    notes = [*report.conversion, *report.notes, *(f"let pass on purpose: {name}" for name in report.allowed)]
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    made = f"<p>Made from {_text(report.origin)}.</p>" if report.origin else ""
    return f"<h2>Model and data</h2>{made}{f'<ul>{items}</ul>' if items else ''}{_left_out(report)}"


def _left_out(report: Report) -> str:
    rows = [
        (_text(source), _text(name), _text(reason))
        for source, skipped in report.skipped.items()
        for name, reason in skipped.items()
    ]
    if not rows:
        return "<h2>Left out</h2><p>Every sample could be read.</p>"
    return f"<h2>Left out</h2><p>{len(rows)} unreadable files.</p>{_table(('data', 'file', 'why'), rows)}"


def _environment(report: Report) -> str:
    rows = [(_text(name), _text(version)) for name, version in report.environment.items()]
    return (
        f"<h2>Made with</h2>{_table(('', ''), rows)}<p class='soft'>Seed {report.seed}. The same inputs, seed and "
        "versions give the same bundle, byte for byte; seconds and memory of a build are in "
        "<code>edge-sdk build --json</code>.</p>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Gives a table of cells that are HTML already; the first column is a name, the others keep together."""
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        f'<tr><td class="name">{row[0]}</td>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    header = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table>{header}<tbody>{body}</tbody></table></div>'


def _specs(specs: Iterable[object]) -> str:
    return ", ".join(f"<b>{_text(getattr(spec, 'name', ''))}</b> {_text(str(spec))}" for spec in specs)


def _percent(score: Score) -> str:
    return f"{100 * score.value:.2f} %"


def _interval(score: Score) -> str:
    return f"{100 * score.low:.2f} to {100 * score.high:.2f} %"


def _text(value: str) -> str:
    return html.escape(value)
