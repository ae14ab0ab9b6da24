"""report.html: the report as one page that stands alone, offline, at any width, light or dark."""

from pathlib import Path

from edge_sdk.host.pack import charts, decision, markup
from edge_sdk.host.pack.report import Report

_STYLE = Path(__file__).with_name("page.css")


def page_bytes(report: Report) -> bytes:
    """Gives the page; equal reports give equal bytes."""
    title = f"{report.name} {report.version}"
    sections = (
        _head(report, title),
        decision.warnings(report),
        decision.worth_it(report),
        _accuracy(report),
        decision.refused(report),
        _compute(report),
        decision.sensitivity(report),
        decision.corrections(report),
        _compiler(report),
        _calibration(report),
        _data(report),
        _environment(report),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{markup.text(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    ).encode()


def _head(report: Report, title: str) -> str:
    verdict = report.verdict
    kind = "good" if verdict.passed else "bad"
    cards = (
        (markup.percent(verdict.float_score), f"float {verdict.metric}"),
        (markup.percent(verdict.int8_score), f"{_as_judged(report)} {verdict.metric}"),
        (f"{verdict.drop:+.2f}", f"points lost, {verdict.max_drop:g} allowed"),
        (f"{100 * report.int8_compute_ratio:.1f} %", "of the arithmetic in INT8"),
        _size(report.float_bytes, report.int8_bytes or report.half_bytes),
    )
    boxes = "".join(
        f'<div class="card"><b>{markup.text(value)}</b><span>{markup.text(label)}</span></div>'
        for value, label in cards
    )
    word = "within budget" if verdict.passed else "over budget"
    return (
        f"<h1>{markup.text(title)}</h1><p class='verdict {kind}'>{markup.text(_as_judged(report))}: {word}</p>"
        f'<div class="cards">{boxes}</div>'
        f"<p class='soft'>Takes {markup.specs(report.inputs)}; gives {markup.specs(report.outputs)}.</p>"
    )


def _size(float_bytes: int, packed_bytes: int) -> tuple[str, str]:
    """Gives by how much the packed model is smaller, or larger: in a tiny network Q/DQ outweighs the weights."""
    if not packed_bytes:
        return "-", "smaller than the float model"
    larger, smaller = max(float_bytes, packed_bytes), min(float_bytes, packed_bytes)
    word = "smaller" if packed_bytes <= float_bytes else "larger"
    return f"{larger / smaller:.1f}x", f"{word} than the float model"


def _accuracy(report: Report) -> str:
    verdict = report.verdict
    rows = [("float", verdict.float_score, "var(--float)"), (_as_judged(report), verdict.int8_score, "var(--int8)")]
    figures = [(markup.text(label), markup.percent(score), markup.interval(score)) for label, score, _ in rows]
    if verdict.agreement != verdict.int8_score:
        figures.append(("same answer as float", markup.percent(verdict.agreement), markup.interval(verdict.agreement)))
    if verdict.drop_low is not None:
        figures.append(("points lost", f"{verdict.drop:+.2f}", f"{verdict.drop_low:+.2f} to {verdict.drop_high:+.2f}"))
    table = markup.table(("", verdict.metric, "95 % interval"), figures)
    errors = markup.table(
        ("output", "SQNR, dB", "95 % interval", "cosine"),
        [
            (
                markup.text(name),
                f"{error.sqnr_db:.1f}",
                f"{error.sqnr_low_db:.1f} to {error.sqnr_high_db:.1f}",
                f"{error.cosine:.6f}",
            )
            for name, error in report.output_errors.items()
        ],
    )
    return (
        f"<h2>Accuracy on {verdict.samples} evaluation samples</h2>{charts.intervals(rows)}{table}{_how(report)}"
        f"<h2>Error of each output</h2>{errors}"
    )


def _how(report: Report) -> str:
    """Says what computed INT8."""
    if report.precision != "int8":
        return ""
    return (
        "<p class='soft'>INT8 was judged as TensorRT computes it, on a CPU: the Q/DQ graph as written, quantised "
        "values in float arithmetic, biases in float.</p>"
    )


def _compute(report: Report) -> str:
    if report.precision != "int8":
        return f"<h2>Arithmetic</h2><p>All of it is in {_as_judged(report)}.</p>{decision.layers(report)}"
    ratio = charts.share(report.int8_compute_ratio, "share of multiply-accumulates in INT8")
    pinned = markup.table(
        ("left in float", "why"), [(markup.text(entry.node), markup.text(entry.reason)) for entry in report.pinned]
    )
    nothing = "<p>No weighted layer was left in float.</p>"
    return (
        f"<h2>Arithmetic</h2><p>{report.int8_nodes} weighted layers run in INT8, "
        f"{100 * report.int8_compute_ratio:.1f} % of the multiply-accumulates.</p>{ratio}"
        f"{pinned if report.pinned else nothing}{decision.layers(report)}"
    )


def _as_judged(report: Report) -> str:
    """Gives what the figures are of."""
    return {"int8": "INT8", "fp16": "FP16"}.get(report.precision, report.precision)


def _compiler(report: Report) -> str:
    words = report.compiler
    graph = f"the {_as_judged(report)} graph"
    if words.ok is None and report.precision == "float":
        return "<h2>NVIDIA's compiler</h2><p>Not asked: the bundle holds the float model alone.</p>"
    if words.ok is None:
        return f"<h2>NVIDIA's compiler</h2><p>None was at hand: {graph} was not compiled.</p>"
    messages = "\n".join(words.messages) or "(no warnings)"
    answer = f"took {graph}" if words.ok else f"refused {graph}"
    return (
        f"<h2>NVIDIA's compiler</h2><p>{markup.text(words.name)} {markup.text(words.version)} {answer}.</p>"
        f"<pre>{markup.text(messages)}</pre>"
    )


def _calibration(report: Report) -> str:
    tried = markup.table(
        ("method", "SQNR of the worst output, dB"),
        [
            (markup.text(name) + (" (taken)" if value == max(report.method_sqnr_db.values()) else ""), f"{value:.2f}")
            for name, value in report.method_sqnr_db.items()
        ],
    )
    swapped = markup.table(
        ("tensor with another method", "method"),
        [(markup.text(name), markup.text(other)) for name, other in report.swapped.items()],
    )
    rows = [
        (
            markup.text(name),
            f"{tensor.range.minimum:.4g}",
            f"{tensor.range.maximum:.4g}",
            f"{tensor.range.threshold:.4g}",
            f"{tensor.range.scale:.4g}",
            charts.histogram(tensor.counts, tensor.limit, tensor.range.threshold),
        )
        for name, tensor in report.tensors.items()
    ]
    tensors = markup.table(("tensor", "min", "max", "threshold", "scale", "|x|, red: clipped beyond"), rows)
    choice = f"<p>Measured on held-out calibration samples:</p>{tried}" if report.method_sqnr_db else ""
    choice += swapped if report.swapped else ""
    return (
        f"<h2>Calibration</h2><p>{report.calibration_samples} samples, method {markup.text(report.method)}.</p>{choice}"
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
    table = markup.table(("samples", "held-out SQNR, dB", "ranges still more than 5 % off", "largest change"), rows)
    curve = charts.curve([(point.samples, point.moved_share) for point in report.coverage.points])
    return f"<h2>Would more samples help?</h2><p>{markup.text(report.coverage.sentence)}</p>{curve}{table}"


def _data(report: Report) -> str:
    """Tells where model and data came from: the conversion, what is odd about the data, what could not be read."""
    notes = [*report.conversion, *report.notes, *(f"let pass on purpose: {name}" for name in report.allowed)]
    items = "".join(f"<li>{markup.text(note)}</li>" for note in notes)
    made = f"<p>Made from {markup.text(report.origin)}.</p>" if report.origin else ""
    return f"<h2>Model and data</h2>{made}{f'<ul>{items}</ul>' if items else ''}{_left_out(report)}"


def _left_out(report: Report) -> str:
    rows = [
        (markup.text(source), markup.text(name), markup.text(reason))
        for source, skipped in report.skipped.items()
        for name, reason in skipped.items()
    ]
    if not rows:
        return "<h2>Left out</h2><p>Every sample could be read.</p>"
    return f"<h2>Left out</h2><p>{len(rows)} unreadable files.</p>{markup.table(('data', 'file', 'why'), rows)}"


def _environment(report: Report) -> str:
    rows = [(markup.text(name), markup.text(version)) for name, version in report.environment.items()]
    return (
        f"<h2>Made with</h2>{markup.table(('', ''), rows)}<p class='soft'>Seed {report.seed}. The same inputs, seed "
        "and versions give the same bundle, byte for byte; seconds and memory of a build are in "
        "<code>edge-sdk build --json</code>.</p>"
    )
