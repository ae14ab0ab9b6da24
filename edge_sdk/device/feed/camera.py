"""Cameras, streams and video files by OpenCV. The only door to cv2 (extra ``camera``)."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_sdk import clock, errors
from edge_sdk.device.feed.frames import Frame
from edge_sdk.numerics.pictures import Pixels

GSTREAMER = "gst:"
"""Before a GStreamer pipeline that ends in ``appsink``; on a Jetson the way to its camera and its decoder."""

RETRY_S = 1.0
"""Until a stream that broke off is opened again."""

_DEVICE = "/dev/video"
_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")


class CameraSource:
    """Frames of a camera, a network stream, a GStreamer pipeline or a video file.

    A camera or stream that breaks off after it has worked is opened again until `close`; a video file ends.
    """

    def __init__(self, source: str, *, ticks: clock.Clock) -> None:
        """Opens it.

        Raises:
            UsageError: OpenCV can't open it.
        """
        self._source = source
        self._clock = ticks
        self._stop = threading.Event()
        self.is_live = source.isdecimal() or source.startswith((_DEVICE, GSTREAMER, *_SCHEMES))
        self._capture = _opened(source)
        if not self._capture.isOpened():
            self._capture.release()
            raise errors.UsageError(f"OpenCV can't open the source {source!r}; {_remedy(source)}")

    def frames(self) -> Iterator[Frame]:
        """Gives the frames, red first, named by their numbers."""
        number = 0
        try:
            while not self._stop.is_set():
                is_read, pixels = self._capture.read()
                if is_read:
                    yield Frame(str(number), _in_order(pixels), self._clock.wall_s())
                    number += 1
                elif not self.is_live:
                    return
                else:
                    self._reopen()
        finally:
            self._capture.release()

    def unreadable(self) -> dict[str, str]:
        """Gives nothing: OpenCV does not say what it left out."""
        return {}

    def close(self) -> None:
        """Ends `frames` once its running read is back."""
        self._stop.set()

    def _reopen(self) -> None:
        self._capture.release()
        if not self._stop.wait(RETRY_S):
            self._capture = _opened(self._source)


def read_picture(file: Path) -> Pixels:
    """Gives one picture, turned as its EXIF data says.

    Raises:
        DataError: it can't be read as a picture; the message is the reason alone.
    """
    try:
        content = np.frombuffer(file.read_bytes(), np.uint8)
    except OSError as error:
        raise errors.DataError(error.strerror or str(error)) from error
    # From memory, since OpenCV complains on stderr about files that it can't open.
    return _decoded(content)


def picture_from_bytes(content: bytes, max_pixels: int) -> Pixels:
    """Gives the picture in a file's content, turned as its EXIF data says.

    Raises:
        DataError: it is none, or has more pixels than that; the message is the reason alone.
    """
    pixels = _decoded(np.frombuffer(content, np.uint8))
    if pixels.shape[0] * pixels.shape[1] > max_pixels:
        raise errors.DataError(f"it has {pixels.shape[1]} x {pixels.shape[0]} pixels, at most {max_pixels:,}")
    return pixels


def _decoded(content: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> Pixels:
    try:
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except cv2.error as error:
        raise errors.DataError(f"OpenCV refuses it: {error}") from error
    if pixels is None:
        raise errors.DataError("not a picture")
    return _in_order(pixels)


def _opened(source: str) -> Any:
    if source.startswith(GSTREAMER):
        return cv2.VideoCapture(source.removeprefix(GSTREAMER), cv2.CAP_GSTREAMER)
    if source.isdecimal():
        return cv2.VideoCapture(int(source))
    return cv2.VideoCapture(source)


def _in_order(pixels: Any) -> Pixels:
    """Gives a frame as we hold it; OpenCV has blue first, and two axes for grey."""
    if pixels.ndim == 2:
        grey: Pixels = pixels[..., None]
        return grey
    ordered: Pixels = np.ascontiguousarray(pixels[:, :, 2::-1])
    return ordered


def _remedy(source: str) -> str:
    if source.startswith(GSTREAMER):
        return "the OpenCV wheel has no GStreamer: on a Jetson use JetPack's own (python3-opencv)"
    if source.isdecimal() or source.startswith(_DEVICE):
        return "is the camera there (v4l2-ctl --list-devices), and may this user read it (group video)?"
    return "check its address, or that the file is a video"
