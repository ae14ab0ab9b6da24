"""Who may change what is served: one change of a model at a time, one load at a time, and none that lasts for ever."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from edge_sdk import errors

_Found = TypeVar("_Found")


class Exchanges:
    """The changes that are under way. Any thread may ask.

    Args:
        limit_s: seconds that a load may take, and that one waits for the load before it.
    """

    def __init__(self, *, limit_s: float) -> None:
        self.limit_s = limit_s
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._loading = threading.Lock()

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Holds a model's name for one change, which may build an engine for minutes; other models are free.

        Raises:
            BusyError: it is being changed already.
        """
        with self._lock:
            if name in self._names:
                raise errors.BusyError(f"model '{name[:200]}' is being loaded already; try again when that is done")
            self._names.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.remove(name)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Holds the one place where engines are loaded: a crash in there is charged to what was being loaded.

        Raises:
            BusyError: another load was in there all the time.
        """
        if not self._loading.acquire(timeout=self.limit_s):
            raise errors.BusyError("another model is being loaded; try again later")
        try:
            yield
        finally:
            self._loading.release()


def within(limit_s: float, work: Callable[[], _Found], discard: Callable[[_Found], None]) -> _Found:
    """Gives what `work` gives, run in a thread of its own that is left behind when it takes too long.

    Args:
        limit_s: seconds that it may take.
        work: its errors are raised here.
        discard: is given what comes too late.

    Raises:
        TimeoutError: it took too long.
    """
    attempt = _Attempt(work, discard)
    threading.Thread(target=attempt.run, name="load", daemon=True).start()
    attempt.is_over.wait(limit_s)
    return attempt.take()


class _Attempt(Generic[_Found]):
    """One try; `take` gives what came of it, or leaves it behind."""

    def __init__(self, work: Callable[[], _Found], discard: Callable[[_Found], None]) -> None:
        self.is_over = threading.Event()
        self._work = work
        self._discard = discard
        self._lock = threading.Lock()
        self._is_left = False
        self._found: list[_Found] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            found = self._work()
        except Exception as error:  # noqa: BLE001 # boundary: whatever it is, the thread that waits raises it
            self._error = error
        else:
            with self._lock:
                is_late = self._is_left
                self._found.append(found)
            if is_late:
                self._discard(found)
        self.is_over.set()

    def take(self) -> _Found:
        with self._lock:
            if self._found:
                return self._found[0]
            self._is_left = True
        if self._error is not None:
            raise self._error
        raise TimeoutError
