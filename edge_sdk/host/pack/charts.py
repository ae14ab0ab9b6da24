"""Pictures of the report as inline SVG: no script, no font, nothing to fetch; colours come from the page's style."""

import math
from collections.abc import Sequence

from edge_sdk.records.bundle import Score

_WIDTH = 640


def intervals(rows: Sequence[tuple[str, Score, str]]) -> str:
    """Gives scores on one axis, each a dot with its 95 % interval; `rows` are (label, score, CSS colour)."""
    low, high = min(score.low for _, score, _ in rows), max(score.high for _, score, _ in rows)
    margin = max((high - low) * 0.15, 0.002)
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    left, right = 90, _WIDTH - 20

    def across(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    marks = []
    for index, (label, score, color) in enumerate(rows):
        y = 22 + 30 * index
        marks.append(
            f'<text x="0" y="{y + 4}">{label}</text>'
            f'<line x1="{across(score.low):.1f}" x2="{across(score.high):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{color}" stroke-width="3" stroke-linecap="round"/>'
            f'<circle cx="{across(score.value):.1f}" cy="{y}" r="6" fill="{color}"/>'
        )
    axis_y = 22 + 30 * len(rows)
    ticks = "".join(
        f'<text x="{across(value):.1f}" y="{axis_y + 16}" text-anchor="{anchor}">{100 * value:.1f} %</text>'
        for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end"))
    )
    line = f'<line x1="{left}" x2="{right}" y1="{axis_y}" y2="{axis_y}" stroke="var(--line)"/>'
    return _svg(axis_y + 24, "scores with 95 % intervals", "".join(marks) + line + ticks)


def share(value: float, label: str) -> str:
    """Gives a bar that is filled to `value`, 0 to 1."""
    filled = _WIDTH * min(max(value, 0.0), 1.0)
    return _svg(
        18,
        label,
        f'<rect width="{_WIDTH}" height="14" rx="7" fill="var(--line)"/>'
        f'<rect width="{filled:.1f}" height="14" rx="7" fill="var(--int8)"/>',
    )


def curve(points: Sequence[tuple[int, float]]) -> str:
    """Gives shares (0 to 1) over counts as dots on a line, the counts on a logarithmic axis."""
    left, right, top, bottom = 60, _WIDTH - 40, 12, 96
    first, last = (math.log(count) for count in (points[0][0], points[-1][0]))
    places = [
        (left + (right - left) * (math.log(count) - first) / ((last - first) or 1.0), bottom - (bottom - top) * share)
        for count, share in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="var(--int8)"/>'
        f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{count}</text>'
        for (x, y), (count, _) in zip(places, points, strict=True)
    )
    ticks = "".join(
        f'<text x="0" y="{bottom - (bottom - top) * share + 4:.0f}">{100 * share:.0f} %</text>'
        for share in (0.0, 0.5, 1.0)
    )
    axis = f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="var(--line)"/>'
    path = f'<polyline points="{line}" fill="none" stroke="var(--int8)" stroke-width="2"/>'
    return _svg(bottom + 28, "share of ranges still moving, over calibration samples", axis + ticks + path + marks)


def level(value: float, label: str) -> str:
    """Gives a small bar for a cell of a table, filled to `value`, 0 to 1."""
    width, height = 72, 10
    filled = width * min(max(value, 0.0), 1.0)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f'<rect width="{width}" height="{height}" rx="3" fill="var(--line)"/>'
        f'<rect width="{filled:.1f}" height="{height}" rx="3" fill="var(--float)"/></svg>'
    )


def histogram(counts: Sequence[int], limit: float, threshold: float) -> str:
    """Gives a small histogram on a logarithmic count axis, with a line where values are clipped."""
    width, height = 160, 28
    peak = math.log1p(max(counts, default=0)) or 1.0
    step = width / max(len(counts), 1)
    bars = " ".join(
        f"M{index * step:.1f} {height}v{-height * math.log1p(count) / peak:.1f}h{step:.2f}V{height}z"
        for index, count in enumerate(counts)
        if count
    )
    x = min(width * threshold / limit, width - 1) if limit else width - 1
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="histogram">'
        f'<path d="{bars}" fill="var(--float)"/>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="var(--bad)" stroke-width="1.5"/></svg>'
    )


def _svg(height: int, label: str, body: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" aria-label="{label}">{body}</svg>'
