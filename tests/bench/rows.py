"""One row per figure, always beside the floor that was measured in the same run."""

import argparse
import datetime as dt
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

LAST = Path(__file__).with_name("last")


class Row(NamedTuple):
    """A figure. `ratio` is value / floor; `bar` is what it must not exceed, None where there is no bar."""

    figure: str
    value: str
    floor: str
    ratio: float | None
    bar: float | None

    @property
    def ok(self) -> bool:
        return self.bar is None or (self.ratio is not None and bool(self.ratio <= self.bar))

    def document(self) -> dict:
        return {**self._asdict(), "ok": self.ok}


def ratio_row(
    figure: str, value: float, floor: float, *, unit: Callable[[float], str], what: str, bar: float | None
) -> Row:
    return Row(figure, unit(value), f"{unit(floor)} {what}", round(value / floor, 2), bar)


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


def machine() -> str:
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").open() if line.startswith("model name")), "?"
    )
    return f"{len(os.sched_getaffinity(0))} cores of {cpu}, Python {platform.python_version()}"


def better_row(
    figure: str, value: float, floor: float, *, unit: Callable[[float], str], what: str, bar: float | None
) -> Row:
    """A figure of which more is better: the ratio is floor / value, so that it too must not exceed the bar."""
    return Row(figure, unit(value), f"{unit(floor)} {what}", round(floor / value, 4) if value > 0 else None, bar)


def is_part(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> bool:
    """Whether only some of the figures were asked for."""
    return any(
        value != parser.get_default(option)
        for option, value in vars(arguments).items()
        if option not in {"json", "save"}
    )


def save(file: Path, document: dict, *, is_part: bool) -> None:
    """Keeps the figures; of a part, these take the places of the same figures, and the others stay with their day."""
    if is_part and file.exists():
        fresh = {row["figure"] for row in document["rows"]}
        kept = [row for row in json.loads(file.read_text())["rows"] if row["figure"] not in fresh]
        document = {**document, "rows": [*kept, *document["rows"]]}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")


def main(
    name: str,
    measure: Callable[..., Iterable[Row]],
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> int:
    """Prints the rows as they come. With `add_options`, `measure` is given what was said on the command line."""
    parser = argparse.ArgumentParser(prog=f"tools/bench {name}", epilog=f"example: tools/bench {name} --json")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--save", action="store_true", help="keep the figures for README (tests/bench/last)")
    if add_options:
        add_options(parser)
    arguments = parser.parse_args()
    rows: list[Row] = []
    try:
        for row in measure(arguments) if add_options else measure():
            rows.append(row)
            print(
                f"{'ok  ' if row.ok else 'MISS'} {row.figure}: {row.value} "
                f"(floor {row.floor}, ratio {row.ratio}, bar {row.bar})",
                file=sys.stderr,
                flush=True,
            )
    except BaseException:
        if arguments.save:  # what was measured before the fault took its time
            save(LAST / f"{name}.json", _document(rows), is_part=True)
        raise
    document = _document(rows)
    if arguments.json:
        print(json.dumps(document, indent=2))
    if arguments.save:
        save(LAST / f"{name}.json", document, is_part=is_part(parser, arguments))
    return 0 if all(row.ok for row in rows) else 1


def _document(rows: list[Row]) -> dict:
    return {
        "machine": machine(),
        "date": dt.date.today().isoformat(),
        "rows": [{**row.document(), "date": dt.date.today().isoformat()} for row in rows],
    }
