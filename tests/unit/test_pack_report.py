"""What a person reads: the report stands alone, tells everything, and holds nothing that two builds would not share."""

import html.parser
import json
import re

import msgspec
import numpy as np
import pytest

from edge_sdk.host.pack import bundle as packing
from edge_sdk.host.pack import charts, golden, page, report, result
from edge_sdk.records.bundle import Correction, Pinned, Range, Score, Verdict, WorthIt
from edge_sdk.records.tensors import TensorSpec

VERDICT = Verdict(
    "top-1", 2000, Score(0.917, 0.904, 0.928), Score(0.915, 0.902, 0.926), Score(0.997, 0.993, 0.999), 0.2, 0.5, True
)


def made(**changes):
    fields = {
        "name": "net",
        "version": "1",
        "precision": "int8",
        "method": "mse",
        "method_sqnr_db": {"max": 30.0, "mse": 31.5},
        "seed": 0,
        "inputs": (TensorSpec("image", "float32", (None, 1, 28, 28)),),
        "outputs": (TensorSpec("logits", "float32", (None, 10)),),
        "verdict": VERDICT,
        "output_errors": {"logits": report.OutputFigures(31.2, 0.9996, 30.1, 32.4)},
        "calibration_samples": 512,
        "skipped": {"calibration": {"bad <file>.png": "not an image"}, "evaluation": {}},
        "pinned": (Pinned("head", "only 8 terms & more"),),
        "int8_nodes": 9,
        "int8_compute_ratio": 0.987,
        "float_bytes": 700_000,
        "int8_bytes": 190_000,
        "compiler": report.CompilerWords("tensorrt-rtx", "1.7", True, ("a <warning>",)),
        "tensors": {"relu": report.Tensor(Range(0.0, 4.0, 3.0, 3 / 127), 4.0, 12, (5, 3, 0, 1))},
        "environment": {"onnx": "1.23"},
    }
    return report.Report(**(fields | changes))


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    VOID = {"meta", "line", "circle", "rect", "path", "br", "link", "img"}  # noqa: RUF012 - never changed

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(**changes):
    return Reader(page.page_bytes(made(**changes)).decode())


def test_the_page_fetches_nothing_and_runs_nothing():
    found = read()
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [value for name, value in found.attributes if name in ("src", "href", "srcset", "onclick")]
    assert "url(" not in page.page_bytes(made()).decode()


def test_the_page_fits_a_phone_and_the_dark():
    content = page.page_bytes(made()).decode()
    assert 'name="viewport" content="width=device-width' in content
    assert "prefers-color-scheme: dark" in content
    assert "91.70\u00a0%" in content, "a figure keeps its unit on the line"


def test_the_page_tells_everything():
    text = " ".join(read().words).replace("\u00a0", " ")
    for word in ("91.70 %", "91.50 %", "90.40 to 92.80 %", "+0.20", "0.5 allowed", "99.70 %", "31.2", "98.7 %", "only 8 terms",
                 "mse (taken)", "tensorrt-rtx 1.7", "512 samples", "not an image", "1.23", "3.7x", "within budget"):  # fmt: skip
        assert word in text, word


def test_what_others_wrote_is_text_never_markup():
    found = read()
    text = " ".join(found.words).replace("\u00a0", " ")
    assert "bad <file>.png" in text
    assert "a <warning>" in text
    assert "file" not in found.tags
    assert "warning" not in found.tags


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pinned": ()}, "No weighted layer was left in float"),
        ({"skipped": {"calibration": {}, "evaluation": {}}}, "Every sample could be read"),
        ({"compiler": report.CompilerWords("", "", None, ())}, "None was at hand"),
        ({"compiler": report.CompilerWords("x", "1", False, ("no",))}, "refused"),
        ({"precision": "float", "int8_bytes": 0, "tensors": {}, "method_sqnr_db": {}}, "float: within budget"),
    ],
)
def test_what_there_is_none_of_is_said(changes, word):
    assert word in " ".join(read(**changes).words)


def test_equal_reports_are_equal_bytes_and_json_is_the_record():
    assert page.page_bytes(made()) == page.page_bytes(made())
    document = json.loads(report.report_bytes(made()))
    assert document["verdict"]["drop"] == 0.2
    assert not re.search(r"seconds|rss|date|time", report.report_bytes(made()).decode())


DECIDED = {
    "reason": "INT8 everywhere lost 9.00 points, 0.5 allowed; with 1 of 2 layers back in float it loses 0.20",
    "refused": msgspec.structs.replace(VERDICT, drop=9.0, passed=False, int8_score=Score(0.827, 0.81, 0.84)),
    "sensitivity": (report.Sensitivity("bad <layer>", 3.0), report.Sensitivity("head", 41.5)),
    "pinned": (Pinned("bad <layer>", "number 1 of 2"),),
    "layers": (report.Layer("bad <layer>", "float", 0.25, 3.0), report.Layer("head", "int8", 0.75, None)),
    "corrections": (
        Correction("bias correction", 7, 20.5, 21.0, True),
        Correction("cross-layer equalisation", 3, 21.0, 20.0, False),
    ),
    "worth_it": WorthIt("not measured", "at most 1.90 times as fast", ("accuracy", "compute ratio")),
}


def test_what_was_decided_is_told_with_its_reasons():
    found = read(**DECIDED)
    text = " ".join(found.words).replace("\u00a0", " ")
    for word in ("What was refused", "INT8 everywhere lost 9.00 points", "82.70 %", "bad <layer>", "3.0 dB", "41.5 dB", "back in float",
                 "2 weighted layers", "75.0 %", "Corrections tried", "21.00 dB", "kept", "left out", "not measured",
                 "at most 1.90 times", "Rests on: accuracy, compute ratio"):  # fmt: skip
        assert word in text, word
    assert "layer" not in found.tags


@pytest.mark.parametrize(
    ("int8_bytes", "words"),
    [
        (200_000, "<b>3.5x</b><span>smaller than the float model"),
        (770_000, "<b>1.1x</b><span>larger than the float model"),
    ],
)
def test_a_model_that_grew_is_not_called_smaller(int8_bytes, words):
    assert words in page.page_bytes(made(int8_bytes=int8_bytes)).decode()


def test_a_plain_build_has_no_such_parts():
    text = " ".join(read().words).replace("\u00a0", " ")
    for word in ("What was refused", "Sensitivity", "Corrections tried", "worth it"):
        assert word not in text


def test_a_long_ranking_is_folded_away():
    ranking = tuple(report.Sensitivity(f"layer{i}", float(i)) for i in range(40))
    found = read(sensitivity=ranking)
    assert "28 quieter layers" in " ".join(found.words)
    assert "layer39" in found.words


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"verdict": msgspec.structs.replace(VERDICT, drop_low=-0.1, drop_high=0.9)}, "may be up to 0.90 points"),
     ({"precision": "fp16"}, "A device may sum in FP16, too")],
)  # fmt: skip
def test_what_is_less_sure_than_it_looks_is_warned_of(changes, word):
    assert word in " ".join(read(**changes).words)
    assert word not in " ".join(read().words)


def test_a_report_of_before_still_reads():
    document = json.loads(report.report_bytes(made()))
    for name in ("reason", "refused", "sensitivity", "corrections", "layers", "worth_it"):
        del document[name]
    for name in ("drop_low", "drop_high"):
        del document["verdict"][name]
    assert msgspec.convert(document, report.Report).worth_it is None


def test_intervals_stay_inside_the_picture():
    for low, value, high in ((0.0, 0.0, 0.0), (0.0, 0.5, 1.0), (1.0, 1.0, 1.0)):
        drawn = charts.intervals([("float", Score(value, low, high), "red")])
        found = [float(x) for x in re.findall(r' (?:x1|x2|cx)="([^"]+)"', drawn)]
        assert all(0 <= x <= 640 for x in found)


def test_an_empty_histogram_can_be_drawn():
    assert "<svg" in charts.histogram((), 0.0, 1.0)


def test_counts_are_coarsened_without_loss():
    counts = np.arange(2048)
    coarse = report.coarse_counts(counts.tolist())
    assert len(coarse) == 64
    assert sum(coarse) == counts.sum()


@pytest.mark.parametrize(
    ("file", "name"),
    [("My Net v2.onnx", "my-net-v2"), ("ünï.onnx", "n"), ("___.onnx", "model"), ("a" * 99 + ".onnx", "a" * 63)],
)
def test_a_name_from_any_file_fits_a_manifest(tmp_path, file, name):
    assert packing.name_from_file(tmp_path / file) == name
    packing.check_names(name, "1")


class TestGolden:
    def run(self, feeds):
        return {"y": feeds["x"].astype(np.float32).sum(axis=1, keepdims=True)}

    def rough(self, feeds):
        return {"y": self.run(feeds)["y"] + np.float32(0.25)}

    def picks(self, *, seed=0, count=50, size=7):
        rows = np.arange(count * 3).reshape(count, 3)
        found = golden.Picks(count, seed)
        for first in range(0, count, size):
            raw = {"x": rows[first : first + size]}
            found.look(first, raw, raw)
        return found

    def test_the_picked_samples_do_not_depend_on_the_batches(self):
        one, other = (self.picks(size=size).arrays(self.run, self.rough) for size in (1, 50))
        assert golden.npz_bytes(one) == golden.npz_bytes(other)
        assert len(one["raw.x"]) == golden.COUNT

    def test_the_tolerance_is_the_worst_difference_to_float(self):
        arrays = self.picks().arrays(self.run, self.rough)
        assert arrays["tolerance.y"] == pytest.approx(max(0.25, 1e-3 * np.abs(arrays["float.y"]).max()))

    def test_without_int8_there_is_a_tolerance_still(self):
        arrays = self.picks().arrays(self.run, None)
        assert "int8.y" not in arrays
        assert arrays["tolerance.y"] == pytest.approx(1e-3 * np.abs(arrays["float.y"]).max())

    def test_fewer_samples_than_wanted(self):
        assert len(self.picks(count=3).arrays(self.run, None)["raw.x"]) == 3

    def test_an_archive_comes_back_and_has_no_date(self, tmp_path):
        arrays = {"b": np.arange(3), "a/b": np.float64(2).reshape(())}
        (tmp_path / "g.npz").write_bytes(golden.npz_bytes(arrays))
        back = np.load(tmp_path / "g.npz")
        assert {name: back[name].tolist() for name in back} == {"b": [0, 1, 2], "a/b": 2.0}
        assert golden.npz_bytes(arrays) == golden.npz_bytes(dict(reversed(arrays.items())))


def test_peak_memory_is_of_this_process():
    before = result.peak_rss_bytes()
    block = np.ones(40 * 1024 * 1024, np.uint8)
    assert result.peak_rss_bytes() >= before
    assert before > block[:1].size * 10_000_000
