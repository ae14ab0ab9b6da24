"""``edge-sdk run``: folders and videos through a bundle, ends of every kind, nothing left behind."""

import json
import signal
import subprocess
import sys

import host_graphs as hg
import numpy as np
import pytest
from PIL import Image

from edge_sdk import errors
from edge_sdk.cli import main
from edge_sdk.host import builder
from edge_sdk.records.bundle import CompilerReport, Preprocess


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    hg.save(hg.residual(), folder / "net.onnx")
    np.savez(folder / "calibration.npz", image=hg.pixels(40, 1))
    np.savez(folder / "evaluation.npz", image=hg.pixels(60, 2), labels=np.arange(60) % 10)
    builder.build_bundle(
        folder / "net.onnx", folder / "net.edge", calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz", preprocess={"image": Preprocess(scale=1 / 255, resize="crop")},
        max_drop=100.0, check=lambda _: CompilerReport("", "", None, 0, 0.0, ()),
    )  # fmt: skip
    return folder / "net.edge"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(hg.pixels(1, number, shape=(20, 30, 3))[0]).save(folder / f"{number}.png")
    return folder


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_of_pictures_gives_a_line_for_each(net, pictures, capsys):
    (pictures / "bad.jpg").write_bytes(b"x")

    assert main.run(["run", str(net), "--source", str(pictures), "--top", "2"]) == 0

    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines()]
    assert [one["frame"] for one in found] == ["0.png", "1.png", "2.png", "3.png"]
    assert all(len(one["top"]) == 2 and one["size"] == [30, 20] for one in found)
    assert "4 results, 0 frames dropped" in captured.err
    assert "left out bad.jpg: not a picture" in captured.err


def test_the_bundles_own_rule_decides_what_the_network_sees(net, pictures, capsys):
    """The answer for a picture is that for the same picture, cropped beforehand by hand."""
    Image.open(pictures / "0.png").resize((12, 8), Image.Resampling.BILINEAR).crop((2, 0, 10, 8)).save(
        pictures.parent / "cropped.png"
    )
    answers = []
    for source in (pictures / "0.png", pictures.parent / "cropped.png"):
        assert main.run(["run", str(net), "--source", str(source), "--variant", "float", "--top", "10"]) == 0
        answers.append({one["index"]: one["value"] for one in lines(capsys)[0]["top"]})
    assert answers[0] == pytest.approx(answers[1], abs=0.05)


def test_results_go_to_a_folder_and_the_tally_to_stdout(net, pictures, tmp_path, capsys):
    sink = tmp_path / "results"
    assert main.run(["run", str(net), "--source", str(pictures), "--sink", str(sink), "--count", "3", "--json"]) == 0

    tally = json.loads(capsys.readouterr().out)
    assert (tally["results"], tally["dropped"], tally["unsent"], tally["unreadable"]) == (3, 0, 0, {})
    assert sorted(file.name for file in sink.iterdir()) == ["0.png.json", "1.png.json", "2.png.json"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--source", "nowhere"], 2, "there is no source 'nowhere'"),
        (["--source", ".", "--queue", "0"], 2, "--queue is 0; expected more than 0"),
        (["--source", ".", "--poll", "nan"], 2, "--poll is nan"),
        (["--source", ".", "--sink", "mqtt://127.0.0.1:1"], 5, "no broker answers at mqtt://127.0.0.1:1"),
        (["--source", ".", "--sink", "ftp://x"], 2, "ftp"),
        (["--source", ".", "--sink", "mqtts://x", "--ca-file", "no.crt"], 2, "cannot read the certificates no.crt"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(net, tmp_path, monkeypatch, capsys, options, code, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edge_sdk.cli.stream._CONNECT_S", 0.2)

    assert main.run(["run", str(net), *options]) == code

    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watched_folder_runs_until_it_is_told_to_end(net, pictures, tmp_path, number):
    command = [
        sys.executable,
        "-m",
        "edge_sdk",
        "run",
        str(net),
        "--source",
        str(pictures),
        "--watch",
        "--poll",
        "0.02",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert "Ctrl-C ends" in child.stderr.readline()
        (pictures / "0.png").rename(tmp_path / "new.png")
        (tmp_path / "new.png").rename(pictures / "new.png")
        assert json.loads(child.stdout.readline())["frame"] == "new.png"
        child.send_signal(number)
        out, err = child.communicate(timeout=20)
    assert child.returncode == 0
    assert out == ""
    assert "1 results, 0 frames dropped" in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_ends_it_quietly(net, pictures):
    command = [
        sys.executable,
        "-m",
        "edge_sdk",
        "run",
        str(net),
        "--source",
        str(pictures),
        "--watch",
        "--poll",
        "0.02",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stderr.readline()
        child.stdout.close()
        (pictures / "new.npy").write_bytes(b"")
        np.save(pictures / "new.npy", hg.pixels(1, 1, shape=(8, 8, 3))[0])
        child.wait(timeout=20)
        assert "Traceback" not in child.stderr.read()


def test_a_video_file_is_answered_frame_by_frame(net, tmp_path, capsys):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (pip install 'edge_sdk[camera]')")
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for level in range(0, 100, 10):
        video.write(np.full((32, 32, 3), level, np.uint8))
    video.release()

    assert main.run(["run", str(net), "--source", str(tmp_path / "v.avi")]) == 0

    assert [one["frame"] for one in lines(capsys)] == [str(number) for number in range(10)]


def test_opencv_reads_pictures_as_pillow_does(tmp_path):
    pytest.importorskip("cv2", reason="OpenCV is not installed (pip install 'edge_sdk[camera]')")
    from edge_sdk.device.feed import camera, pillow

    noise = hg.pixels(1, 3, shape=(20, 30, 3))[0]
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert np.array_equal(camera.read_picture(tmp_path / "a.png"), noise)
    assert np.array_equal(camera.read_picture(tmp_path / "a.png"), pillow.read_picture(tmp_path / "a.png"))
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    for reader in (camera.read_picture, pillow.read_picture):
        with pytest.raises(errors.DataError, match="not a picture"):
            reader(tmp_path / "b.jpg")


def test_a_camera_that_is_not_there_is_said_with_its_remedy(net, capfd):
    pytest.importorskip("cv2", reason="OpenCV is not installed (pip install 'edge_sdk[camera]')")

    assert main.run(["run", str(net), "--source", "99"]) == 2

    assert "is the camera there (v4l2-ctl --list-devices)" in capfd.readouterr().err


def test_without_opencv_and_pillow_the_extra_is_named(net, pictures, tmp_path, monkeypatch, capsys):
    for package in ("cv2", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    for room in ("camera", "pillow"):
        monkeypatch.delitem(sys.modules, f"edge_sdk.device.feed.{room}", raising=False)
    for source in ("rtsp://127.0.0.1:1/x", str(pictures)):
        assert main.run(["run", str(net), "--source", source]) == 2
        assert "pip install 'edge_sdk[camera]'" in capsys.readouterr().err
    np.save(tmp_path / "a.npy", hg.pixels(1, 1, shape=(8, 8, 3))[0])
    assert main.run(["run", str(net), "--source", str(tmp_path / "a.npy")]) == 0
