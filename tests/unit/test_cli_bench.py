"""``bench``, ``compile --backend onnxruntime``, ``inspect`` and ``infer`` about the forms of a bundle."""

import json

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.cli import main, places
from edge_sdk.device.slots import loading
from edge_sdk.engines import benching, bundled, ort, registry
from edge_sdk.errors import BundleError
from edge_sdk.host import builder
from edge_sdk.records.bundle import CompilerReport, Preprocess
from edge_sdk.wire import bundles


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small INT8 bundle as the builder makes it."""
    folder = tmp_path_factory.mktemp("built")
    hg.save(hg.residual(), folder / "net.onnx")
    raw = hg.pixels(200, 2)
    answers = ort.runner_from_model((folder / "net.onnx").read_bytes())({"image": raw / np.float32(255)})["logits"]
    np.savez(folder / "calibration.npz", image=hg.pixels(80, 1))
    np.savez(folder / "evaluation.npz", image=raw, labels=answers.argmax(axis=1))
    builder.build_bundle(
        folder / "net.onnx", folder / "net.edge", calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz", preprocess={"image": Preprocess(scale=1 / 255)}, max_drop=5.0,
        check=lambda _: CompilerReport("", "", None, 0, 0.0, ()),
    )  # fmt: skip
    np.save(folder / "one.npy", hg.pixels(1, 9))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge_sdk" / "variants"


def document(capsys):
    return json.loads(capsys.readouterr().out)


def test_bench_measures_beside_a_bare_loop_in_the_same_run(built, capsys):
    assert main.run(["bench", str(built / "net.edge"), "--seconds", "0.5", "--threads", "1", "--json"]) == 0

    found = document(capsys)["bench"]
    assert found["engine"] in ("onnxruntime:int8", "onnxruntime:lowered", "onnxruntime:float")
    assert set(found["forms_ms"]) == {"int8", "lowered", "float"}
    for loop in (found["loop"], found["bare"]):
        assert 0 < loop["best_ms"] <= loop["p50_ms"] <= loop["p90_ms"] <= loop["p99_ms"]
        assert loop["inferences"] > 10
    assert found["p50_ratio"] == pytest.approx(found["loop"]["p50_ms"] / found["bare"]["p50_ms"])
    assert (found["energy_per_inference_j"] is None) == bool(found["energy_reason"])


def test_bench_says_for_people_what_runs_and_why_not(built, capsys):
    assert main.run(["bench", str(built / "net.edge"), "--seconds", "0.1", "--variant", "int8"]) == 0

    text = capsys.readouterr().out
    for word in ("runs as      onnxruntime:int8", "inference    p50", "bare loop    p50", "ratio", "energy"):
        assert word in text


@pytest.mark.parametrize("seconds", ["0", "-1", "1e9", "nan"])
def test_bench_wants_a_time_that_can_pass(built, capsys, seconds):
    assert main.run(["bench", str(built / "net.edge"), "--seconds", seconds]) == 2
    assert "expected more than 0" in capsys.readouterr().err


class _Meter:
    """Half a joule in each turn, from the second on if it is `late`."""

    def __init__(self, *, late=False):
        self.begun = 0
        self.late = late

    def begin(self):
        self.begun += 1

    def tick(self):
        pass

    def energy_j(self):
        return None if self.late and self.begun == 1 else 0.5

    def reason(self):
        return "the first reading failed"


def test_energy_is_shared_by_the_inferences_of_its_turns(built):
    checked = bundles.read_bundle(built / "net.edge")
    meter = _Meter()

    found = benching.bench(checked, None, seconds=1.0, meter=meter)

    assert meter.begun == 2
    assert found.energy_per_inference_j == pytest.approx(0.5 * 2 / found.loop.inferences)
    assert found.energy_reason == ""


def test_energy_that_was_not_read_all_the_time_is_none(built):
    found = benching.bench(bundles.read_bundle(built / "net.edge"), None, seconds=1.0, meter=_Meter(late=True))

    assert (found.energy_per_inference_j, found.energy_reason) == (None, "the first reading failed")


class OwnBackend:
    """A back end of the user's own: no bare loop to compare with."""

    def __init__(self, model, options):
        self._inner = registry.open_backend("onnxruntime", model, options=options)

    def inputs(self):
        return self._inner.inputs

    def run(self, feeds, spent):
        return self._inner.infer(feeds)

    def close(self):
        self._inner.close()


def test_a_back_end_of_the_users_own_has_no_bare_loop(built, capsys):
    arguments = ["bench", str(built / "net.edge"), "--seconds", "0.2", "--backend", f"{__name__}:OwnBackend", "--json"]
    assert main.run(arguments) == 0

    found = document(capsys)["bench"]
    assert found["engine"] == f"{__name__}:OwnBackend"
    assert (found["bare"], found["p50_ratio"]) == (None, None)
    assert found["loop"]["inferences"] > 0


def test_compile_for_the_cpu_checks_times_and_remembers(built, capsys, cache):
    assert main.run(["compile", str(built / "net.edge"), "--backend", "onnxruntime", "--json"]) == 0

    found = document(capsys)
    assert found["engine"] == f"onnxruntime:{found['choice']['variant']}"
    assert set(found["choice"]["best_ns"]) == {"int8", "lowered", "float"}
    assert len(list(cache.iterdir())) == 1
    assert main.run(["compile", str(built / "net.edge"), "--backend", "onnxruntime"]) == 0
    assert "answers the golden samples, measured earlier" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backend", "onnxruntime", "--dla", "0"], "--dla 0 needs --backend tensorrt"),
        (["--dla", "-1"], "a core counted from 0"),
        (["--backend", "onnxruntime", "--shape", "image=1x1:1x1:1x1"], "--shape is for a compiler"),
    ],
)
def test_compile_refuses_options_that_do_not_go_together(built, capsys, options, words):
    assert main.run(["compile", str(built / "net.edge"), *options]) == 2
    assert words in capsys.readouterr().err


def test_inspect_says_which_form_is_the_fastest_once_it_is_known(built, capsys):
    assert main.run(["inspect", str(built / "net.edge"), "--json"]) == 0
    before = document(capsys)
    assert (before["forms"], before["runs_here_as"]) == (["int8", "lowered", "float"], None)
    bundled.chosen(bundles.read_bundle(built / "net.edge"), memory=places.variants_folder())
    assert main.run(["inspect", str(built / "net.edge")]) == 0
    assert "is the fastest here" in capsys.readouterr().out


def test_infer_runs_what_the_gate_judged_unless_told_otherwise(built, capsys):
    given = []
    for options in ([], ["--variant", "int8"], ["--variant", "float"]):
        assert main.run(["infer", str(built / "net.edge"), str(built / "one.npy"), "--json", *options]) == 0
        given.append(document(capsys)["results"])
    assert given[0] == given[1]
    assert given[0] != given[2]


def test_the_folder_of_the_choices_follows_the_environment(monkeypatch, tmp_path):
    assert places.variants_folder() == tmp_path / "cache" / "edge_sdk" / "variants"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edge-sdk")
    assert str(places.variants_folder()) == "/var/lib/edge-sdk/variants"


def refuse(folder, names):
    """A finder whose answer is always no, as of a machine that no engine was built for."""
    raise BundleError("this engine is for another machine")


def test_the_passport_is_compared_before_any_engine_is_read(built, tmp_path, monkeypatch):
    """The engine's bytes are damaged as well; had they been read, that would be the message."""
    row = registry.Row(f"{__name__}:OwnBackend", "", finder=f"{__name__}:refuse")
    monkeypatch.setitem(registry.BACKENDS, "own", row)
    folder = tmp_path / "net.edge"
    folder.mkdir()
    for file in (built / "net.edge").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / bundles.INT8_MODEL).write_bytes(b"damaged")

    with pytest.raises(BundleError, match="^this engine is for another machine$"):
        loading.load_slots([folder], backend="own", threads=0)
    with pytest.raises(BundleError, match="model.int8.onnx has 7 bytes"):
        loading.load_slots([folder], backend="onnxruntime", threads=0)


def test_engines_of_one_slot_run_the_same_form(built, tmp_path):
    (slot,) = loading.load_slots(
        [built / "net.edge"], backend="onnxruntime", threads=1, instances=lambda _: 3, memory=tmp_path / "v"
    )

    assert len(slot.engines) == 3
    assert len({engine.name for engine in slot.engines}) == 1
    assert slot.engines[0].name.startswith("onnxruntime:")
    for engine in slot.engines:
        engine.close()
