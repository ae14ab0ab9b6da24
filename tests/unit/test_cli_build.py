"""build, inspect, verify and infer from the command line: exit codes, JSON on stdout, nothing written by a refusal."""

import html
import json

import host_graphs as hg
import numpy as np
import pytest

import edge_sdk
from edge_sdk.cli import build, main
from edge_sdk.host import builder
from edge_sdk.wire import bundles


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The current folder, with a model and its data."""
    monkeypatch.chdir(tmp_path)
    hg.save(hg.residual(), tmp_path / "net.onnx")
    np.savez("calibration.npz", image=hg.pixels(40, 1))
    np.savez("evaluation.npz", image=hg.pixels(60, 2), labels=np.arange(60) % 10)
    (tmp_path / "preprocess.toml").write_text("[image]\nscale = 0.00392156862745098\nmean = 0.0\nstd = 1.0\n")
    (tmp_path / "classes.json").write_text(json.dumps([f"class{i}" for i in range(10)]))
    return tmp_path


def command(*more, output="net.edge", model="net.onnx"):
    return ["build", model, "-o", output, "--calibration", "calibration.npz", "--evaluate", "evaluation.npz",
            "--preprocess", "preprocess.toml", "--max-drop", "50", *more]  # fmt: skip


def said(capsys):
    return json.loads(capsys.readouterr().out)


def refused(work, capsys, code, word, argv):
    before = hg.files_below(work)
    assert main.run(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edge-sdk: ")
    assert "Traceback" not in captured.err
    assert word in captured.err
    assert hg.files_below(work) == before


def test_build_prints_one_json_document_with_every_promised_field(work, capsys):
    assert main.run(command("--json", "--name", "my-net", "--version", "2.1", "--method", "max")) == 0
    built = said(capsys)
    assert built.keys() >= {
        "bundle", "digest", "precision", "method", "samples", "metric", "float_value", "int8_value", "drop", "max_drop",
        "passed", "pinned", "int8_compute_ratio", "compiler", "seconds", "peak_rss_bytes",
    }  # fmt: skip
    assert built["compiler"].keys() >= {"name", "version", "ok", "engine_bytes", "messages"}
    manifest = bundles.read_bundle(work / "net.edge").manifest
    assert (manifest.name, manifest.version, built["method"]) == ("my-net", "2.1", "max")


def test_build_tells_people_the_same(work, capsys):
    assert main.run(command("--method", "max")) == 0
    text = capsys.readouterr().out
    for word in ("int8", "top-1", "agreement", "digest", "report.html"):
        assert word in text


def evaluate_on(count):
    """Leaves `count` evaluation samples."""
    with np.load("evaluation.npz") as data:
        kept = {name: values[:count] for name, values in data.items()}
    np.savez("evaluation.npz", **kept)


def page_of(work):
    return html.unescape((work / "net.edge" / "report.html").read_text())


def test_one_evaluation_sample_passes_with_the_report_s_warning_on_the_terminal_and_in_json(work, capsys):
    evaluate_on(1)
    assert main.run(command("--method", "max", "--json")) == 0
    (warning,) = said(capsys)["warnings"]
    assert warning.startswith("With 1 sample the true loss may be up to ")
    assert warning.endswith(" points, more than the 50 allowed; more evaluation samples would tell.")
    assert warning in page_of(work)
    assert main.run(command("--method", "max", "--force")) == 0
    assert f"  warning          {warning}\n" in capsys.readouterr().out


def test_a_metric_whose_interval_one_sample_can_t_tell_warns_too(work, capsys):
    evaluate_on(1)
    assert main.run(command("--method", "max", "--metric", "signal", "--json")) == 0
    built = said(capsys)
    assert built["drop_high"] <= 50
    (warning,) = built["warnings"]
    assert warning.startswith("1 sample can't tell how far evaluation samples differ")
    assert warning in page_of(work)


def test_enough_evaluation_samples_give_no_warning(work, capsys):
    assert main.run(command("--method", "max", "--metric", "signal")) == 0
    assert "warning" not in capsys.readouterr().out
    assert "class='warning'" not in page_of(work)


def test_the_gate_s_no_is_exit_code_one(work, capsys):
    np.savez("calibration.npz", image=hg.pixels(40, 1) // 100)
    evaluation = np.load("evaluation.npz")["image"]
    np.savez("evaluation.npz", image=evaluation)  # without labels: agreement
    refused(work, capsys, 1, "points lost", command("--max-drop", "0", "--method", "max", "--precision", "int8"))


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (["--method", "magic"], 2, "magic"),
        (["--precision", "int4"], 2, "int4"),
        (["--preprocess", "none.toml"], 2, "none.toml"),
        (["--classes", "none.json"], 2, "none.json"),
        (["--evaluate", "calibration.npz"], 2, "are the same"),
        (["--calibration", "net.onnx"], 2, "neither a folder nor"),
        (["--output", "net.onnx"], 2, "not a bundle"),
        (["--min-samples", "41"], 2, "gave 40 samples"),
    ],
)
def test_wrong_use_is_exit_code_two(work, capsys, change, code, word):
    refused(work, capsys, code, word, command(*change))


def test_a_model_that_is_none(work, capsys):
    (work / "bad.onnx").write_bytes(b"not a model")
    refused(work, capsys, 2, "not an ONNX file", command(model="bad.onnx"))


def test_data_from_a_function_in_the_current_folder(work, capsys):
    (work / "pixels_here.py").write_text(
        "import numpy as np\n\ndef samples():\n    data = np.load('calibration.npz')['image']\n"
        "    for row in data:\n        yield {'image': row}\n"
    )
    assert main.run(command("--calibration", "pixels_here:samples", "--method", "max", "--json")) == 0
    assert said(capsys)["calibration_samples"] == 40


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[image]\nscal = 1.0\n", "did you mean 'scale'"),
        ("scale = 1.0\n", "outside a table"),
        ("[image]\nscale = 'one'\n", "scale"),
        ("[image\n", "not TOML"),
        ("[imgae]\nscale = 1.0\n", "did you mean 'image'"),
    ],
)
def test_a_preprocessing_file_that_does_not_fit(work, capsys, text, word):
    (work / "preprocess.toml").write_text(text)
    refused(work, capsys, 2, word, command())


def test_means_may_be_one_or_one_per_channel(work):
    (work / "preprocess.toml").write_text("[image]\nscale = 0.5\nmean = [1.0, 2, 3]\nstd = 4\n")
    rule = build.read_preprocess(work / "preprocess.toml")["image"]
    assert (rule.scale, rule.mean, rule.std) == (0.5, (1.0, 2.0, 3.0), (4.0,))


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"a": "b"}'])
def test_class_names_that_are_no_list(work, capsys, content):
    (work / "classes.json").write_text(content)
    refused(work, capsys, 2, "classes.json", command("--classes", "classes.json"))


class TestBundles:
    @pytest.fixture
    def built(self, work, capsys):
        assert main.run(command("--classes", "classes.json", "--method", "max", "--json")) == 0
        return said(capsys)

    def test_inspect_shows_the_manifest(self, built, capsys):
        assert main.run(["inspect", "net.edge", "--json"]) == 0
        shown = said(capsys)
        assert shown["digest"] == built["digest"]
        assert shown["manifest"]["classes"][3] == "class3"
        assert main.run(["inspect", "net.edge"]) == 0
        text = capsys.readouterr().out
        for word in ("float32[N, 1, 8, 8]", "class3", "model.int8.onnx", built["digest"], "0.00392157"):
            assert word in text

    def test_verify_says_that_nobody_signed(self, built, capsys):
        assert main.run(["verify", "net.edge", "--json"]) == 0
        assert said(capsys) | {"size_bytes": 0} == {
            "bundle": "net.edge", "digest": built["digest"], "ok": True, "signed": False, "files": 7, "size_bytes": 0,
        }  # fmt: skip
        assert main.run(["verify", "net.edge"]) == 0
        assert "unsigned" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["verify", "inspect", "infer"])
    def test_a_damaged_bundle_is_exit_code_three(self, work, built, capsys, name):
        file = work / "net.edge" / "golden.npz"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        refused(work, capsys, 3, "golden.npz", [name, "net.edge", *(["evaluation.npz"] if name == "infer" else [])])

    def test_infer_prints_and_saves_the_answers(self, work, built, capsys):
        assert main.run(["infer", "net.edge", "evaluation.npz", "--output", "answers.npz", "--json"]) == 0
        results = said(capsys)["results"]
        answers = np.load("answers.npz")["logits"]
        assert answers.shape == (60, 10)
        assert [entry["top"][0]["index"] for entry in results] == answers.argmax(axis=1).tolist()
        assert results[0]["top"][0]["class"] == f"class{answers[0].argmax()}"
        assert len(results[0]["top"]) == 3

    def test_infer_takes_pictures_and_arrays(self, work, built, capsys):
        from PIL import Image

        Image.fromarray(hg.pixels(1, 9)[0, 0]).resize((20, 20)).save("one.png")
        np.save("two.npy", hg.pixels(2, 9))
        assert main.run(["infer", "net.edge", "one.png", "two.npy"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["one.png", "two.npy[0]", "two.npy[1]"]

    @pytest.mark.parametrize(
        ("arguments", "code", "word"),
        [(["none.npz"], 2, "does not exist"), (["evaluation.npz", "--backend", "onnxruntim"], 2, "did you mean")],
    )
    def test_infer_refuses(self, work, built, capsys, arguments, code, word):
        refused(work, capsys, code, word, ["infer", "net.edge", *arguments, "--output", "answers.npz"])


class TestCalibration:
    def test_ranges_are_saved_and_used_again(self, work, capsys):
        assert main.run(command("--save-ranges", "net.ranges", "--json")) == 0
        first = said(capsys)
        assert main.run(command("--ranges", "net.ranges", "--json", "--name", "net", output="again.edge")) == 0
        again = said(capsys)
        assert again["digest"] == first["digest"]
        assert first["coverage"]["sentence"]
        assert first["origin"] == "ONNX opset 17 net.onnx"

    def test_what_is_odd_is_refused_until_it_is_allowed(self, work, capsys):
        raw = hg.pixels(40, 1)
        raw[20:] = raw[:20]
        np.savez("calibration.npz", image=raw)
        refused(work, capsys, 2, "--allow duplicates", command())
        refused(work, capsys, 2, "did you mean 'duplicates'", command("--allow", "duplicate"))
        assert main.run(command("--allow", "duplicates")) == 0
        assert "20 of 40 samples" in capsys.readouterr().out

    def test_ctrl_c_tells_how_to_go_on(self, work, capsys, monkeypatch):
        def interrupted(*_arguments, **_options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(builder.gating, "Gate", interrupted)
            assert main.run(command()) == 130
        assert "the same command with --resume goes on" in capsys.readouterr().err
        assert not (work / "net.edge").exists()
        assert main.run(command("--resume")) == 0
        assert not (work / ".net.edge.unfinished").exists()

    def test_free_height_and_width_stay_free_and_are_compiled_for_their_range(self, work, capsys):
        hg.save(hg.with_free_sides(hg.residual()), work / "net.onnx")
        assert main.run(command("--json", "--shape", "image=1x1x8x8:1x1x16x16:4x1x32x32")) == 0
        built = said(capsys)
        assert built["compiler"]["ok"] in (True, None)  # None: no compiler is installed here
        assert "--shape" not in str(built["notes"])
        with edge_sdk.open_engine("net.edge", variant="int8") as engine:
            assert engine.infer({"image": np.zeros((3, 1, 24, 12), np.float32)})["logits"].shape == (3, 10)

    def test_free_height_and_width_are_compiled_for_what_the_data_has_where_nothing_is_said(self, work, capsys):
        hg.save(hg.with_free_sides(hg.residual()), work / "net.onnx")
        assert main.run(command("--json")) == 0
        built = said(capsys)
        told = [note for note in built["notes"] if "'image' from 1x1x8x8 to 32x1x8x8, as the evaluation data" in note]
        assert (built["compiler"]["ok"], len(told)) in ((True, 1), (None, 0))  # None: no compiler is installed here

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            (("--shape", "imgae=1x1x8x8:1x1x8x8:4x1x8x8"), "did you mean 'image'"),
            (("--shape", "image=1x1x8:1x1x8:4x1x8"), "the input is"),
            (("--shape", "image=1x1x8x8:1x1x9x8:4x1x9x8"), "1x1x9x8"),
            (("--dla", "0"), "the engine that --on builds"),
            (("--dla", "-1"), "counted from 0"),
            (("--shape", "image=1x1"), "is not INPUT=MIN:USUAL:MAX"),
            (("--shape", "image=2x1x8x8:1x1x8x8:4x1x8x8"), "MIN <= USUAL <= MAX"),
            (("--shape", "image=1x8:1x1x8x8:4x1x8x8"), "as many axes"),
        ],
    )
    def test_what_an_engine_is_for_needs_one(self, work, capsys, options, word):
        refused(work, capsys, 2, word, command(*options))

    def test_a_counter_below_0_is_refused_and_leaves_no_bundle(self, work, capsys):
        refused(work, capsys, 2, "expected 0 or more", command("--counter", "-1"))

    def test_what_is_no_model_names_what_would_be(self, work, capsys):
        refused(work, capsys, 2, ".tflite", command(model="net.onx"))
        refused(work, capsys, 2, "there is no model file", command(model="none.onnx"))
