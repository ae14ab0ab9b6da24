"""How long to wait before the next attempt to connect: full jitter, so that a fleet never returns all at once.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
"""

import random
from collections.abc import Iterator

BASE_S = 0.5
"""Upper bound of the first wait: a broker that only restarted is found again within half a second."""

CAP_S = 60.0
"""Upper bound of every wait: after a long outage the last device is back within a minute."""


def delays(rng: random.Random, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> Iterator[float]:
    """Gives the seconds to wait before attempt 1, 2, 3 ...: uniform in [0, min(cap, base * 2**n)], without end.

    >>> waits = delays(random.Random(7), base_s=1.0, cap_s=4.0)
    >>> all(next(waits) <= bound for bound in (1.0, 2.0, 4.0, 4.0))
    True
    """
    bound_s = base_s
    while True:
        yield rng.uniform(0.0, min(cap_s, bound_s))
        bound_s = min(cap_s, bound_s * 2.0)
