"""One request over the wire: parsed, run, answered, and counted once, whatever the transport."""

from collections.abc import Callable
from typing import TypeVar

from edge_sdk import errors
from edge_sdk.device.serve.models import NO_WISH, Model, Wish, error_kind
from edge_sdk.device.serve.recorder import Spent
from edge_sdk.device.serve.v2 import Request
from edge_sdk.engines.protocol import Tensors

_Answer = TypeVar("_Answer")


def answered(model: Model, parse: Callable[[], Request], respond: Callable[[Request, Tensors], _Answer]) -> _Answer:
    """Gives the answer to one request.

    Args:
        model: taken for this request.
        parse: gives the request; its time counts as ``pre``.
        respond: makes the answer of the outputs; its time counts as ``post``.

    Raises:
        InputError: the request does not fit the model.
        BusyError: no engine became free in time.
        EngineError: the engine failed.
    """
    tick_ns, recorder = model.tick_ns, model.recorder
    entered_ns = tick_ns()
    recorder.enter()
    try:
        request = parse()
        wish = Wish(request.priority, request.timeout_us) if request.priority or request.timeout_us else NO_WISH
        outputs, spent = model.run(request.feeds, entered_ns, wish)
        ran_ns = tick_ns()
        answer = respond(request, outputs)
        recorder.record(Spent(spent.engine, spent.queue_ns, spent.pre_ns, tick_ns() - ran_ns))
    except errors.EdgeError as error:
        recorder.record_error(error_kind(error), tick_ns() - entered_ns)
        raise
    finally:
        recorder.leave()
    return answer
