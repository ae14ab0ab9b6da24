"""Sources, the queue behind them, what is made of outputs, and sinks."""

import json
import math
import threading

import msgspec
import numpy as np
import pytest
from PIL import Image

from edge_sdk import errors
from edge_sdk.clock import SystemClock
from edge_sdk.device.feed import pillow, readers, results, sinks, sources
from edge_sdk.device.feed.folder import FolderSource
from edge_sdk.device.feed.frames import Frame
from edge_sdk.device.feed.pump import Pump
from edge_sdk.device.feed.stream import Input
from edge_sdk.host.calibrate import images
from edge_sdk.link.memory import MemoryBroker, MemoryLink
from edge_sdk.numerics import pictures
from edge_sdk.numerics.pictures import Layout
from edge_sdk.records import bundle, telemetry
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

TICKS = SystemClock()
POLL_S = 0.02
WAIT_S = 20.0


def pixels(level, *, height=4, width=6, channels=3):
    return np.full((height, width, channels), level, np.uint8)


def write(folder, name, level=7):
    np.save(folder / name, pixels(level))


def names(source):
    return [frame.name for frame in source.frames()]


class Reading:
    """Iterates a source on a thread; `wait` gives the names once there are so many."""

    def __init__(self, source):
        self.source = source
        self.found = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        for frame in self.source.frames():
            with self._changed:
                self.found.append(frame.name)
                self._changed.notify_all()

    def wait(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.found) >= count, WAIT_S)
            return list(self.found)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.source.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def test_a_folder_gives_its_pictures_by_name_and_says_what_it_left_out(tmp_path):
    write(tmp_path, "b.npy")
    write(tmp_path, "a.npy")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    (tmp_path / ".hidden.npy").write_bytes(b"being written")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "d.npy").mkdir()
    source = sources.open_source(str(tmp_path), ticks=TICKS)

    assert names(source) == ["a.npy", "b.npy"]
    assert source.unreadable() == {"c.jpg": "not a picture"}
    assert not source.is_live


def test_a_watched_folder_gives_what_comes_once(tmp_path):
    write(tmp_path, "old.npy")
    source = sources.open_source(str(tmp_path), ticks=TICKS, is_watched=True, poll_s=POLL_S)
    with Reading(source) as reading:
        write(tmp_path, "one.npy")
        assert reading.wait(1) == ["one.npy"]
        write(tmp_path, "two.npy")
        assert reading.wait(2) == ["one.npy", "two.npy"]
        write(tmp_path, "old.npy", level=9)
        assert reading.wait(3)[-1] == "old.npy"


def test_a_file_that_still_grows_is_waited_for(tmp_path):
    """However the writer's steps fall between the looks: half a file is never given, and in the end the whole one is."""
    write(tmp_path, "whole.npy")
    content = (tmp_path / "whole.npy").read_bytes()
    source = FolderSource(tmp_path, readers.read_array, ticks=TICKS, is_watched=True, poll_s=POLL_S)
    with Reading(source) as reading, (tmp_path / "growing.npy").open("wb") as stream:
        for byte in content[:-1]:
            stream.write(bytes([byte]))
            stream.flush()
        assert reading.found == []
        stream.write(content[-1:])
        stream.flush()
        assert reading.wait(1) == ["growing.npy"]
    assert source.unreadable() == {}


def test_a_damaged_file_is_read_again_once_it_is_whole(tmp_path):
    source = FolderSource(tmp_path, readers.find_reader(), ticks=TICKS, is_watched=True, poll_s=POLL_S)
    with Reading(source) as reading:
        (tmp_path / "a.npy").write_bytes(b"half")
        write(tmp_path, "b.npy")
        assert reading.wait(1) == ["b.npy"]
        write(tmp_path, "a.npy")
        assert reading.wait(2) == ["b.npy", "a.npy"]
    assert source.unreadable() == {}


@pytest.mark.parametrize(
    ("text", "watched", "words"),
    [("nowhere", False, "there is no source 'nowhere'"), ("one.npy", True, "is not a folder, so it can't be watched")],
)
def test_a_source_that_is_not_there_is_refused(tmp_path, text, watched, words):
    write(tmp_path, "one.npy")
    with pytest.raises(errors.UsageError, match=words):
        sources.open_source(str(tmp_path / text) if watched else text, ticks=TICKS, is_watched=watched)


def test_one_picture_is_a_source(tmp_path):
    write(tmp_path, "one.npy", level=3)

    (frame,) = sources.open_source(str(tmp_path / "one.npy"), ticks=TICKS).frames()

    assert (frame.name, frame.pixels.tolist()) == ("one.npy", pixels(3).tolist())


@pytest.mark.parametrize("values", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_an_array_that_is_no_picture_is_left_out(tmp_path, values):
    np.save(tmp_path / "a.npy", values)

    with pytest.raises(errors.DataError, match="it holds"):
        readers.read_array(tmp_path / "a.npy")


def test_a_grey_array_gets_its_channel(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5), np.uint8))

    assert readers.read_array(tmp_path / "a.npy").shape == (4, 5, 1)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)

    assert pillow.read_picture(tmp_path / "a.jpg").shape == (6, 4, 3)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize(("channels", "color"), [(3, "rgb"), (3, "bgr"), (1, "rgb")])
def test_the_device_feeds_what_calibration_saw(tmp_path, resize, channels, color):
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    rule = Preprocess(resize=resize, color=color)
    spec = TensorSpec("image", "float32", (None, channels, 16, 16))

    host = images.array_from_image(tmp_path / "a.png", images.target_from_inputs((spec,), {"image": rule}))
    layout = pictures.layout_from_shape(spec.shape, rule)
    device = pictures.raw_from_picture(pillow.read_picture(tmp_path / "a.png"), layout, rule)

    assert np.array_equal(device[0], host)


class Numbers:
    """A source of numbered frames, each given when `step` says so."""

    def __init__(self, count, *, is_live, error=None):
        self.is_live = is_live
        self.count = count
        self.error = error
        self.given = threading.Semaphore(0)
        self.closed = threading.Event()

    def frames(self):
        for number in range(self.count):
            yield Frame(str(number), pixels(0), 0.0)
        self.given.release()
        if self.error is not None:
            raise self.error

    def unreadable(self):
        return {}

    def close(self):
        self.closed.set()


def test_a_live_source_loses_its_oldest_frames_and_counts_them():
    source = Numbers(10, is_live=True)
    pump = Pump(source, capacity=3)
    frames = iter(pump)

    first = next(frames).name
    assert source.given.acquire(timeout=WAIT_S)
    taken = [first, *(frame.name for frame in frames)]

    assert taken[-3:] == ["7", "8", "9"]
    assert len(taken) + pump.dropped == 10
    assert pump.dropped >= 6
    pump.close()


def test_any_other_source_waits():
    pump = Pump(Numbers(50, is_live=False), capacity=2)

    assert [frame.name for frame in pump] == [str(number) for number in range(50)]
    assert pump.dropped == 0
    pump.close()


def test_what_stops_a_source_is_raised_after_its_last_frame():
    pump = Pump(Numbers(3, is_live=False, error=errors.UsageError("the disk is gone")), capacity=2)
    seen = []

    with pytest.raises(errors.UsageError, match="the disk is gone"):
        seen.extend(frame.name for frame in pump)
    pump.close()


def test_an_iteration_ends_when_it_is_told_to():
    asked = threading.Event()

    class Silent(Numbers):
        def frames(self):
            self.closed.wait(WAIT_S)
            return iter(())

    source = Silent(0, is_live=True)
    pump = Pump(source, capacity=2, is_stopped=asked.is_set)
    threading.Timer(0.05, asked.set).start()

    assert list(pump) == []
    pump.close()
    assert source.closed.is_set()


def manifest(*, outputs, classes=(), inputs=(TensorSpec("image", "float32", (None, 3, 32, 64)),), preprocess=None):
    score = bundle.Score(0.9, 0.8, 1.0)
    return bundle.Manifest(
        schema=1, name="net", version="1", counter=0, sdk="0", precision="float", inputs=inputs, outputs=outputs,
        preprocess={"image": Preprocess(resize="letterbox")} if preprocess is None else preprocess, classes=classes,
        calibration="0" * 64, verdict=bundle.Verdict("top-1", 10, score, score, score, 0.0, 0.5, True), files={},
    )  # fmt: skip


def said(outputs, specs, *, frame=None, classes=("cat", "dog", "cow")):
    reading = results.Reading(
        manifest(outputs=specs, classes=classes), "d" * 64, Layout(3, 32, 64, True), Preprocess(resize="letterbox"),
        top=2, least_score=0.25,
    )  # fmt: skip
    return reading.result(frame or Frame("f", pixels(0, height=32, width=32), 5.0), outputs, latency_ms=1.23456)


def test_a_classifier_gives_its_best_classes():
    found = said({"y": np.array([[0.1, 0.7, 0.2]], np.float32)}, (TensorSpec("y", "float32", (None, 3)),))

    assert [(one.index, one.name, one.value) for one in found.top] == [(1, "dog", 0.7), (2, "cow", 0.2)]
    assert (found.frame, found.t, found.digest, found.latency_ms, found.size) == ("f", 5.0, "d" * 12, 1.235, (32, 32))


def test_a_detectors_boxes_are_shares_of_the_frame_not_of_the_letterbox():
    rows = np.zeros((1, 7, 40), np.float32)
    rows[0, :, 3] = (32, 16, 16, 32, 0, 0.9, 0)  # in the middle of 64 x 32, where the frame is 32 wide

    (one,) = said({"y": rows}, (TensorSpec("y", "float32", (None, 7, 40)),)).detections

    assert (one.index, one.name, one.score) == (1, "dog", 0.9)
    assert one.box == (0.25, 0.0, 0.75, 1.0)


def test_any_other_output_is_given_with_its_values_if_they_are_few():
    outputs = {"few": np.array([[[1.5, math.nan], [math.inf, 2]]]), "many": np.zeros((1, 2000))}
    specs = (TensorSpec("few", "float64", (1, 2, 2)), TensorSpec("many", "float64", (1, 2000)))

    found = json.loads(msgspec.json.encode(said(outputs, specs)))["outputs"]

    assert found["few"] == {"shape": [1, 2, 2], "values": [[[1.5, None], [None, 2.0]]]}
    assert found["many"] == {"shape": [1, 2000]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": (TensorSpec("a", "float32", (1, 3, 8, 8)), TensorSpec("b", "float32", (1,)))}, "one input"),
        ({"inputs": (TensorSpec("image", "float32", (1, 10)),)}, "takes no pictures"),
        ({"preprocess": {}}, "does not say how pixels become image"),
    ],
)
def test_a_network_that_takes_no_pictures_is_refused(change, words):
    with pytest.raises(errors.UsageError, match=words):
        Input(manifest(outputs=(), **change))


def test_a_network_that_takes_pixels_gets_them_as_they_are():
    given = Input(manifest(outputs=(), inputs=(TensorSpec("image", "uint8", (1, 8, 8, 3)),), preprocess={}))

    assert (given.feeds(pixels(9))["image"] == 9).all()
    assert given.feeds(pixels(9))["image"].dtype == np.uint8


def result(name="f"):
    return results.Result(name, 5.0, "net", "d" * 12, 1.0, (6, 4), top=[results.Class(1, "dog", 0.7)])


def test_lines_of_json_are_one_result_each():
    lines = []
    sinks.JsonLines(lines.append).take(result())

    assert json.loads(lines[0])["top"] == [{"index": 1, "name": "dog", "value": 0.7}]
    assert lines[0].count("\n") == 1


def test_a_folder_gets_a_file_for_each_frame_and_nothing_outside_of_it(tmp_path):
    sink = sinks.FolderSink(tmp_path / "new" / "results")
    for name in ("a.png", "../../evil", "x/y z"):
        sink.take(result(name))

    found = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert found == [f"new/results/{name}" for name in ("_.._evil.json", "a.png.json", "x_y_z.json")]
    assert json.loads((tmp_path / "new/results/a.png.json").read_text())["frame"] == "a.png"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match="cannot make the folder"):
        sinks.FolderSink(tmp_path / "file" / "results")


def test_events_go_to_the_devices_topic_and_are_valid():
    broker = MemoryBroker()
    link, listener = MemoryLink(broker), MemoryLink(broker)
    got = []
    listener.subscribe("edge/v1/+/+/up/event", got.append)
    listener.open()
    link.open()
    assert link.wait_for_connected(WAIT_S)
    assert listener.wait_for_connected(WAIT_S)

    sinks.EventSink(link, site="lab", device="cam-1", boot="0" * 16).take(result())
    link.close()
    listener.close()

    assert got[0].topic == "edge/v1/lab/cam-1/up/event"
    event = msgspec.json.decode(got[0].payload, type=telemetry.Event)
    assert (event.kind, event.message) == ("result", "f: dog 0.7")
    assert json.loads(event.details["result"])["top"][0]["name"] == "dog"
