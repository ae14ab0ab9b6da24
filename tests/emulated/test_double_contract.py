"""The double cannot drift: what it offers, and what the product calls, exists so in TensorRT's own classes.

Two witnesses: the stubs of TensorRT 10 (PyPI), and the classes of TensorRT for RTX, which has the API of TensorRT 11.
"""

import ast
import inspect
import re
from pathlib import Path

import harness
import pytest
import tensorrt_double

import edge_sdk.engines

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'edge_sdk[rtx]': the contract's second witness")

GONE_IN_11 = {
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    ("BuilderFlag", "INT8"),
    ("BuilderFlag", "FP16"),
}
"""The product asks with `hasattr` before it uses these."""

OWN = {"Switches"}
CLASSES = sorted(
    name
    for name, member in vars(tensorrt_double).items()
    if inspect.isclass(member) and member.__module__ == "tensorrt_double" and name[0] != "_" and name not in OWN
)
RECEIVERS = {
    "self._engine": "ICudaEngine", "self._context": "IExecutionContext", "self._runtime": "Runtime",
    "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "parser": "OnnxParser",
    "profile": "IOptimizationProfile", "cache": "ITimingCache", "error": "ParserError",
}  # fmt: skip
"""How the product names TensorRT's objects, and what they are."""


def stub_classes():
    found = {}
    for node in ast.walk(parsed_stubs()):
        if isinstance(node, ast.ClassDef):
            found.setdefault(node.name, {}).update(stub_members(node))
    return found


def parsed_stubs():
    """Parses the stubs without their few lines that are no Python (a default before a parameter that has none)."""
    lines = (harness.STUBS / "tensorrt_bindings" / "tensorrt.pyi").read_text().splitlines()
    for _ in range(50):
        try:
            return ast.parse("\n".join(lines))
        except SyntaxError as error:
            line = lines[error.lineno - 1]
            lines[error.lineno - 1] = line[: len(line) - len(line.lstrip())] + "def unreadable(self):"
    raise AssertionError("the stubs cannot be read")


def stub_members(node):
    """Gives names to parameter names of every overload; None for what is no method."""
    members = {}
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in item.decorator_list)
            names = None if is_property else {argument.arg for argument in item.args.args}
            if item.name in members and members[item.name] is not None and names is not None:
                names |= members[item.name]
            members[item.name] = names
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            members[item.target.id] = None
        elif isinstance(item, ast.Assign):
            members |= {target.id: None for target in item.targets if isinstance(target, ast.Name)}
    return members


STUBS = stub_classes()


def offered(name):
    """Gives what a class of the double offers: members, and attributes that its `__init__` sets."""
    klass = getattr(tensorrt_double, name)
    members = {key: value for key, value in vars(klass).items() if key[0] != "_" and not inspect.isclass(value)}
    source = inspect.getsource(klass)
    members |= dict.fromkeys(re.findall(r"self\.([A-Za-z]\w*)(?:, self\.\w+)* =", source))
    return members


def rtx_parameters(klass, member):
    return set(re.findall(r"(\w+): ", getattr(rtx, klass).__dict__[member].__doc__ or ""))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_the_double_is_one_of_tensorrt(name):
    assert name in STUBS
    assert hasattr(rtx, name)


@pytest.mark.parametrize(("name", "member"), [(name, member) for name in CLASSES for member in offered(name)])
def test_every_member_of_the_double_is_one_of_tensorrt(name, member):
    assert member in STUBS[name], f"tensorrt-stubs know no {name}.{member}"
    if (name, member) not in GONE_IN_11:
        assert hasattr(getattr(rtx, name), member), f"TensorRT for RTX knows no {name}.{member}"
    mine = offered(name)[member]
    if not inspect.isfunction(mine):
        assert STUBS[name][member] is None, f"{name}.{member} is a method in TensorRT"
        return
    parameters = set(inspect.signature(mine).parameters)
    assert STUBS[name][member] is not None, f"{name}.{member} is a property in TensorRT"
    assert parameters <= STUBS[name][member] | {"self"}
    assert parameters <= rtx_parameters(name, member) | {"self"}


@pytest.mark.parametrize(("member", "drifted"), [
    ("execute_async_v9", lambda self, stream_handle: True),
    ("set_input_shape", lambda self, name, dimensions: True),
    ("execute_async_v3", 7),
])  # fmt: skip
def test_a_double_that_drifts_is_caught(monkeypatch, member, drifted):
    monkeypatch.setattr(tensorrt_double.IExecutionContext, member, drifted, raising=False)
    with pytest.raises(AssertionError):
        test_every_member_of_the_double_is_one_of_tensorrt("IExecutionContext", member)


def product():
    folder = Path(edge_sdk.engines.__file__).parent
    return {name: ast.parse((folder / f"{name}.py").read_text()) for name in ("trt", "network", "nvidia")}


def uses():
    """Gives (file, line, class or None, member) of everything that the product takes from TensorRT."""
    for file, tree in product().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            owner = ast.unparse(node.value)
            if owner == "trt" and node.attr != "__version__":
                yield file, node.lineno, None, node.attr
            elif owner.startswith("trt.") and owner.count(".") == 1:
                yield file, node.lineno, owner[4:], node.attr
            elif file != "trt" and owner in RECEIVERS:
                yield file, node.lineno, RECEIVERS[owner], node.attr


USES = sorted(set(uses()), key=str)


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use[2] or 'trt'}.{use[3]}-{use[0]}-{use[1]}")
def test_everything_that_the_product_calls_is_in_tensorrt(use):
    _, _, klass, member = use
    if klass is None:
        assert member in STUBS
        assert hasattr(rtx, member)
    elif member not in ("Severity", "__init__"):
        assert member in STUBS[klass]
        assert (klass, member) in GONE_IN_11 or hasattr(getattr(rtx, klass), member)


def test_the_uses_were_found():
    found = {(klass, member) for _, _, klass, member in USES}
    assert ("IExecutionContext", "execute_async_v3") in found
    assert ("IBuilderConfig", "set_timing_cache") in found
    assert ("TensorIOMode", "INPUT") in found
    assert len(found) >= 40


def test_no_part_of_the_double_would_pass_as_the_real_thing():
    assert not hasattr(tensorrt_double, "init_libnvinfer_plugins")
    assert "double" in (tensorrt_double.__doc__ or "")
