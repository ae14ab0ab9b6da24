"""A clock that stands still until a test moves it."""


class FakeClock:
    """A Clock whose time passes only by `advance` and `sleep`.

    >>> clock = FakeClock()
    >>> before_s = clock.boot_s()
    >>> clock.sleep(2.5)
    >>> clock.boot_s() - before_s
    2.5
    """

    def __init__(self, *, wall_s: float = 1_750_000_000.0, boot_s: float = 100.0, synced: bool | None = True) -> None:
        self.synced = synced
        self._wall_s = wall_s
        self._boot_s = boot_s

    def wall_s(self) -> float:
        """Unix time in seconds."""
        return self._wall_s

    def boot_s(self) -> float:
        """Seconds since boot."""
        return self._boot_s

    def tick_ns(self) -> int:
        """Monotonic nanoseconds, in step with `boot_s`."""
        return round(self._boot_s * 1e9)

    def is_synced(self) -> bool | None:
        """As the test says."""
        return self.synced

    def sleep(self, seconds: float) -> None:
        """Lets `seconds` pass at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Lets `seconds` pass on every clock."""
        self._wall_s += seconds
        self._boot_s += seconds

    def set_wall(self, wall_s: float) -> None:
        """Sets the wall clock, as a time server does; boot time goes on as before."""
        self._wall_s = wall_s
