"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import edge_sdk

NEEDS_GPU_OR_WHEEL = {
    "edge_sdk.engines.trt",
    "edge_sdk.engines.cuda",
    "edge_sdk.engines.network",
    "edge_sdk.engines.rtx",
    "edge_sdk.__main__",
}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(edge_sdk.__path__, "edge_sdk.")
    if module.name not in NEEDS_GPU_OR_WHEEL
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_examples_are_found_at_all():
    tried = sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES)
    assert tried >= 20
