"""Every exception of edge_sdk, ordered by what the caller does about it.

The tree, with the exit code that ``edge-sdk`` gives for each branch::

    EdgeError
    ├ GateError    1   the answer is no: the model missed its accuracy budget; relax it or mend the model
    ├ CompatibilityError 1  this machine can't build or run the bundle; field by field why
    ├ UsageError   2   the call or its input is wrong: fix it, then call again
    │ ├ ModelError       the model file can't be used: not ONNX, too old, an unknown operator
    │ ├ DataError        the calibration or evaluation data can't be used
    │ └ SettingsError    a settings file has an unknown key or a bad value
    ├ BundleError  3   do not use this bundle: damaged, incomplete, or with files that it does not list
    ├ EngineError  4   the engine could not be built, or failed while running
    │ ├ InputError       the request does not fit the model; nothing was run
    │ └ BusyError        no engine became free in time; nothing was run, try again later
    ├ LinkError    5   the broker is not there or refused: try again later
    │ ├ PayloadError     bytes from the network that are not one of our records; count them and go on
    │ └ OversizeError    the broker takes no message of this size: put it aside, the others still go
    └ StoreError   70  the collector's database did not take a batch: nothing was committed, it is tried again

No error of MQTT, ONNX, ONNX Runtime, TensorRT or HTTP leaves the room that owns the library: it is translated
once, at that door, to the most specific class above, and kept as ``__cause__``.
"""


class EdgeError(Exception):
    """Base of everything that edge_sdk raises on purpose."""

    exit_code = 70


class GateError(EdgeError):
    """The answer is no: the INT8 model lost more accuracy than it may."""

    exit_code = 1


class CompatibilityError(EdgeError):
    """The answer is no: a machine can't build or run the bundle. The message compares field by field."""

    exit_code = 1


class UsageError(EdgeError):
    """The call or its input is wrong; the message says what was expected, what came and what to do."""

    exit_code = 2


class ModelError(UsageError):
    """The model file can't be used."""


class DataError(UsageError):
    """The calibration or evaluation data can't be used."""


class SettingsError(UsageError):
    """A settings file has an unknown key or a value outside its bounds."""


class BundleError(EdgeError):
    """The bundle is damaged, incomplete, or has files that its manifest does not list."""

    exit_code = 3


class EngineError(EdgeError):
    """The engine could not be built, or failed while running."""

    exit_code = 4


class InputError(EngineError):
    """A request does not fit the model: wrong name, dtype or shape. Nothing was run."""


class BusyError(EngineError):
    """No engine became free in time: the queue was full, or the request's deadline passed. Nothing was run."""


class LinkError(EdgeError):
    """The broker can't be reached or refused; nothing was delivered, so try again."""

    exit_code = 5


class PayloadError(LinkError):
    """Bytes from the network that are not the record they should be."""


class OversizeError(LinkError):
    """The broker takes no message of this size, now or later; nothing was sent."""


class StoreError(EdgeError):
    """The collector's database did not take a batch: locked, full or broken. Nothing of the batch was committed."""
