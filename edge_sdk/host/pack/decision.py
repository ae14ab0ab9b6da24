"""The parts of the report that say what was decided and why: the verdict on INT8, pinning, layers, corrections."""

from edge_sdk.host.pack import charts
from edge_sdk.host.pack.markup import interval, percent, table, text
from edge_sdk.host.pack.report import Layer, Report

_SHOWN = 12
"""Rows of a ranking that stand open; the rest is folded away."""

_HARMLESS_DB = 20
"""A layer this far below the worst has a hundredth of its noise: its bar is empty."""

_FEW = 10
"""With fewer evaluation samples an interval drawn from them is too narrow: of one sample it has no width at all."""

_ANSWERS = {"yes": "good", "no": "bad"}


def worth_it(report: Report) -> str:
    """Gives whether INT8 is worth it, in a sentence, and what that rests on."""
    found = report.worth_it
    if found is None:
        return ""
    basis = f"<p class='soft'>Rests on: {text(', '.join(found.basis))}.</p>" if found.basis else ""
    kind = _ANSWERS.get(found.answer, "open")
    return (
        f"<h2>Is INT8 worth it?</h2><p><span class='answer {kind}'>{text(found.answer)}</span> "
        f"{text(found.reason)}</p>{basis}"
    )


def refused(report: Report) -> str:
    """Gives what plain INT8 lost, where something else is in the bundle."""
    verdict = report.refused
    if verdict is None:
        return ""
    rows = [
        ("float", percent(verdict.float_score), interval(verdict.float_score)),
        ("INT8 at first", percent(verdict.int8_score), interval(verdict.int8_score)),
        (
            f"in the bundle ({'float' if report.precision == 'float' else report.precision.upper()})",
            percent(report.verdict.int8_score),
            interval(report.verdict.int8_score),
        ),
    ]
    is_told = report.worth_it is not None and report.reason in report.worth_it.reason
    reason = "" if is_told else f"<p>{text(report.reason)}.</p>"
    return f"<h2>What was refused</h2>{reason}{table(('', verdict.metric, '95 % interval'), rows)}"


def cautions(report: Report) -> tuple[str, ...]:
    """Gives what makes the figures less sure than they look, a sentence each."""
    verdict = report.verdict
    samples = f"{verdict.samples} sample{'' if verdict.samples == 1 else 's'}"
    found = []
    if verdict.drop_high is not None and verdict.passed and verdict.drop_high > verdict.max_drop:
        found.append(
            f"With {samples} the true loss may be up to {verdict.drop_high:.2f} points, more than the "
            f"{verdict.max_drop:g} allowed; more evaluation samples would tell."
        )
    elif verdict.samples < _FEW and report.precision != "float":
        found.append(
            f"{samples} can't tell how far evaluation samples differ, so that the true loss may be outside of its "
            f"interval; give {_FEW} at least."
        )
    if report.precision == "fp16":
        found.append("FP16 was judged on a CPU: results rounded to it, sums in float. A device may sum in FP16, too.")
    return tuple(found)


def warnings(report: Report) -> str:
    """Gives the cautions."""
    return "".join(f"<p class='warning'>{text(one)}</p>" for one in cautions(report))


def sensitivity(report: Report) -> str:
    """Gives the ranking of the layers, the noisiest first."""
    if not report.sensitivity:
        return ""
    pinned = {entry.node for entry in report.pinned}
    worst = min(one.sqnr_db for one in report.sensitivity)
    rows = [
        (
            text(one.node),
            f"{one.sqnr_db:.1f} dB",
            charts.level(1 - (one.sqnr_db - worst) / _HARMLESS_DB, f"noise of {text(one.node)}"),
            "back in float" if one.node in pinned else "",
        )
        for one in report.sensitivity
    ]
    head = ("layer", "SQNR of its own output", "noise", "")
    rest = f"<details><summary>{len(rows) - _SHOWN} quieter layers</summary>{table(head, rows[_SHOWN:])}</details>"
    return (
        f"<h2>Sensitivity</h2><p>Each layer in float and in INT8 on the same input, and the signal to noise of what it "
        f"gives, on calibration samples, which the gate never sees; the noisiest first.</p>{table(head, rows[:_SHOWN])}"
        f"{rest if len(rows) > _SHOWN else ''}"
    )


def corrections(report: Report) -> str:
    """Gives what was tried on the weights before quantisation, and whether it was kept."""
    if not report.corrections:
        return ""
    rows = [
        (
            text(one.name),
            str(one.layers),
            f"{one.before_db:.2f} dB",
            f"{one.after_db:.2f} dB",
            "kept" if one.kept else "left out",
        )
        for one in report.corrections
    ]
    return f"<h2>Corrections tried</h2>{table(('', 'layers', 'before', 'after', ''), rows)}"


def layers(report: Report) -> str:
    """Gives every weighted layer with its precision and its share of the arithmetic."""
    if not report.layers:
        return ""
    rows = [(text(one.node), text(one.precision), _share(one), _sqnr(one)) for one in report.layers]
    body = table(("layer", "precision", "of the arithmetic", "SQNR of its own output in INT8"), rows)
    return f"<details><summary>{len(rows)} weighted layers</summary>{body}</details>"


def _share(layer: Layer) -> str:
    return f"{charts.level(layer.share, f'share of {text(layer.node)}')}{100 * layer.share:.1f} %"


def _sqnr(layer: Layer) -> str:
    return "" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB"
