"""The task that every model goes through last: an ONNX file of strangers to one that the builder can trust."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx.inliner
import onnx.numpy_helper
import onnx.version_converter

from edge_sdk import errors
from edge_sdk.engines import ort
from edge_sdk.host.convert import onnx_checks, onnx_file, onnx_shapes, probe
from edge_sdk.host.convert.jobs import Job, Made
from edge_sdk.numerics import closeness
from edge_sdk.records.tensors import TensorSpec

RAISED_BELOW = 13
"""Opsets below this have no per-channel quantisation."""

RAISED_TO = 17
"""What they are raised to: the newest that TensorRT 8.6 reads in full."""

_SHOWN = 3
"""Renamed nodes that a note tells of."""

_CONVERTER_ERRORS = (RuntimeError, ValueError, IndexError, onnx.version_converter.ConvertError)


def accepted(job: Job) -> Made:
    """Writes a model that passed every check, raised to a working opset and cleaned, to the job's target.

    Raises:
        ModelError: the model can't be used, or would answer differently after being raised.
        UsageError: the example inputs do not fit it.
    """
    path = Path(job.source)
    proto = onnx_file.read_proto(path)
    origin = _origin(proto)
    opset = onnx_checks.checked_opset(proto)
    specs = onnx_checks.checked_inputs(proto.graph)
    if not job.keep_quantized:
        onnx_checks.check_operators(proto, opset)
    stored = onnx_file.stored_tensors(proto, path)
    onnx_file.check_standard(path)
    onnx_checks.check_weights(proto, path)
    notes = _renamed(proto.graph)
    target = Path(job.target)
    is_large = path.stat().st_size + sum(item.length for item in stored) > job.inline_bytes
    if is_large:
        onnx_file.write_beside(stored, probe.beside(target))
    else:
        onnx_file.take_in(stored)
    if job.keep_quantized:
        _write(proto, target)
        return Made(origin=origin, notes=notes)
    if notes and not is_large:
        job = msgspec.structs.replace(job, source=str(target.with_name("renamed.onnx")))
        _write(proto, Path(job.source))
    made = (
        _kept_large(proto, origin, opset, target)
        if is_large
        else _improved(job, proto, specs, origin, opset, is_whole=bool(notes) or not stored)
    )
    return msgspec.structs.replace(made, notes=notes + made.notes)


def _improved(
    job: Job, proto: onnx.ModelProto, specs: tuple[TensorSpec, ...], origin: str, opset: int, *, is_whole: bool
) -> Made:
    """Raises and cleans a model that is small enough to be held, and checks that its outputs stay.

    `is_whole` where the source is one file.
    """
    before = _reference(job, proto, specs)
    source = job.source if is_whole and not _is_to_change(proto, opset) else None
    plain = _plain(proto)
    notes = []
    if opset < RAISED_BELOW:
        plain, note = _raised(plain, opset, before)
        notes.append(note)
    needed = _pruned(plain)
    cleaned, note = _cleaned(needed, source or onnx_bytes(needed), Path(job.target), before)
    notes.append(note)
    onnx_checks.check_no_bodies(cleaned.graph, proto.graph)
    if cleaned is needed:
        _write(needed, Path(job.target))
    return Made(origin=origin, notes=tuple(notes), is_cleaned=cleaned is not needed)


def _renamed(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Gives nodes names of their own, in place, where several share one, and says so: ONNX Runtime refuses those."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    changes = []
    for node in graph.node:
        if node.name in seen:
            name = next(new for number in itertools.count(2) if (new := f"{node.name}_{number}") not in taken)
            changes.append(f"{node.name!r} is {name!r}")
            node.name = name
            taken.add(name)
        elif node.name:
            seen.add(node.name)
    rest = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    text = f"nodes that shared a name were renamed: another {', another '.join(changes[:_SHOWN])}{rest}"
    return (text,) if changes else ()


def _reference(job: Job, proto: onnx.ModelProto, specs: tuple[TensorSpec, ...]) -> probe.Reference:
    """Gives what the model answers; where it does not run, the message has its own nodes' names."""
    try:
        before = probe.reference(ort.runner_from_model(job.source, is_brief=True), specs, job)
    except (errors.ModelError, errors.EngineError):
        _check_not_empty(proto, specs)
        probe.reference(ort.runner_from_model(job.source, is_optimized=True), specs, job)  # says the same of its nodes
        raise
    if not before.feeds:
        _check_not_empty(proto, specs)
    return before


def _check_not_empty(proto: onnx.ModelProto, specs: tuple[TensorSpec, ...]) -> None:
    """Looks for what holds nothing where no more than the batch is free; else that hangs on the data's shapes."""
    if not any(None in spec.shape[1:] for spec in specs):
        onnx_shapes.check_not_empty(proto, {spec.name: tuple(axis or 1 for axis in spec.shape) for spec in specs})


def _kept_large(proto: onnx.ModelProto, origin: str, opset: int, target: Path) -> Made:
    """Writes a model whose weights are too large to be held, and lie beside it."""
    onnx_checks.check_no_bodies(proto.graph, proto.graph)
    if opset < RAISED_BELOW:
        raise errors.ModelError(
            f"the model has opset {opset} and weights too large to be raised to {RAISED_TO} here; export it with "
            f"opset_version={RAISED_TO}"
        )
    plain = _pruned(_plain(proto))
    _write(plain, target)
    ort.specs_from_model(str(target))  # loads it, which maps the weights instead of reading them
    return Made(origin=origin, notes=("not cleaned: its weights are too large to be held as one message",))


def _is_to_change(proto: onnx.ModelProto, opset: int) -> bool:
    """Says whether a model is another before it is cleaned, so that its file can't be taken for it."""
    is_standard = all(entry.domain in onnx_checks.STANDARD_DOMAINS for entry in proto.opset_import)
    weights = {tensor.name for tensor in proto.graph.initializer}
    is_overridable = any(value.name in weights for value in proto.graph.input)
    is_plain = is_standard and not (proto.functions or proto.training_info or is_overridable)
    return opset < RAISED_BELOW or not is_plain or len(_live(proto.graph)) < len(proto.graph.node)


def _plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Gives the model with local functions written out, weights not overridable as inputs, and no training part."""
    plain = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    constants = {tensor.name for tensor in plain.graph.initializer}
    inputs = [value for value in plain.graph.input if value.name not in constants]
    if len(inputs) < len(plain.graph.input):
        del plain.graph.input[:]
        plain.graph.input.extend(inputs)
        plain.ir_version = max(plain.ir_version, 4)  # the first that has weights that are no inputs
    del plain.training_info[:]
    standard = [entry for entry in plain.opset_import if entry.domain in onnx_checks.STANDARD_DOMAINS]
    del plain.opset_import[:]
    plain.opset_import.extend(standard)
    return plain


def _pruned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Takes out nodes that no output needs: ONNX Runtime keeps them, and folds nothing that they touch."""
    kept = _live(proto.graph)
    if len(kept) < len(proto.graph.node):
        del proto.graph.node[:]
        proto.graph.node.extend(kept)
    return proto


def _live(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Gives the nodes that an output needs."""
    needed = {value.name for value in graph.output}
    live = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            live.append(node)
            for part in onnx_checks.with_bodies(node):
                needed.update(part.input)
    return live[::-1]


def _raised(proto: onnx.ModelProto, opset: int, before: probe.Reference) -> tuple[onnx.ModelProto, str]:
    advice = f"export it again with opset_version={RAISED_TO}"
    if not before.feeds:
        raise errors.ModelError(
            f"the model has opset {opset} and must be raised to {RAISED_TO}, but runs on no usual size of its inputs, "
            f"so that this can't be checked: give example inputs (inputs=), or {advice}"
        )
    try:
        raised = onnx.version_converter.convert_version(onnx.shape_inference.infer_shapes(proto), RAISED_TO)
    except _CONVERTER_ERRORS as error:
        raise errors.ModelError(
            f"onnx can't raise the model from opset {opset} to {RAISED_TO}: {error}; {advice}"
        ) from error
    raised.ir_version = max(raised.ir_version, 8)  # of the release that brought opset 17
    found = probe.difference_to(before, ort.runner_from_model(onnx_bytes(raised), is_brief=True))
    moved = probe.difference_text(found)
    if not found.is_within_tolerance:
        raise errors.ModelError(
            f"raising the model from opset {opset} to {RAISED_TO} would move its outputs {moved}, more than "
            f"{closeness.FLOAT_TOLERANCE} of it; {advice}"
        )
    return raised, f"raised from opset {opset} to {RAISED_TO}, which moved its outputs {moved}"


def _cleaned(
    proto: onnx.ModelProto, stored: str | bytes, target: Path, before: probe.Reference
) -> tuple[onnx.ModelProto, str]:
    """Gives the model after ONNX Runtime's basic optimiser, and writes it; or as it is where that would change it.

    `stored` is the model as a file's path, or serialised.
    """
    if not before.feeds:
        return proto, "not cleaned: it runs on no usual size of its inputs, so that nothing could be compared"
    run = ort.save_optimized(stored, target)
    cleaned = onnx.load_model_from_string(target.read_bytes())
    if any(node.domain not in onnx_checks.STANDARD_DOMAINS for node in onnx_checks.nodes_in(cleaned)):
        return proto, "not cleaned: ONNX Runtime's optimiser left the standard operators"
    has_changed = _fold_casts(cleaned.graph)
    _sort(cleaned)
    _write(cleaned, target)
    found = probe.difference_to(before, ort.runner_from_model(str(target), is_brief=True) if has_changed else run)
    moved = probe.difference_text(found)
    if not found.is_within_tolerance:
        return proto, f"not cleaned: that would have moved its outputs {moved}"
    return cleaned, f"{_cleaning_text(len(proto.graph.node), len(cleaned.graph.node))}, which moved its outputs {moved}"


def _cleaning_text(before: int, after: int) -> str:
    """Says what cleaning did; it writes operators such as HardSwish out as several simple ones.

    >>> _cleaning_text(65, 77)
    'cleaned, with some operators written out as several simple ones (65 nodes to 77)'
    """
    if after > before:
        return f"cleaned, with some operators written out as several simple ones ({before} nodes to {after})"
    return f"cleaned from {before} nodes to {after}"


def _fold_casts(graph: onnx.GraphProto) -> bool:
    """Turns float16 weights that are cast to float32 into float32 weights, in place; says whether there were any.

    ONNX Runtime computes most of a float16 network in float32 on a CPU and leaves the casts of the weights in the
    graph, behind which no one would see that they are weights.
    """
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    casts = [
        node
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in halves and node.attribute[0].i == onnx.TensorProto.FLOAT
    ]
    for node in casts:
        values = onnx.numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for part in onnx_checks.with_bodies(node) for name in part.input}
    used.update(value.name for value in graph.output)
    for name in {node.input[0] for node in casts} - used:
        graph.initializer.remove(halves[name])
    return bool(casts)


def _sort(proto: onnx.ModelProto) -> None:
    """Makes equal models equal bytes: the optimiser writes weights in the order of a hash table."""
    standard = [entry for entry in proto.opset_import if entry.domain in onnx_checks.STANDARD_DOMAINS]
    del proto.opset_import[:]
    proto.opset_import.extend(standard)
    proto.graph.initializer.sort(key=lambda tensor: str(tensor.name))
    proto.graph.value_info.sort(key=lambda value: str(value.name))


def onnx_bytes(proto: onnx.ModelProto) -> bytes:
    """Gives the bytes of a model below 2 GiB, the same for the same model."""
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _write(proto: onnx.ModelProto, target: Path) -> None:
    target.write_bytes(onnx_bytes(proto))


def _origin(proto: onnx.ModelProto) -> str:
    """Words what a file says of itself, without what could upset a terminal or a page."""
    opset = max(
        (entry.version for entry in proto.opset_import if entry.domain in onnx_checks.STANDARD_DOMAINS), default=0
    )
    producer = "".join(c for c in f"{proto.producer_name} {proto.producer_version}"[:60] if c.isprintable()).strip()
    return f"ONNX opset {opset}{f' of {producer}' if producer else ''}"
