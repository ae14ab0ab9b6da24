"""The text of ``--source`` to a source."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from edge_sdk import clock, errors, imports
from edge_sdk.device.feed import readers
from edge_sdk.device.feed.folder import FileSource, FolderSource
from edge_sdk.device.feed.frames import Source

_CAMERA = "edge_sdk.device.feed.camera:CameraSource"
"""By name: OpenCV takes long to load and is installed by those only who need it."""


def open_source(text: str, *, ticks: clock.Clock, is_watched: bool = False, poll_s: float = 0.5) -> Source:
    """Gives the source that `text` names.

    Args:
        text: a folder of pictures, a picture or a video file, ``/dev/video0`` or a camera's number, ``rtsp://...``,
            or ``gst:PIPELINE``.
        ticks: the clock.
        is_watched: of a folder, give what comes from now on, until the source is closed.
        poll_s: seconds between two looks into a watched folder.

    Raises:
        UsageError: there is no such source, or its library is not installed.
    """
    path = Path(text)
    if path.is_dir():
        return FolderSource(path, readers.find_reader(), ticks=ticks, is_watched=is_watched, poll_s=poll_s)
    if is_watched:
        raise errors.UsageError(f"{text} is not a folder, so it can't be watched")
    if path.is_file() and path.suffix.lower() in readers.SUFFIXES:
        return FileSource(path, readers.find_reader(), ticks=ticks)
    if not path.exists() and ":" not in text and not text.isdecimal():
        raise errors.UsageError(
            f"there is no source {text!r}; expected a folder, a picture or video file, /dev/videoN, rtsp://... or "
            "gst:PIPELINE"
        )
    try:
        make = cast("Callable[..., Source]", imports.object_from_spec(_CAMERA))
    except ModuleNotFoundError as error:
        raise errors.UsageError(f"the source {text!r} needs OpenCV: pip install 'edge_sdk[camera]'") from error
    return make(text, ticks=ticks)
