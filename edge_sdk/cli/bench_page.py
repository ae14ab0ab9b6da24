"""The page of `edge-sdk bench`: figures and plots in one file, without scripts and without a network."""

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from edge_sdk.engines.benching import Bench
from edge_sdk.engines.sustained import SOAK, Point

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5f6b76; --line: #d9dfe4; --paper: #fff; --card: #f5f7f9;
  --one: #1668c7; --two: #b45309; --bad: #c62a2f; --soak: #8884; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecef; --soft: #9aa6b2; --line: #333b43; --paper: #14181c;
  --card: #1c2227; --one: #5aa5f5; --two: #f0a355; --bad: #ff6369; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.mark { display: inline-block; margin: .5rem 0; padding: .25rem .8rem; border-radius: .4rem; font-weight: 600;
  background: var(--two); color: var(--paper); }
.mark.bad { background: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem; }
.card b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; }
.card.none b { color: var(--soft); font-weight: 400; }
.plot { display: grid; grid-template-columns: 4.2rem 1fr; }
.plot .up { position: relative; height: 11rem; font-size: .8rem; color: var(--soft); }
.plot .up span { position: absolute; right: .5rem; transform: translateY(-50%); font-variant-numeric: tabular-nums; }
.plot .box { position: relative; height: 11rem; border: 1px solid var(--line); background: var(--card); }
.plot svg { width: 100%; height: 100%; display: block; }
.plot .along { grid-column: 2; position: relative; height: 1.4rem; font-size: .8rem; color: var(--soft); }
.plot .along span { position: absolute; white-space: nowrap; transform: translateX(-50%); }
.plot .along span:first-child { transform: none; }
.plot .along span:last-child { transform: translateX(-100%); }
.reason { padding: 1rem; border: 1px dashed var(--line); border-radius: .5rem; color: var(--soft); }
.key i { display: inline-block; width: 1.1em; height: .25em; vertical-align: middle; margin: 0 .35em 0 .9em; }
.key i:first-child { margin-left: 0; }
.key i.area { height: .9em; }
polyline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
line { stroke: var(--line); vector-effect: non-scaling-stroke; }
"""


class Curve(NamedTuple):
    """One line of a plot.

    Attributes:
        name: in the key.
        colour: a variable of the style.
        value: of a point; None leaves a gap.
    """

    name: str
    colour: str
    value: Callable[[Point], float | None]


class Plot(NamedTuple):
    """One plot over the time of the run.

    Attributes:
        title: with the unit.
        curves: to draw.
        reason: why there is nothing to draw.
        from_zero: whether the axis begins at 0.
    """

    title: str
    curves: tuple[Curve, ...]
    reason: str = ""
    from_zero: bool = False


def page_text(title: str, found: Bench, machine: Mapping[str, object], *, boundary: str, simulated: bool) -> str:
    """Gives the page.

    Args:
        title: of the bundle.
        found: what was measured.
        machine: from `machine.read_machine`.
        boundary: what the power covers.
        simulated: says so where nobody can miss it.
    """
    body = [*_heading(title, found, machine, simulated=simulated), *_cards(found, boundary=boundary)]
    shades = _shades(found.course)
    if any(style == "--soak" for _, _, style in shades):
        body.append(
            '<p class="soft key"><i class="area" style="background:var(--soak)"></i>warming up, not counted</p>'
        )
    if any(style == "--bad" for _, _, style in shades):
        body.append('<p class="soft key"><i class="area" style="background:var(--bad);opacity:.3"></i>slowed down</p>')
    for plot in _plots(found, boundary=boundary):
        body += _plotted(plot, found.course, shades)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>bench of {html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _heading(title: str, found: Bench, machine: Mapping[str, object], *, simulated: bool) -> Iterator[str]:
    jetpack = machine.get("jetpack")
    what = [
        machine.get("module") or machine.get("board") or machine.get("cpu"),
        f"JetPack {jetpack}" if jetpack else None,
    ]
    where = ", ".join(str(one) for one in what if one) or "this machine"
    threads = f", {found.threads} threads" if found.threads else ""
    yield f"<h1>{html.escape(title)}</h1>"
    yield f'<p class="soft">{html.escape(f"{found.engine}{threads} on {where}")}</p>'
    if simulated:
        yield '<p class="mark">SIMULATED BOARD: power, heat, clocks and limits were made up; times are real</p>'
    if found.throttled_s:
        yield f'<p class="mark bad">THROTTLED for {found.throttled_s:.1f} s of the measurement</p>'
    settled = {True: "; the heat had settled", False: "; the heat still moved", None: ""}[found.has_settled]
    soaked = f"{found.soaked_s:.0f} s under load before{settled}" if found.soaked_s else "begun without warming up"
    yield f'<p class="soft">{found.seconds:.0f} s measured, {soaked}</p>'


def _cards(found: Bench, *, boundary: str) -> Iterator[str]:
    missing = found.missing
    cards: list[tuple[str, float | None, str, str]] = [
        ("p50", found.loop.p50_ms, "ms", ""),
        ("p90", found.loop.p90_ms, "ms", ""),
        ("p99", found.loop.p99_ms, "ms", ""),
        ("inferences", found.loop.throughput_hz, "/s", ""),
        ("of the bare loop's p50", found.p50_ratio, "x", "this back end has no bare loop"),
        ("J per inference", found.energy_per_inference_j, "J", found.energy_reason),
        (f"power, {boundary}" if boundary else "power", found.power_w, "W", missing.get("power_w", "")),
        ("hottest sensor, at most", found.temperature_max_c, "°C", missing.get("temperature_c", "")),
        ("slowed down", found.throttled_s, "s", missing.get("throttled", "")),
    ]
    if found.extra_energy_per_inference_j is not None:
        cards.insert(6, ("J beyond idle power", found.extra_energy_per_inference_j, "J", ""))
    yield '<div class="cards">'
    for name, value, unit, reason in cards:
        if value is None:
            yield f'<div class="card none"><b>not read</b><span>{html.escape(f"{name}: {reason}")}</span></div>'
        else:
            yield f'<div class="card"><b>{_short(value)} {unit}</b><span>{html.escape(name)}</span></div>'
    yield "</div>"


def _plots(found: Bench, *, boundary: str) -> tuple[Plot, ...]:
    missing = found.missing
    covers = f" ({boundary})" if boundary else ""
    return (
        Plot(
            "Latency, ms",
            (
                Curve("p50", "--one", lambda point: point.p50_ms),
                Curve("p99", "--two", lambda point: point.p99_ms),
            ),
            from_zero=True,
        ),
        Plot(
            f"Power{covers}, W",
            (Curve("power", "--one", lambda point: point.power_w),),
            missing.get("power_w", "no power was read"),
            from_zero=True,
        ),
        Plot(
            "Hottest sensor, °C",
            (Curve("temperature", "--two", lambda point: point.temperature_c),),
            missing.get("temperature_c", "no temperature was read"),
        ),
        Plot(
            "Clock, GHz",
            (Curve("clock", "--one", lambda point: None if point.clock_hz is None else point.clock_hz / 1e9),),
            missing.get("clock_hz", "no clock was read"),
            from_zero=True,
        ),
    )


def _shades(course: Sequence[Point]) -> list[tuple[float, float, str]]:
    """Gives beginning, end and colour of what is drawn behind every plot."""
    found = [(point.t_s, point.t_s + point.seconds, "--soak") for point in course if point.phase == SOAK]
    return found + [(point.t_s, point.t_s + point.seconds, "--bad") for point in course if point.throttled]


def _plotted(plot: Plot, course: Sequence[Point], shades: Sequence[tuple[float, float, str]]) -> Iterator[str]:
    values = [value for curve in plot.curves for point in course if (value := curve.value(point)) is not None]
    yield f"<h2>{html.escape(plot.title)}</h2>"
    if not values:
        yield f'<p class="reason">not read: {html.escape(plot.reason or "the run was too short for a curve")}</p>'
        return
    begin_s, end_s = course[0].t_s, course[-1].t_s + course[-1].seconds
    ticks = _ticks(0.0 if plot.from_zero else min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def across(seconds: float) -> float:
        return 1000 * (seconds - begin_s) / (end_s - begin_s)

    def up(value: float) -> float:
        return 100 * (high - value) / (high - low)

    if len(plot.curves) > 1:
        keys = (f'<i style="background:var({curve.colour})"></i>{curve.name}' for curve in plot.curves)
        yield f'<p class="soft key">{"".join(keys)}</p>'
    labels = "".join(f'<span style="top:{up(tick):.2f}%">{_short(tick)}</span>' for tick in ticks)
    yield f'<div class="plot"><div class="up">{labels}</div><div class="box">'
    yield f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{html.escape(plot.title)}">'
    for first_s, last_s, colour in shades:
        opacity = "1" if colour == "--soak" else ".25"
        yield (
            f'<rect x="{across(first_s):.2f}" y="0" width="{across(last_s) - across(first_s):.2f}" height="100" '
            f'style="fill:var({colour});opacity:{opacity}"/>'
        )
    yield "".join(f'<line x1="0" x2="1000" y1="{up(tick):.2f}" y2="{up(tick):.2f}"/>' for tick in ticks[1:-1])
    for curve in plot.curves:
        for piece in _pieces(course, curve.value):
            spots = " ".join(f"{across(seconds):.2f},{up(value):.2f}" for seconds, value in piece)
            yield f'<polyline points="{spots}" style="stroke:var({curve.colour})"/>'
    yield "</svg></div>"
    marks = _time_ticks(end_s - begin_s)
    along = "".join(f'<span style="left:{100 * mark / (end_s - begin_s):.2f}%">{_time(mark)}</span>' for mark in marks)
    yield f'<div class="along">{along}</div></div>'


def _pieces(course: Sequence[Point], value_of: Callable[[Point], float | None]) -> Iterator[list[tuple[float, float]]]:
    """Gives the stretches without a gap; a stretch of one point is drawn as long as it lasted."""
    piece: list[tuple[float, float]] = []
    for point in course:
        value = value_of(point)
        if value is None:
            if piece:
                yield piece
            piece = []
            continue
        if not piece:
            piece.append((point.t_s, value))
        piece.append((point.t_s + point.seconds / 2, value))
        last = (point.t_s + point.seconds, value)
    if piece:
        yield [*piece, last]


def _ticks(low: float, high: float) -> list[float]:
    """Gives three to seven round numbers from below `low` to above `high`.

    >>> _ticks(0.0, 14.2), _ticks(38.7, 41.0)
    ([0.0, 5.0, 10.0, 15.0], [38.0, 39.0, 40.0, 41.0])
    """
    span = max(high - low, abs(high) * 0.01, 1e-6)
    rough = span / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _time_ticks(total_s: float) -> list[float]:
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)
    step = next((step for step in steps if total_s / step <= 6), 86400)
    return [0.0, *(mark for mark in range(step, int(total_s) + 1, step) if total_s - mark > step / 2), total_s]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
