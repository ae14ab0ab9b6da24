"""PyTorch modules and exported programs -> ONNX. The only door to torch in this room.

A ``.pt2`` file is nearly code: torch restores its symbolic shapes with an evaluating parser. The pickles in it are read
with weights_only, and the child has limits, but that is no jail: open only exported programs of people you trust.
"""

import inspect
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from edge_sdk import errors, imports
from edge_sdk.engines import ort
from edge_sdk.host.convert import probe
from edge_sdk.host.convert.jobs import Job, Made
from edge_sdk.numerics import closeness

OPSET = 18
"""What the dynamo exporter writes natively; TensorRT 8.6 and later read it."""

_CODE_IN_ARCHIVE = ("custom_obj_", "opaque_obj_")
_ARCHIVE_ERRORS = (RuntimeError, ValueError, KeyError, AttributeError, TypeError, AssertionError, OSError)


class _Call(NamedTuple):
    """A module and the arguments to trace it with.

    Attributes:
        module: in eval mode, or an exported program.
        run: calls it without gradients.
        arguments: example tensors, in order.
        names: the inputs' names in the same order; empty to take those of ``forward``.
    """

    module: Any
    run: Callable[..., Any]
    arguments: tuple[torch.Tensor, ...]
    names: tuple[str, ...] = ()


def program_exported(job: Job) -> Made:
    """Exports a ``.pt2`` file, as torch.export.save writes it; its free axes stay free.

    Raises:
        ModelError: it can't be read, holds objects other than tensors, or can't be exported.
        UsageError: it has no example inputs, and none were given.
    """
    path = Path(job.source)
    _check_archive(path)
    try:
        program = torch.export.load(path)
    except _ARCHIVE_ERRORS as error:
        raise errors.ModelError(
            f"torch {torch.__version__} can't read {path}: {_cause(error)}; save it with this version"
        ) from error
    given = probe.read_examples(job) or (program.example_inputs[0] if program.example_inputs else ())
    if not given:
        raise errors.UsageError(f"{path.name} holds no example inputs to compare on: give inputs=")
    call = _Call(program, program.module(), _tensors(given, torch.device("cpu")))
    note = _exported(call, job, free=None)
    return Made(origin=f"PyTorch {torch.__version__} exported program {path.name}", notes=(note,))


def function_exported(job: Job) -> Made:
    """Exports what ``module:function`` or ``file.py:function`` gives: a module, or (module, example inputs).

    Raises:
        UsageError: there is no such function, or it gives something else.
        ModelError: the module can't be exported, or answers otherwise as ONNX.
    """
    holder, _, name = job.source.rpartition(":")
    if holder.endswith(".py"):
        sys.path.insert(0, str(Path(holder).parent))  # as for a script: it may import its neighbours
        holder = Path(holder).stem
    function = imports.object_from_spec(f"{holder}:{name}")
    given = function() if callable(function) and not isinstance(function, torch.nn.Module) else function
    module, inputs = given if isinstance(given, tuple) and len(given) == 2 else (given, ())
    names, examples = job.example_names, probe.read_examples(job)
    if not examples and isinstance(inputs, Mapping):
        names, examples = tuple(inputs), tuple(inputs.values())
    elif not examples:
        examples = tuple(inputs) if isinstance(inputs, Sequence) else (inputs,)
    return _module_exported(module, examples, names, job, job.source)


def module_exported(module: object, job: Job) -> Made:
    """Exports a module that the caller holds, in eval mode; afterwards it is as it was.

    Raises:
        UsageError: there are no example inputs.
        ModelError: the module can't be exported, or answers otherwise as ONNX.
    """
    return _module_exported(module, probe.read_examples(job), job.example_names, job, type(module).__name__)


def _module_exported(module: object, examples: Sequence[Any], names: tuple[str, ...], job: Job, label: str) -> Made:
    if not isinstance(module, torch.nn.Module):
        raise errors.UsageError(
            f"{label} gave a {type(module).__name__}; expected a torch.nn.Module, or (module, example inputs)"
        )
    if not examples:
        raise errors.UsageError(
            f"{label} needs example inputs to be traced: give inputs=, or let the function return (module, inputs)"
        )
    weight = next(module.parameters(), None)
    arguments = _tensors(examples, torch.device("cpu") if weight is None else weight.device)
    modes = {part: part.training for part in module.modules()}
    try:
        notes = _with_free_batch(_Call(module.eval(), module, arguments, names), job)
    finally:
        for part, is_training in modes.items():
            part.training = is_training
    return Made(origin=f"PyTorch {torch.__version__} module {label}", notes=notes)


def _with_free_batch(call: _Call, job: Job) -> tuple[str, ...]:
    """Exports with a free first axis; where the module does not allow that, with the batch of the example."""
    batch = next((len(tensor) for tensor in call.arguments if tensor.ndim), 0)
    free = tuple({0: "batch"} if tensor.ndim and len(tensor) == batch else {} for tensor in call.arguments)
    # torch takes an axis of size 1 for a constant, so it is traced with two samples.
    wide = tuple(
        torch.cat((tensor, tensor)) if axes and batch == 1 else tensor
        for tensor, axes in zip(call.arguments, free, strict=True)
    )
    try:
        note = _exported(call._replace(arguments=wide), job, free=free, also=call)
        _check_free(job, free)
    except (errors.ModelError, errors.EngineError) as error:
        fixed = _exported(call, job, free=None)
        return fixed, f"the batch is fixed at {batch}, as in the example inputs: {error}"
    return (note,)


def _check_free(job: Job, free: tuple[dict[int, str], ...]) -> None:
    """Raises ModelError when torch took an axis that should be free for a constant."""
    specs, _ = ort.specs_from_model(job.target)
    if any(axes and spec.shape[0] is not None for spec, axes in zip(specs, free, strict=True)):
        raise errors.ModelError("the module computes with the size of the batch")


def _exported(call: _Call, job: Job, *, free: tuple[dict[int, str], ...] | None, also: _Call | None = None) -> str:
    """Exports to the job's target and compares it with torch; gives a note of how far they lie apart.

    Args:
        call: what to trace, and to compare on.
        job: where the file goes.
        free: names of free axes by input; None leaves them as the program or the example has them.
        also: a call with other sizes of the free axes, to compare on as well.
    """
    outputs = _answers(call)
    _trace(call, outputs, job, free)
    specs, found = ort.specs_from_model(job.target)
    leaves = _leaves(outputs)
    if len(specs) != len(call.arguments) or len(found) != len(leaves):
        raise errors.ModelError(
            f"as ONNX the module has {len(specs)} inputs and {len(found)} outputs, but was traced with "
            f"{len(call.arguments)} and gave {len(leaves)}; take unused inputs out of forward"
        )
    run = ort.runner_from_model(job.target)
    notes = []
    for one in (call, also) if also else (call,):
        feeds = {spec.name: _array(tensor) for spec, tensor in zip(specs, one.arguments, strict=True)}
        given = {spec.name: _array(leaf) for spec, leaf in zip(found, _leaves(_answers(one)), strict=True)}
        notes.append(_compared(given, run(feeds)))
        probe.write_examples(list(feeds.values()), probe.fed_file(Path(job.target)))
    return notes[0]


def _compared(expected: dict[str, Any], given: Mapping[str, Any]) -> str:
    """Gives a note of how far ONNX Runtime lies from torch; raises ModelError when it is too far."""
    apart = closeness.difference(expected, given)
    text = probe.difference_text(apart)
    if not apart.is_within_tolerance:
        raise errors.ModelError(
            f"as ONNX the module answers differently from torch, {text}, more than {closeness.FLOAT_TOLERANCE}; "
            "does it draw random numbers, or keep state between calls?"
        )
    return f"exported with opset {OPSET}; its outputs differ from torch's {text}"


def _answers(call: _Call) -> Any:
    with torch.no_grad():
        return call.run(**_by_name(call)) if _are_keywords(call) else call.run(*call.arguments)


def _trace(call: _Call, outputs: Any, job: Job, free: tuple[dict[int, str], ...] | None) -> None:
    """Lets torch write the ONNX file."""
    names = tuple(outputs) if isinstance(outputs, Mapping) else ()
    is_program = not isinstance(call.module, torch.nn.Module)
    keywords = _by_name(call) if _are_keywords(call) else {}
    shapes: Any = dict(zip(call.names, free, strict=True)) if keywords and free else free
    options: dict[str, Any] = {} if is_program else {"kwargs": keywords or None, "dynamic_shapes": shapes}
    weights = (call.module.state_dict if is_program else call.module.state_dict()).values()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's deprecations of its own insides
            torch.onnx.export(
                call.module,
                () if is_program or keywords else call.arguments,
                job.target,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(call.names) or None,
                output_names=list(map(str, names)) or None,
                external_data=sum(weight.nbytes for weight in weights) > job.inline_bytes,
                verbose=False,
                **options,
            )
    except Exception as error:  # boundary: torch traces the module's own code, which raises anything
        raise errors.ModelError(
            f"torch {torch.__version__} can't export the module: {_cause(error)}; try torch.export.export on it"
        ) from error


def _are_keywords(call: _Call) -> bool:
    """Whether the inputs are named as the parameters of ``forward`` are."""
    if not call.names or not isinstance(call.module, torch.nn.Module):
        return False
    return set(call.names) <= inspect.signature(call.module.forward).parameters.keys()


def _by_name(call: _Call) -> dict[str, torch.Tensor]:
    return dict(zip(call.names, call.arguments, strict=True))


def _check_archive(path: Path) -> None:
    """Refuses an exported program that holds pickled objects, which would run as code when opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise errors.ModelError(
            f"{path} is not an exported program ({error}); save one with torch.export.save"
        ) from error
    found = [name for name in names if name.rpartition("/")[2].startswith(_CODE_IN_ARCHIVE)]
    if found:
        raise errors.ModelError(
            f"{path} holds pickled objects ({found[0]}), which would run as code; export the module with tensors only"
        )


def _tensors(examples: Sequence[Any], device: torch.device) -> tuple[torch.Tensor, ...]:
    return tuple(torch.as_tensor(example).to(device) for example in examples)


def _leaves(outputs: Any) -> list[torch.Tensor]:
    """Gives the tensors of nested outputs in the order in which the exporter flattens them."""
    if isinstance(outputs, Mapping):
        return [leaf for value in outputs.values() for leaf in _leaves(value)]
    if isinstance(outputs, tuple | list):
        return [leaf for value in outputs for leaf in _leaves(value)]
    return [outputs] if isinstance(outputs, torch.Tensor) else []


def _array(tensor: torch.Tensor) -> Any:
    if tensor.dtype == torch.bfloat16:
        raise errors.ModelError(
            "the module takes or gives bfloat16, which numpy does not have; call .float() on it first"
        )
    return tensor.detach().cpu().numpy()


def _cause(error: Exception) -> str:
    """Gives the first line of what went wrong first."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return f"{type(root).__name__}: {str(root).strip().partition(chr(10))[0][:400]}"
