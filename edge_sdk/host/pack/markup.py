"""The small pieces of HTML that the report's page is made of."""

import html
from collections.abc import Iterable, Sequence

from edge_sdk.records.bundle import Score

NBSP = "\u00a0"
"""A space at which no line breaks: a figure keeps its unit."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Gives a table of cells that are HTML already; the first column is a name, the others keep together."""
    top = "".join(f"<th>{text(cell)}</th>" for cell in head)
    body = "".join(
        f'<tr><td class="name">{row[0]}</td>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    header = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table>{header}<tbody>{body}</tbody></table></div>'


def specs(values: Iterable[object]) -> str:
    """Gives the inputs or outputs of a network."""
    return ", ".join(f"<b>{text(getattr(value, 'name', ''))}</b> {text(str(value))}" for value in values)


def percent(score: Score) -> str:
    """Gives a share in per cent."""
    return f"{100 * score.value:.2f}{NBSP}%"


def interval(score: Score) -> str:
    """Gives the 95 % interval of a share."""
    return f"{100 * score.low:.2f} to {100 * score.high:.2f}{NBSP}%"


def text(value: str) -> str:
    """Gives what others wrote as text, never as markup."""
    return html.escape(value)
