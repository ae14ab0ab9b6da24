"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import edge_sdk

OPTIONAL = {
    "cv2",
    "grpc", "keras", "pycuda", "pynvml", "tensorflow", "tensorrt", "tensorrt_rtx_bindings", "tf2onnx", "tflite", "torch", "torch_pruning",
    "zmq",
}  # fmt: skip
"""Packages of extras that a development machine need not have; each is imported at the top of its one door."""

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(edge_sdk.__path__, "edge_sdk.")
    if module.name != "edge_sdk.__main__"
)


def module_of(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed here")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(module_of(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_examples_are_found_at_all():
    light = [name for name in MODULES if name.startswith(("edge_sdk.wire", "edge_sdk.numerics", "edge_sdk.cli.table"))]
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in light) >= 10
