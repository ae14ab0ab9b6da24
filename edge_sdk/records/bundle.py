"""What a bundle says about itself: the contents of manifest.json, calibration.json and the verdict in report.json."""

from typing import Annotated, Literal

import msgspec

from edge_sdk.records import tensors

SCHEMA = 1
"""Version of the bundle format that this SDK writes; a reader refuses a higher one."""

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,62}$(?!\n)")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)")]


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How raw values of one input become what the network takes: ``(raw * scale - mean) / std``.

    What stands at its default is not written, so that a reader of before takes whatever it can follow.

    Attributes:
        scale: factor of the raw values.
        mean: what is taken off after that, one value, or one per channel.
        std: what it is divided by then, likewise.
        resize: how a picture of another size gets the network's: ``stretch`` in both directions, ``letterbox`` keeps
            its proportions and fills the rest with `fill`, ``crop`` keeps them and cuts what stands out.
        fill: grey level around a letterboxed picture, before `scale`.
        color: order of three channels as the network takes them, ``rgb`` or ``bgr``.
        layout: ``nchw`` or ``nhwc``; ``auto`` is what the input's shape says, channels first where both fit.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    fill: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114
    color: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["auto", "nchw", "nhwc"] = "auto"


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Digest


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What calibration saw of one tensor, and the symmetric INT8 scale chosen from it."""

    minimum: float
    maximum: float
    threshold: Annotated[float, msgspec.Meta(gt=0)]
    scale: Annotated[float, msgspec.Meta(gt=0)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the INT8 ranges came about; enough to tell whether two builds saw the same data.

    Attributes:
        method: name of the threshold rule.
        count: samples used.
        skipped: unreadable files that were left out, each with its reason.
        samples: SHA-256 of every sample's raw bytes, in order.
        preprocess: SHA-256 of the canonical preprocessing record.
        ranges: by tensor name.
    """

    method: str
    count: int
    skipped: dict[str, str]
    samples: tuple[Digest, ...]
    preprocess: Digest
    ranges: dict[str, Range]


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure on the evaluation data with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The accuracy gate's answer. `drop` and `max_drop` are in points (hundredths of the metric's scale).

    `drop_low` and `drop_high` are the 95 % interval of the drop, None in a bundle of before they were measured.
    """

    metric: str
    samples: int
    float_score: Score
    int8_score: Score
    agreement: Score
    drop: float
    max_drop: float
    passed: bool
    drop_low: float | None = None
    drop_high: float | None = None


class Pinned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node that was left in float, and why."""

    node: str
    reason: str


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change to the weights that was tried before quantisation.

    Attributes:
        name: ``cross-layer equalisation`` or ``bias correction``.
        layers: how many layers (of equalisation: pairs of layers) it changed.
        before_db: SQNR of the worst output on held-out calibration samples without it.
        after_db: the same with it.
        kept: whether the model in the bundle has it.
    """

    name: str
    layers: int
    before_db: float
    after_db: float
    kept: bool


class WorthIt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether INT8 is worth it.

    Attributes:
        answer: ``yes``, ``no``, or ``not measured`` where only a device can tell.
        reason: in a sentence.
        basis: what it rests on: accuracy, compute ratio, roofline, measured on a device.
    """

    answer: str
    reason: str
    basis: tuple[str, ...]


class CompilerReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What NVIDIA's compiler said of the INT8 graph.

    Attributes:
        name: ``tensorrt-rtx`` or ``tensorrt``; empty when none was at hand.
        version: of the compiler.
        ok: True when an engine came out; None when no compiler was at hand.
        engine_bytes: size of the serialised engine.
        seconds: wall time of parse and build.
        messages: the compiler's own warnings and errors.
    """

    name: str
    version: str
    ok: bool | None
    engine_bytes: int
    seconds: float
    messages: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """manifest.json: what the bundle is and every file in it.

    Attributes:
        schema: version of this format.
        name: of the model.
        version: of the model, as its owner counts.
        counter: monotonic; a device never goes back to a lower one unless told to.
        sdk: version of edge_sdk that packed it.
        precision: ``int8``, ``fp16`` or ``float``.
        inputs: what the network takes.
        outputs: what it gives.
        preprocess: by input name; absent means raw values go in as they are.
        classes: names of the classes, if known.
        calibration: SHA-256 of calibration.json.
        verdict: of the accuracy gate.
        files: every file but the manifest and its signature.
    """

    schema: Annotated[int, msgspec.Meta(ge=1)]
    name: Name
    version: Version
    counter: Annotated[int, msgspec.Meta(ge=0)]
    sdk: str
    precision: str
    inputs: tuple[tensors.TensorSpec, ...]
    outputs: tuple[tensors.TensorSpec, ...]
    preprocess: dict[str, Preprocess]
    classes: tuple[str, ...]
    calibration: Digest
    verdict: Verdict
    files: dict[FileName, FileEntry]
