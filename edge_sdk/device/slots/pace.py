"""How long the answers of a version on trial take: one that is slower than its limit gives way to the one before."""

from collections.abc import Iterable

from edge_sdk.numerics import histogram
from edge_sdk.records import histograms, telemetry
from edge_sdk.wire import histograms as histogram_text

ENOUGH = 100
"""Requests before a 99th percentile is judged: of fewer it is the slowest one, which a cold start explains."""


class Pace:
    """Gathers the Windows of versions on trial. One thread asks."""

    def __init__(self) -> None:
        self._seen: dict[str, histograms.Histogram] = {}

    def excess(self, digest: str, windows: Iterable[telemetry.Window], limit_ms: float) -> str:
        """Gives in words how a version is slower than it may be; an empty text while it is not.

        Args:
            digest: of the version.
            windows: of one interval, of all models.
            limit_ms: for the 99th percentile of all its requests so far, waiting included.
        """
        fresh = [
            histogram_text.from_text(window.latency_hist)
            for window in windows
            if window.count and digest.startswith(window.digest)
        ]
        if not fresh:
            return ""
        seen = histogram.merge([*fresh, *([self._seen[digest]] if digest in self._seen else [])])
        self._seen[digest] = seen
        p99_ms = histogram.quantile(seen, 0.99)
        if seen.count < ENOUGH or p99_ms is None or p99_ms <= limit_ms:
            return ""
        return f"99 % of {seen.count} requests took up to {p99_ms:.3g} ms, {limit_ms:g} ms are allowed"

    def forget_all_but(self, digests: Iterable[str]) -> None:
        """Drops what was gathered of versions that are not on trial any more."""
        kept = set(digests)
        self._seen = {digest: seen for digest, seen in self._seen.items() if digest in kept}
