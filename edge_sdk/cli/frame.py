"""One frame of `edge-sdk top`: what is known of a device, as lines of styled text. No terminal, no clock."""

import datetime as dt
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from edge_sdk.cli import table
from edge_sdk.records import telemetry, timings

WIDTH, HEIGHT = 80, 24
"""Where the terminal does not tell its size."""
HISTORY = 60
"""Samples that the small curves show at most."""

_UNKNOWN = "-"
_SPARKS = "▁▂▃▄▅▆▇█"
_FULL, _EMPTY = "█", "·"
_LABEL = 9
_BAR = 20
_HOT_C, _WARM_C = 85.0, 70.0
"""From where on a temperature is red, and yellow: Jetsons slow down between 95 and 99 °C."""
_STAGES = {"copy_in": "in", "copy_out": "out"}
_GIB = 2.0**30

BOLD, DIM, GOOD, WARN, BAD, MARK = "1", "2", "32", "33", "1;31", "7;33"
"""Styles, as the parameters of an SGR sequence."""


class Span(NamedTuple):
    """Text in one style."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


class Seen(NamedTuple):
    """What is known of one device.

    Attributes:
        site, device: its name.
        sample: its last Sample.
        age_s: seconds since that came.
        is_online: what its status says.
        machine: of its Birth; empty where none was seen.
        withdrawn: likewise.
        events: the newest last.
        powers_w, heats_c: of the last Samples, oldest first.
        others: further devices that speak here.
    """

    site: str
    device: str
    sample: telemetry.Sample | None = None
    age_s: float | None = None
    is_online: bool = True
    machine: Mapping[str, object] = {}
    withdrawn: Sequence[telemetry.Withdrawn] = ()
    events: Sequence[telemetry.Event] = ()
    powers_w: Sequence[float | None] = ()
    heats_c: Sequence[float | None] = ()
    others: Sequence[str] = ()


def frame_lines(seen: Seen, *, width: int = WIDTH, height: int | None = None, offset: int = 0) -> list[Line]:
    """Gives the frame.

    Args:
        seen: what is known.
        width: letters of a line at most.
        height: lines at most, the last of which tells the keys; None gives all lines and no keys.
        offset: lines to leave out below the title.
    """
    title, sections = _title(seen), _sections(seen, width)
    count = sum(map(len, sections))
    is_roomy = height is None or len(title) + count + len(sections) < height
    body = [line for section in sections for line in (*([()] if is_roomy else []), *section)]
    if height is None:
        return [_fitting(line, width) for line in (*title, *body)]
    room = max(1, height - len(title) - 1)
    first = min(max(0, offset), max(0, len(body) - room))
    shown = body[first : first + room]
    below = len(body) - first - len(shown)
    filler: list[Line] = [()] * (room - len(shown))
    return [_fitting(line, width) for line in (*title, *shown, *filler, _keys(seen, above=first, below=below))]


def plain_text(lines: Iterable[Line]) -> str:
    """Gives the lines without colours."""
    return "".join("".join(span.text for span in line).rstrip() + "\n" for line in lines)


def coloured_text(line: Line) -> str:
    """Gives one line with its styles as SGR sequences."""
    return "".join(f"\x1b[{span.style}m{span.text}\x1b[0m" if span.style else span.text for span in line)


def _title(seen: Seen) -> list[Line]:
    what = [str(seen.machine[key]) for key in ("module", "board", "cpu") if seen.machine.get(key)][:1]
    if seen.machine.get("jetpack"):
        what.append(f"JetPack {seen.machine['jetpack']}")
    name = [Span(table.printable(f"{seen.site}/{seen.device}" if seen.site else seen.device), BOLD)]
    name += [Span("  " + table.printable(", ".join(what)))] if what else []
    sample = seen.sample
    if sample is None:
        return [(*name, *_marks(seen)), (Span("no Sample has come yet", DIM),)]
    told = [
        f"Sample {sample.seq}, {seen.age_s or 0.0:.0f} s ago, one in {sample.interval_s:.3g} s",
        f"up {_duration(sample.up_s)}",
        f"{sample.dropped} dropped" if sample.dropped else "none dropped",
    ]
    is_late = (seen.age_s or 0.0) > max(3.0, 3 * sample.interval_s)
    return [(*name, *_marks(seen)), (Span(" · ".join(told), WARN if is_late else DIM),)]


def _marks(seen: Seen) -> Line:
    sample = seen.sample
    marks = [] if seen.is_online else [Span("  "), Span(" OFFLINE ", BAD)]
    if sample is not None and sample.simulated:
        marks += [Span("  "), Span(" SIMULATED BOARD ", MARK)]
    if sample is not None and sample.throttled:
        marks += [Span("  "), Span(" THROTTLED ", "7;31")]
    return tuple(marks)


def _sections(seen: Seen, width: int) -> list[list[Line]]:
    sample = seen.sample
    if sample is None:
        return [_events(seen.events, width)] if seen.events else []
    found = [
        [*_models(sample, width), *_withdrawn(seen.withdrawn, width)],
        [*_power(seen, sample), *_rails(sample, width)],
        [*_heat(seen, sample), *_zones(sample, width), _limits(sample)],
        _loads(sample, width),
        _memory(sample),
        _missing(sample, width),
        _events(seen.events, width),
    ]
    return [section for section in found if section]


def _models(sample: telemetry.Sample, width: int) -> list[Line]:
    if not sample.models:
        return [(_label("MODELS"), Span("this daemon serves none", DIM))]
    room = max(14, min(40, width - 66, max(len(window.model) for window in sample.models)))
    heads = f"{'MODEL':<{room}} {'INF/S':>6} {'P50ms':>6} {'P99ms':>6} {'ERR':>5} {'QUEUE':>5} {'J/INF':>6}  ENGINE"
    lines: list[Line] = [(Span(heads, BOLD),)]
    for window in sample.models:
        failed = sum(window.errors.values())
        name = _cut(table.printable(window.model), room)
        times = " ".join(
            f"{table.short(value):>6}" for value in (window.throughput_hz, window.latency_p50_ms, window.latency_p99_ms)
        )
        rest = f" {window.queue_depth_max:>5} {table.short(window.energy_per_inference_j):>6}  {window.engine}"
        lines.append(
            (Span(f"{name:<{room}} {times} "), Span(f"{failed:>5}", BAD if failed else ""), Span(table.printable(rest)))
        )
        lines.append(_stages(window))
    return lines


def _withdrawn(versions: Sequence[telemetry.Withdrawn], width: int) -> list[Line]:
    lines: list[Line] = []
    for each in versions:
        text = table.printable(f"{each.name} {each.version} is not served any more: {each.reason}")
        lines += _wrapped(text, width, style=WARN)
    return lines


def _stages(window: telemetry.Window) -> Line:
    if not window.stage_ms:
        return (Span("  idle", DIM),)
    known = {stage: window.stage_ms[stage] for stage in timings.STAGES if stage in window.stage_ms}
    longest = max(known, key=lambda stage: known[stage])
    spans = [Span("  ms", DIM)]
    for stage, spent_ms in known.items():
        text = f"  {_STAGES.get(stage, stage)} {spent_ms:.{3 if spent_ms < 10 else 1}f}"
        spans.append(Span(text, "" if stage == longest else DIM))
    return tuple(spans)


def _power(seen: Seen, sample: telemetry.Sample) -> list[Line]:
    spans = [_label("POWER"), Span(f"{_number(sample.power_w, 2)} W", BOLD)]
    if sample.power_boundary:
        spans.append(Span(f" {table.printable(sample.power_boundary)}"))
    spans += _spark(seen.powers_w, least_range=1.0)
    spans.append(Span(f"  {_number(sample.energy_j, 2)} J in {sample.interval_s:.3g} s"))
    spans.append(Span(f"  mode {table.printable(sample.power_mode or _UNKNOWN)}"))
    return [tuple(spans)]


def _rails(sample: telemetry.Sample, width: int) -> list[Line]:
    if not sample.rails_w:
        return []
    top_w = max(*sample.rails_w.values(), 1e-9)
    length = max(len(name) for name in sample.rails_w)
    room = max(4, min(40, width - length - 15))
    return [
        (Span(f"  {table.printable(name):<{length}} {value:>7.2f} W "), *_bar(value / top_w, room))
        for name, value in sorted(sample.rails_w.items(), key=lambda item: -item[1])
    ]


def _heat(seen: Seen, sample: telemetry.Sample) -> list[Line]:
    hottest_c = table.temperature_c(sample)
    spans = [_label("HEAT"), Span(f"{_number(hottest_c, 1)} °C", _heat_style(hottest_c, BOLD))]
    spans += _spark(seen.heats_c, least_range=5.0)
    spans.append(Span(f"  cpu {_number(sample.temperature_cpu_c, 1)}  gpu {_number(sample.temperature_gpu_c, 1)}"))
    spans.append(Span(f"  fan {_percent(sample.fan_ratio)}"))
    return [tuple(spans)]


def _zones(sample: telemetry.Sample, width: int) -> list[Line]:
    if not sample.temperatures_c:
        return []
    text = "  ".join(f"{table.printable(name)} {value:.1f}" for name, value in sample.temperatures_c.items())
    return _wrapped(text, width, style=DIM)


def _limits(sample: telemetry.Sample) -> Line:
    words, style = {None: (_UNKNOWN, ""), True: ("slowed down", BAD), False: ("none met", GOOD)}[sample.throttled]
    counts = f"thermal {_count(sample.throttle_events)}, over-current {_count(sample.overcurrent_events)}"
    return (_label("LIMITS"), Span(words, style), Span(f"  {counts} in this interval", DIM))


def _loads(sample: telemetry.Sample, width: int) -> list[Line]:
    room = max(_BAR, min(50, width - 60))
    rows = [
        ("gpu", sample.gpu_utilization_ratio, sample.gpu_frequency_hz),
        ("cpu", sample.cpu_utilization_ratio, sample.cpu_frequency_hz),
        ("memory bus", sample.emc_utilization_ratio, sample.emc_frequency_hz),
    ]
    lines: list[Line] = [
        (_label("LOAD" if not index else ""), Span(f"{name:<10} {_percent(ratio):>5} "), *_bar(ratio, room),
         Span(f" {_clock(hertz):>9}"))
        for index, (name, ratio, hertz) in enumerate(rows)
    ]  # fmt: skip
    clocks = [f"{table.printable(name)} {_clock(hertz)}" for name, hertz in (sample.dla_frequency_hz or {}).items()]
    lines.append((_label(""), Span(f"{'dla':<10} {'  '.join(clocks) or _UNKNOWN:>5}")))
    return lines


def _memory(sample: telemetry.Sample) -> list[Line]:
    used, total = sample.memory_used_bytes, sample.memory_total_bytes
    ratio = None if used is None or not total else used / total
    return [
        (_label("MEMORY"), Span(f"{_percent(ratio):>5} "), *_bar(ratio, _BAR, style=_full_style(ratio)),
         Span(f" {_gib(used)} of {_gib(total)} GiB  gpu {_gib(sample.gpu_memory_used_bytes)}"
              f"  swap {_gib(sample.swap_used_bytes)}")),
        (_label(""), Span(f"daemon {_gib(sample.process_memory_bytes)} GiB, "
                          f"{_percent(sample.process_cpu_ratio)} of a core  disk {_percent(sample.disk_used_ratio)}")),
    ]  # fmt: skip


def _missing(sample: telemetry.Sample, width: int) -> list[Line]:
    """Every null, those with one reason together."""
    by_reason: dict[str, list[str]] = {}
    for metric, reason in sample.missing.items():
        by_reason.setdefault(reason, []).append(metric)
    if not by_reason:
        return []
    lines: list[Line] = [(_label("NOT READ"), Span(f"{len(sample.missing)}, shown above as {_UNKNOWN}", DIM))]
    for reason, names in by_reason.items():
        lines += _wrapped(table.printable(f"{', '.join(names)}: {reason}"), width, style=WARN)
    return lines


def _events(events: Sequence[telemetry.Event], width: int) -> list[Line]:
    if not events:
        return []
    lines: list[Line] = [(_label("EVENTS"), Span("newest first", DIM))]
    for event in reversed(events):
        time = dt.datetime.fromtimestamp(event.t, dt.timezone.utc).strftime("%H:%M:%S")
        lines += _wrapped(table.printable(f"{time}Z {event.kind}: {event.message}"), width)
    return lines


def _keys(seen: Seen, *, above: int, below: int) -> Line:
    spans = [Span("q leaves", DIM)]
    if above or below:
        hidden = [f"{above} above" if above else "", f"{below} below" if below else ""]
        spans.append(Span(f" · up, down: {' and '.join(filter(None, hidden))}", BOLD))
    if seen.others:
        spans.append(Span(f" · tab: {table.printable(', '.join(seen.others))}", DIM))
    return tuple(spans)


def _label(text: str) -> Span:
    return Span(f"{text:<{_LABEL}}", BOLD)


def _bar(ratio: float | None, room: int, *, style: str = GOOD) -> Line:
    if ratio is None:
        return (Span(" " * room),)
    full = round(min(1.0, max(0.0, ratio)) * room)
    return Span(_FULL * full, style), Span(_EMPTY * (room - full), DIM)


def _spark(values: Sequence[float | None], *, least_range: float) -> list[Span]:
    """A small curve between its own least and greatest; a gap where nothing was read."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return []
    newest = values[-HISTORY // 3 :]
    low = min(known)
    span = max(max(known) - low, least_range)
    marks = [
        " " if value is None else _SPARKS[min(len(_SPARKS) - 1, int((value - low) / span * len(_SPARKS)))]
        for value in newest
    ]
    return [Span("  "), Span("".join(marks), "36")]


def _heat_style(value: float | None, otherwise: str) -> str:
    if value is None or value < _WARM_C:
        return otherwise
    return BAD if value >= _HOT_C else WARN


def _full_style(ratio: float | None) -> str:
    return GOOD if ratio is None or ratio < 0.8 else WARN if ratio < 0.95 else BAD


def _number(value: float | None, decimals: int) -> str:
    return _UNKNOWN if value is None else f"{value:.{decimals}f}"


def _count(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _percent(ratio: float | None) -> str:
    return _UNKNOWN if ratio is None else f"{ratio:.0%}"


def _gib(size_bytes: int | None) -> str:
    return _UNKNOWN if size_bytes is None else f"{size_bytes / _GIB:.2f}"


def _clock(hertz: float | None) -> str:
    if hertz is None:
        return _UNKNOWN
    return f"{hertz / 1e9:.2f} GHz" if hertz >= 1e9 else f"{hertz / 1e6:.0f} MHz"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86400:.0f} d"


def _wrapped(text: str, width: int, *, style: str = "") -> list[Line]:
    found = textwrap.wrap(text, max(20, width), initial_indent="  ", subsequent_indent="    ")
    return [(Span(line, style),) for line in found]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _fitting(line: Line, width: int) -> Line:
    left, spans = width, []
    for span in line:
        if left <= 0:
            break
        spans.append(Span(span.text[:left], span.style))
        left -= len(span.text)
    return tuple(spans)
