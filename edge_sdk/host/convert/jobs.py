"""What the parent asks of the child that opens a model, and what it answers: small records, no framework."""

from typing import Literal

import msgspec

from edge_sdk.host.convert.limits import Limits


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step: a source to an ONNX file.

    Attributes:
        source: path of the model, or ``module:function`` that gives one.
        target: where the ONNX file goes; weights above `inline_bytes` go to the same name with ``.data``.
        examples: ``.npz`` file of example inputs, ``arr_0``, ``arr_1`` and so on; None when there are none.
        example_names: their names, in the same order; empty when they are only in order.
        keep_layout: image inputs of TensorFlow stay ``[N, H, W, C]``.
        keep_quantized: a quantised ONNX model passes, as it is; for auditing one.
        inline_bytes: see Limits.
    """

    source: str
    target: str
    examples: str | None = None
    example_names: tuple[str, ...] = ()
    keep_layout: bool = False
    keep_quantized: bool = False
    inline_bytes: int = Limits().inline_bytes


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a step made.

    Attributes:
        origin: what the source was, for people: ``ONNX opset 11``.
        notes: what was changed and measured on the way, a sentence each.
        transposed: inputs that were ``[N, H, W, C]`` in the source and are ``[N, C, H, W]`` now.
        is_cleaned: its constants are folded.
    """

    origin: str
    notes: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    is_cleaned: bool = False


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the child reads first.

    Attributes:
        task: import string of a function from Job to Made.
        job: its argument.
        limits: what the child puts on itself before anything else.
        parent: process id of the one who asked; the child ends when it does.
    """

    task: str
    job: Job
    limits: Limits
    parent: int


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the child writes last.

    Attributes:
        made: what came of it; None when it was refused.
        refusal: what to tell the user; for ``missing`` the Python package that is not installed.
        kind: class of the error to raise for it, or the reason that the parent words.
    """

    made: Made | None = None
    refusal: str = ""
    kind: Literal["ModelError", "UsageError", "memory", "missing"] = "ModelError"
