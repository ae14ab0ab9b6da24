"""evaluate and compare from the command line: figures with intervals, JSON, exit codes."""

import json

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.cli import main


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two bundles of one network: right, and quantised on pictures far too dark."""
    folder = tmp_path_factory.mktemp("bundles")
    hg.save(hg.residual(), folder / "net.onnx")
    (folder / "preprocess.toml").write_text("[image]\nscale = 0.00392156862745098\n")
    np.savez(folder / "bright.npz", image=hg.pixels(40, 1))
    np.savez(folder / "dark.npz", image=hg.pixels(40, 1) // 100)
    np.savez(folder / "evaluation.npz", image=hg.pixels(60, 2), labels=np.arange(60) % 10)
    np.savez(folder / "plain.npz", image=hg.pixels(60, 3))
    for name, calibration in (("good", "bright"), ("bad", "dark")):
        argv = ["build", folder / "net.onnx", "-o", folder / f"{name}.edge", "--calibration", folder / f"{calibration}.npz",
                "--evaluate", folder / "evaluation.npz", "--preprocess", folder / "preprocess.toml", "--max-drop", "100",
                "--method", "max", "--allow", "noise"]  # fmt: skip
        assert main.run(list(map(str, argv))) == 0
    return folder


@pytest.fixture(autouse=True)
def here(bundles, monkeypatch):
    monkeypatch.chdir(bundles)


def said(capsys):
    return json.loads(capsys.readouterr().out)


def test_evaluate_gives_the_metric_and_each_output_s_error(capsys):
    assert main.run(["evaluate", "good.edge", "--data", "evaluation.npz", "--json"]) == 0
    found = said(capsys)
    assert (found["metric"], found["samples"], found["precision"], found["passed"]) == ("top-1", 60, "int8", None)
    assert found["reference"] == "the float model of good.edge"
    assert found["score"]["low"] < found["score"]["value"] < found["score"]["high"]
    assert found["drop_low"] <= found["drop"] <= found["drop_high"]
    error = found["outputs"]["logits"]
    assert 20 < error["sqnr_low_db"] <= error["sqnr_db"] <= error["sqnr_high_db"]


def test_evaluate_finds_what_the_gate_found(bundles, capsys):
    verdict = json.loads((bundles / "good.edge" / "manifest.json").read_bytes())["verdict"]
    assert main.run(["evaluate", "good.edge", "--data", "evaluation.npz", "--json"]) == 0
    found = said(capsys)
    assert found["score"] == verdict["int8_score"]
    assert found["drop"] == verdict["drop"]


def test_evaluate_tells_people_the_same(capsys):
    assert main.run(["evaluate", "good.edge", "--data", "plain.npz", "--metric", "signal"]) == 0
    text = capsys.readouterr().out
    for word in ("signal share", "points lost", "dB SQNR", "60 samples", "same answer"):
        assert word in text


def test_a_bundle_compared_with_itself_loses_nothing(capsys):
    assert main.run(["compare", "good.edge", "good.edge", "--data", "plain.npz", "--json", "--max-drop", "0"]) == 0
    found = said(capsys)
    assert (found["drop"], found["passed"], found["outputs"]["logits"]["sqnr_db"]) == (0, True, 200)


def test_a_worse_bundle_is_exit_code_one_and_both_are_named(capsys):
    assert main.run(["compare", "good.edge", "bad.edge", "--data", "plain.npz", "--metric", "signal"]) == 1
    text = capsys.readouterr().out
    for word in ("bad.edge (int8) against good.edge", "1 allowed"):
        assert word in text
    assert (
        main.run(["compare", "good.edge", "bad.edge", "--data", "plain.npz", "--metric", "signal", "--max-drop", "100"])
        == 0
    )


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [(["evaluate", "good.edge", "--data", "none.npz"], 2, "does not exist"),
     (["evaluate", "none.edge", "--data", "plain.npz"], 3, "none.edge"),
     (["evaluate", "good.edge", "--data", "plain.npz", "--metric", "f1"], 2, "needs labels"),
     (["evaluate", "good.edge", "--data", "plain.npz", "--metric", "top2"], 2, "no metric 'top2'"),
     (["evaluate", "good.edge", "--data", "plain.npz", "--backend", "tensorrrt"], 2, "did you mean"),
     (["compare", "good.edge", "bad.edge", "--data", "plain.npz", "--max-drop", "-1"], 2, "0 or more"),
     (["compare", "good.edge", "none.edge", "--data", "plain.npz"], 3, "none.edge")],
)  # fmt: skip
def test_what_can_t_be_done_is_one_line_and_an_exit_code(capsys, argv, code, word):
    assert main.run(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert word in captured.err
    assert "Traceback" not in captured.err


def test_bundles_of_different_networks_are_not_compared(bundles, capsys):
    hg.save(hg.residual(classes=7), bundles / "other.onnx")
    argv = ["build", "other.onnx", "-o", "other.edge", "--calibration", "bright.npz", "--evaluate", "plain.npz",
            "--preprocess", "preprocess.toml", "--max-drop", "100", "--method", "max", "--allow", "noise", "--force"]  # fmt: skip
    assert main.run(argv) == 0
    capsys.readouterr()
    assert main.run(["compare", "good.edge", "other.edge", "--data", "plain.npz"]) == 2
    assert "float32[N, 7]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["evaluate", "compare"])
def test_help_has_an_example(capsys, name):
    with pytest.raises(SystemExit) as left:
        main.run([name, "--help"])
    assert left.value.code == 0
    assert f"example:\n  edge-sdk {name} " in capsys.readouterr().out
