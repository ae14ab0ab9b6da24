"""Many histograms at once: what is packed comes back, small or large, and adds up as one by one."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.numerics import histogram_batches as batches

COUNTS = st.one_of(st.integers(1, 70_000), st.integers(1, 2**40))
INDEXES = st.one_of(st.integers(-40, 40), st.integers(-40_000, 40_000))
HISTOGRAMS = st.lists(st.dictionaries(INDEXES, COUNTS, max_size=12), max_size=8)


def packed(histograms):
    rows = [(place, index, count) for place, one in enumerate(histograms) for index, count in sorted(one.items())]
    group, index, count = np.array(rows, np.int64).reshape(-1, 3).T
    return batches.packed(batches.Sums(group, index, count), len(histograms))


@given(HISTOGRAMS)
def test_what_is_packed_comes_back(histograms):
    owner, index, count = batches.unpacked(packed(histograms), range(len(histograms)))
    found = [{} for _ in histograms]
    for place, at, times in zip(owner.tolist(), index.tolist(), count.tolist()):
        found[place][at] = times
    assert found == histograms


@given(HISTOGRAMS, st.integers(1, 3))
def test_packed_ones_add_up_as_one_by_one(histograms, groups):
    expected = Counter()
    for place, one in enumerate(histograms):
        expected.update({(place % groups, index): count for index, count in one.items()})
    sums = batches.add_up_packed(packed(histograms), [place % groups for place in range(len(histograms))])
    rows = list(zip(*(part.tolist() for part in sums)))
    assert rows == sorted((*key, count) for key, count in expected.items())


def test_a_histogram_of_the_older_layout_is_read_beside_a_new_one():
    older = np.array([(7, 3), (9, 2**33)], batches.BUCKET).tobytes()
    sums = batches.add_up_packed([older, *packed([{7: 1}])], [0, 0])
    assert [part.tolist() for part in sums] == [[0, 0], [7, 9], [4, 2**33]]
