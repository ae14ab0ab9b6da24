"""What can be asked over HTTP: paths, their parameters, and the answer to a request. No socket here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from edge_sdk import errors, imports
from edge_sdk.records import answers

JSON = "application/json"
_HOUR_S = 3600.0


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


class Parameter(NamedTuple):
    """One query parameter."""

    name: str
    kind: str
    meaning: str
    is_required: bool = False


class Question(NamedTuple):
    """One path.

    Attributes:
        summary: for the document.
        parameters: that it takes.
        answer: type of its body.
        ask: gives the body's content for the parameters that came.
    """

    summary: str
    parameters: tuple[Parameter, ...]
    answer: Any
    ask: Callable[[Mapping[str, str]], object]


_SCOPE = (
    Parameter("device", "string", "only these devices, separated by commas"),
    Parameter("site", "string", "only the devices of this site"),
)
_WINDOW = (
    Parameter("since", "number", "start of the window, Unix seconds; an hour before its end unless said"),
    Parameter("until", "number", "end of the window, Unix seconds; now unless said"),
)
_BY = Parameter("by", "string", "one answer for each of these, separated by commas: device, site, model, digest")


class Sources(NamedTuple):
    """Where answers come from; the composer fills it in.

    Attributes:
        latest: (devices, site).
        series: (metric, since, until, devices, site, step_s).
        quantiles: (shares, since, until, devices, site, model, by).
        energy: (since, until, devices, site, by).
        gaps: (devices, site).
        now_t: Unix time.
    """

    latest: Callable[[Sequence[str], str], list[answers.Latest]]
    series: Callable[[str, float, float, Sequence[str], str, int], list[answers.Series]]
    quantiles: Callable[
        [Sequence[float], float, float, Sequence[str], str, str, Sequence[str]], list[answers.Quantiles]
    ]
    energy: Callable[[float, float, Sequence[str], str, Sequence[str]], list[answers.Energy]]
    gaps: Callable[[Sequence[str], str], list[answers.Gap]]
    now_t: Callable[[], float]


def questions(sources: Sources) -> dict[str, Question]:
    """Gives every path that answers JSON."""

    def window(given: Mapping[str, str]) -> tuple[float, float]:
        until_t = _number(given, "until", sources.now_t())
        return _number(given, "since", until_t - _HOUR_S), until_t

    def latest(given: Mapping[str, str]) -> object:
        return sources.latest(_words(given, "device"), given.get("site", ""))

    def series(given: Mapping[str, str]) -> object:
        devices, site = _words(given, "device"), given.get("site", "")
        return sources.series(given["metric"], *window(given), devices, site, int(_number(given, "step", 0)))

    def quantiles(given: Mapping[str, str]) -> object:
        shares = [_number({"q": word}, "q", 0) for word in _words(given, "q") or ("0.5", "0.99", "0.999")]
        devices, site, model = _words(given, "device"), given.get("site", ""), given.get("model", "")
        return sources.quantiles(shares, *window(given), devices, site, model, _words(given, "by"))

    def energy(given: Mapping[str, str]) -> object:
        return sources.energy(*window(given), _words(given, "device"), given.get("site", ""), _words(given, "by"))

    def gaps(given: Mapping[str, str]) -> object:
        return sources.gaps(_words(given, "device"), given.get("site", ""))

    metric = Parameter("metric", "string", "a number of a Sample, for example power_w", is_required=True)
    step = Parameter("step", "integer", "seconds of a bin; 0, the default, for single points")
    shares = Parameter("q", "string", "shares separated by commas; 0.5,0.99,0.999 unless said")
    model = Parameter("model", "string", "only this model")
    return {
        "/v1/latest": Question("newest Sample of each device", _SCOPE, list[answers.Latest], latest),
        "/v1/series": Question("one metric over time", (metric, *_WINDOW, *_SCOPE, step), list[answers.Series], series),
        "/v1/quantiles": Question(
            "latency quantiles of any group",
            (shares, *_WINDOW, *_SCOPE, model, _BY),
            list[answers.Quantiles],
            quantiles,
        ),
        "/v1/energy": Question("energy of any group", (*_WINDOW, *_SCOPE, _BY), list[answers.Energy], energy),
        "/v1/gaps": Question("Samples that are not there", _SCOPE, list[answers.Gap], gaps),
    }


def reply(paths: Mapping[str, Question], target: str) -> Reply:
    """Gives the answer to a GET of `target` (path and query)."""
    parts = urlsplit(target)
    question = paths.get(parts.path)
    if question is None:
        return refusal(404, f"nothing at {parts.path[:200]}; there are: {', '.join(paths)}, /openapi.json, /metrics")
    try:
        given = _given(question, parts.query)
        return Reply(200, JSON, msgspec.json.encode(question.ask(given)))
    except errors.UsageError as error:
        return refusal(400, str(error))
    except errors.StoreError as error:
        return refusal(503, str(error))


def refusal(status: int, message: str) -> Reply:
    """Gives an answer that says why not."""
    return Reply(status, JSON, msgspec.json.encode({"error": message}))


def _given(question: Question, query: str) -> dict[str, str]:
    """Gives the parameters by name."""
    names = [parameter.name for parameter in question.parameters]
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=32))
    except ValueError as error:
        raise errors.UsageError(f"the query is not name=value&name=value: {error}") from error
    for name in given:
        if name not in names:
            raise errors.UsageError(f"no parameter {name[:50]!r}{imports.nearest(name, names)}; there are: {names}")
    for parameter in question.parameters:
        if parameter.is_required and not given.get(parameter.name):
            raise errors.UsageError(f"the parameter {parameter.name!r} is missing: {parameter.meaning}")
    return given


def _number(given: Mapping[str, str], name: str, default: float) -> float:
    text = given.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 32503680000:  # year 3000, the bound of a Sample's time; says no to NaN as well
        raise errors.UsageError(f"{name} must be a number from 0 to 32503680000, but was given {text[:50]!r}")
    return value


def _words(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in given.get(name, "").split(",") if word.strip())
