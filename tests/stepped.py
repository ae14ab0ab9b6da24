"""A spool whose writer has no thread: its turns are the test's, so that it says what comes after what."""

from unittest import mock

from edge_sdk.device.spool import writer
from edge_sdk.device.spool.spool import Spool


class _Unstarted:
    def __init__(self, **_):
        pass

    def start(self):
        pass

    def join(self, _=None):
        pass


def open_spool(*args, **more):
    """Gives a Spool; `turn` does what its thread would do."""
    with mock.patch.object(writer.threading, "Thread", _Unstarted):
        return Spool(*args, **more)


def turn(spool):
    spool._writer._turn()
