"""The public surface is a tested list."""

import ast
from pathlib import Path

import pytest

import edge_sdk
from edge_sdk import errors

STUB = Path(edge_sdk.__file__).with_suffix(".pyi")


def test_the_public_names_are_these():
    assert edge_sdk.__all__ == ["__version__", "build_bundle", "errors", "open_engine", "open_frames", "watch"]


@pytest.mark.parametrize("name", edge_sdk.__all__)
def test_every_public_name_is_there(name):
    assert getattr(edge_sdk, name) is not None


def test_the_type_stub_names_the_same_objects():
    tree = ast.parse(STUB.read_text())
    stubbed = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            stubbed |= {alias.asname: f"{node.module}:{alias.name}" for alias in node.names}
    stubbed.pop("errors")
    assert stubbed == edge_sdk._PUBLIC


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="open_engine"):
        _ = edge_sdk.no_such_name


def test_every_error_has_an_exit_code_of_its_branch():
    codes = {
        errors.GateError: 1,
        errors.CompatibilityError: 1,
        errors.UsageError: 2,
        errors.ModelError: 2,
        errors.DataError: 2,
        errors.SettingsError: 2,
        errors.BundleError: 3,
        errors.EngineError: 4,
        errors.InputError: 4,
        errors.BusyError: 4,
        errors.StoreError: 70,
        errors.LinkError: 5,
        errors.PayloadError: 5,
        errors.OversizeError: 5,
    }
    assert {kind: kind.exit_code for kind in codes} == codes
    defined = {value for value in vars(errors).values() if isinstance(value, type)}
    assert defined == {errors.EdgeError, *codes}


def test_the_tree_in_the_docstring_names_every_error():
    for name, value in vars(errors).items():
        if isinstance(value, type):
            assert name in errors.__doc__, name
