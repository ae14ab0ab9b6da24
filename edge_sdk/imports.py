"""Turns an import string, ``module:attribute``, into the object: the only place that imports by name.

Three tables need it: the back ends of `engines` and the commands of `cli`, so that nothing heavy is imported until
it is chosen, and the user's own ``module:function`` for data and metrics.
"""

import importlib
from collections.abc import Iterable

from edge_sdk import errors


def object_from_spec(spec: str) -> object:
    """Gives the object that ``module:attribute`` names.

    Args:
        spec: for example ``mypackage.data:samples``.

    Raises:
        UsageError: the string is not of that form, or there is no such module or attribute. A module that exists
            but fails on an import of its own raises that ModuleNotFoundError unchanged: it is another mistake.

    >>> object_from_spec("math:sqrt")(9.0)
    3.0
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise _refusal(spec, "is not of the form module:attribute")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise _refusal(spec, f"names no module {error.name!r} that Python can find") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise _refusal(spec, f"names nothing: {module_name} has no {attribute!r}")
        found = getattr(found, part)
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """Gives `` (did you mean 'x'?)`` for the known word nearest to `word`, or an empty string.

    >>> nearest("brokr", ["broker", "site"])
    " (did you mean 'broker'?)"
    """
    import difflib  # noqa: PLC0415 - only a mistake needs it, and it doubles the start of every command

    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _refusal(spec: str, problem: str) -> errors.UsageError:
    """Words the refusal of an import string."""
    return errors.UsageError(f"{spec!r} {problem}; expected module:attribute, for example mypackage.data:samples")
