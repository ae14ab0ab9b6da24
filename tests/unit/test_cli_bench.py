"""``bench``, ``compile --backend onnxruntime``, ``inspect`` and ``infer`` about the forms of a bundle."""

import json

import host_graphs as hg
import numpy as np
import pytest

from edge_sdk.cli import bench_page, main, places
from edge_sdk.device.slots import loading
from edge_sdk.engines import benching, bundled, ort, registry
from edge_sdk.engines.benching import Plan
from edge_sdk.engines.sustained import Conditions
from edge_sdk.errors import BundleError
from edge_sdk.host import builder
from edge_sdk.records.bundle import CompilerReport, Preprocess
from edge_sdk.testing.board import FakeBoard
from edge_sdk.testing.clock import FakeClock
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


class Meter:
    """Half a joule in each turn, from the second turn of the Engine on if it is `late`; as warm and slow as told."""

    def __init__(self, *, late=False, heat=lambda turn: 40.0, throttled=lambda turn: False):
        self.turns = 0
        self.late, self.heat, self.throttled = late, heat, throttled

    def begin(self):
        pass

    def tick(self):
        pass

    def take(self):
        self.turns += 1
        energy_j = None if self.late and self.turns == 1 else 0.5
        return Conditions(energy_j, 2.0, self.heat(self.turns), None, self.throttled(self.turns))

    def reasons(self):
        return {"energy_j": "the first reading failed", "clock_hz": "no clock"}


class TurnClock(FakeClock):
    """A clock on which every look at it takes a hundredth of a second, so that a turn of 0.25 s is a few runs."""

    step_s = 0.01

    def tick_ns(self):
        self.advance(self.step_s)
        return super().tick_ns()


def benched(built, meter, *, backend="onnxruntime", **plan):
    values = {"seconds": 10.0, **plan}
    return benching.bench(
        bundles.read_bundle(built / "net.edge"), None, plan=Plan(**values), meter=meter, backend=backend,
        ticks=TurnClock(),
    )  # fmt: skip


def test_energy_is_shared_by_the_inferences_of_the_engines_turns(built):
    found = benched(built, Meter(), seconds=1.0)
    assert found.energy_per_inference_j == pytest.approx(0.5 * 2 / found.loop.inferences)
    assert found.energy_reason == ""


def test_energy_that_was_not_read_all_the_time_is_none(built):
    found = benched(built, Meter(late=True), seconds=1.0)
    assert (found.energy_per_inference_j, found.energy_reason) == (None, "the first reading failed")
    assert found.power_w is None


def test_idle_power_is_measured_before_and_taken_off_on_request(built):
    found = benched(built, Meter(), seconds=1.0, idle_s=2.0)
    assert found.idle_power_w == 2.0
    assert 0 <= found.extra_energy_per_inference_j < found.energy_per_inference_j
    assert benched(built, Meter(), seconds=1.0).extra_energy_per_inference_j is None


def test_a_soak_ends_when_the_heat_has_settled(built):
    settling = Meter(heat=lambda turn: min(60.0, 30.0 + turn * 0.1))  # 300 turns of a quarter second
    found = benched(built, settling, soak_s=900.0)
    assert found.has_settled is True
    assert 120 < found.soaked_s < 200
    assert {point.phase for point in found.course} == {"soak", "measure"}
    assert (found.temperature_first_c, found.temperature_max_c) == (pytest.approx(30, abs=1), 60.0)
    assert found.course[-1].t_s > found.course[0].t_s


def test_a_soak_that_does_not_settle_ends_in_time_and_says_so(built):
    found = benched(built, Meter(heat=lambda turn: turn * 0.1), soak_s=100.0)
    assert found.has_settled is False
    assert found.soaked_s == pytest.approx(100, abs=1)


def test_without_a_thermometer_a_soak_is_short_and_nobody_knows(built):
    found = benched(built, Meter(heat=lambda _: None), soak_s=900.0)
    assert found.has_settled is None
    assert found.soaked_s == pytest.approx(60, abs=1)
    assert found.temperature_max_c is None


def test_throttled_seconds_are_those_of_the_measurement(built):
    found = benched(built, Meter(throttled=lambda turn: turn % 2 == 0), seconds=10.0)
    assert found.throttled_s == pytest.approx(5.0, rel=0.1)
    assert any(point.throttled for point in found.course)
    assert benched(built, Meter(), seconds=2.0).throttled_s == 0.0
    assert benched(built, Meter(throttled=lambda turn: None if turn == 3 else False), seconds=2.0).throttled_s is None


def test_the_course_adds_up_to_the_whole(built):
    found = benched(built, Meter(), seconds=20.0)
    assert sum(point.inferences for point in found.course) == found.loop.inferences
    assert len(found.course) <= 600
    assert all(point.p50_ms <= point.p99_ms for point in found.course)


def test_a_long_run_has_no_more_points_than_a_page_can_show(built, monkeypatch):
    monkeypatch.setattr(TurnClock, "step_s", 0.2)
    assert 300 < len(benched(built, Meter(), seconds=1500.0).course) <= 620


@pytest.fixture
def orin(tmp_path):
    FakeBoard(tmp_path / "board").become("orin_nano")
    return tmp_path / "board"


def test_a_simulated_board_is_called_so_everywhere(built, orin, tmp_path, capsys):
    page = tmp_path / "bench.html"
    arguments = ["bench", str(built / "net.edge"), "--seconds", "1.5", "--root", str(orin), "--page", str(page)]
    assert main.run([*arguments, "--idle", "0.3"]) == 0
    text = capsys.readouterr().out
    assert "SIMULATED" in text
    assert "W (module)" in text
    assert "beyond the idle" in text
    assert "none met" in text
    assert main.run([*arguments, "--json"]) == 0
    found = document(capsys)
    assert (found["simulated"], found["power_boundary"], found["machine"]["simulated"]) == (True, "module", "yes")
    assert found["bench"]["energy_per_inference_j"] > 0
    whole = page.read_text()
    assert "SIMULATED BOARD" in whole
    assert whole.count("<svg") == 4


def test_what_this_board_does_not_tell_has_its_reason_on_the_page(built, tmp_path, capsys):
    FakeBoard(tmp_path / "bare")
    page = tmp_path / "bench.html"
    arguments = ["bench", str(built / "net.edge"), "--seconds", "1.5", "--root", str(tmp_path / "bare")]
    assert main.run([*arguments, "--page", str(page)]) == 0
    text = capsys.readouterr().out
    assert "energy       not read: no power sensor" in text
    assert "heat         not read:" in text
    assert "limits       not read:" in text
    whole = page.read_text()
    assert whole.count('class="reason"') == 3
    assert "no power sensor: no INA3221 rail" in whole
    assert whole.count("<svg") == 1


def test_the_page_needs_nothing_from_elsewhere_and_obeys_nothing(built, orin, capsys):
    course = benched(built, Meter(throttled=lambda turn: turn > 20), seconds=10.0, soak_s=100.0)
    whole = bench_page.page_text("<script>x", course, {"module": "<b>"}, boundary="<i>", simulated=False)
    assert "SIMULATED" not in whole
    assert "THROTTLED for" in whole
    assert not any(word in whole for word in ("<script", "http:", "https:", "src=", "<b>&", "@import"))
    assert "&lt;script&gt;x" in whole
    assert "warming up, not counted" in whole
    assert "width=device-width" in whole


def test_a_page_in_no_folder_is_refused_before_anything_runs(built, capsys):
    assert main.run(["bench", str(built / "net.edge"), "--page", "/nowhere/at/all.html"]) == 2
    assert "there is no folder /nowhere/at" in capsys.readouterr().err
    assert main.run(["bench", str(built / "net.edge"), "--page", str(built)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_costs_no_figures(built, capsys):
    arguments = ["bench", str(built / "net.edge"), "--seconds", "0.2", "--page", "/proc/nothing.html"]
    assert main.run(arguments) == 0
    told = capsys.readouterr()
    assert "could not be written" in told.err
    assert "p50" in told.out


@pytest.mark.parametrize("option", ["--soak", "--idle"])
def test_bench_wants_phases_that_can_pass(built, capsys, option):
    assert main.run(["bench", str(built / "net.edge"), option, "-1"]) == 2
    assert "expected 0 or more" in capsys.readouterr().err


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
