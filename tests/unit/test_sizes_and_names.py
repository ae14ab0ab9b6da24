"""The shape that the project holds: sizes, names, and what a module may hold back."""

import ast
import statistics
from pathlib import Path

import edge_sdk

ROOT = Path(edge_sdk.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parents[1]
BANNED_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager", "handler", "processor"}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def body_lines(node):
    body = node.body
    if (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    ):
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 1


def trees():
    return {path: ast.parse(path.read_text()) for path in MODULES}


def test_no_module_is_longer_than_500_lines_and_the_median_is_at_most_150():
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {str(path): length for path, length in lengths.items() if length > 500} == {}
    assert statistics.median(lengths.values()) <= 150


def test_functions_are_short():
    lengths = [body_lines(node) for tree in trees().values() for node in functions(tree)]
    assert statistics.median(lengths) <= 9
    assert sum(length > 50 for length in lengths) <= 0.03 * len(lengths)


def test_no_module_or_function_has_a_name_that_says_nothing():
    stems = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert stems & BANNED_NAMES == set()


def test_broad_excepts_are_rare_and_say_why():
    source = {path: path.read_text().splitlines() for path in MODULES}
    total = sum(map(len, source.values()))
    broad = [(path, line) for path, lines in source.items() for line in lines if "except Exception" in line]
    assert [f"{path}: {line}" for path, line in broad if "# boundary:" not in line] == []
    assert len(broad) <= max(1, total / 1000) + 2, f"{len(broad)} broad excepts in {total} lines"


def test_what_catches_everything_passes_it_on():
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                catches_all = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "BaseException")
                passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                assert not catches_all or passes_on, f"{path}:{node.lineno}"


def test_no_global_statement_and_no_type_checking_block():
    for path, tree in trees().items():
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree)), path
        assert "TYPE_CHECKING" not in path.read_text(), path


def test_own_modules_are_imported_at_the_top():
    for path, tree in trees().items():
        for function in functions(tree):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom):
                    assert not (node.module or "").startswith("edge_sdk"), f"{path}:{node.lineno}"
                if isinstance(node, ast.Import):
                    assert not any(alias.name.startswith("edge_sdk") for alias in node.names), f"{path}:{node.lineno}"


def test_only_errors_of_the_tree_are_raised_on_purpose():
    allowed_foreign = {"AssertionError", "AttributeError", "ValueError", "StopIteration", "KeyboardInterrupt"}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                name = node.exc.func.id
                assert (
                    not name.endswith(("Error", "Exception"))
                    or name in allowed_foreign
                    or hasattr(edge_sdk.errors, name)
                ), f"{path}:{node.lineno} raises {name}"


def test_tests_hardly_mock():
    files = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    mocks = sum(path.read_text().count("mock") for path in files)
    tests = sum(path.read_text().count("def test_") for path in files)
    assert mocks <= 0.1 * tests
