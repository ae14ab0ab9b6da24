"""H1: every parser of bytes from the network, on its corpus and on mutants of it: what it raises, takes and holds.

``tools/test fuzz`` lets atheris look further, from the same seeds; what it finds belongs into tests/fuzz/corpus.
"""

import random
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import targets

MUTANTS = 1500
LIMIT_S, LIMIT_BYTES = 0.05, 16 * 2**20


def mutants(seeds, rng):
    for _ in range(MUTANTS):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data) + 1)
            act = rng.randrange(5)
            if act == 0:
                data[place:place] = rng.randbytes(rng.randint(1, 8))
            elif act == 1:
                del data[place : place + rng.randint(1, 16)]
            elif act == 2 and data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            elif act == 3:
                data[place:place] = rng.choice(
                    [b"\xff" * 4, b"[" * 500, b"\x91" * 500, b"\0", b'"', b"\xdd\xff\xff\xff\xff"]
                )
            else:
                data[place:] = rng.choice(seeds)[place:]
        yield bytes(data)


@pytest.mark.fault("H1")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_whatever_comes_is_read_or_refused_in_little_time_and_memory(name, fault):
    target = targets.TARGETS[name]
    seeds = targets.seeds(name)
    inputs = [*seeds, *mutants(seeds, random.Random(name))]
    slowest_s, refused = 0.0, 0
    for data in inputs:
        begin_s = time.process_time()
        refused += not target(data)
        slowest_s = max(slowest_s, time.process_time() - begin_s)
    largest = 0
    tracemalloc.start()
    for data in sorted(inputs, key=len)[-100:]:
        tracemalloc.reset_peak()
        target(data)
        largest = max(largest, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert slowest_s <= LIMIT_S
    assert largest <= LIMIT_BYTES
    assert 0 < refused
    careless = targets.careless(name)
    others = sum(not is_taken(careless, data) for data in inputs)
    assert 0 < others < len(inputs), "the control stood, or takes nothing"
    fault(
        part=name,
        what=f"hostile bytes for {name}",
        injected=f"{len(seeds)} seeds and {MUTANTS} mutants",
        bar="only the declared exception; <= 50 ms and <= 16 MB for each",
        measured=f"0 others, {refused} refused, slowest {slowest_s * 1e3:.1f} ms, largest {largest / 2**20:.1f} MB",
        control=f"a reader without a fence: {others} of {len(inputs)} inputs raise out of it",
    )


def is_taken(reader, data):
    try:
        reader(data)
    except Exception:
        return False
    return True
