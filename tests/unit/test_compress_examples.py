"""Training data: what is refused before any training, and what a batch is for the network."""

import numpy as np
import pytest

from edge_sdk import errors
from edge_sdk.host.compress import examples
from edge_sdk.records.bundle import Preprocess


def piece(labels, *, first=0, dtype=np.uint8):
    count = len(labels)
    raw = np.full((count, 1, 2, 2), 255, dtype)
    return examples.Piece(raw, np.array(labels, np.int64), tuple(f"digest {first + index}" for index in range(count)))


def made(*pieces, rule=None, name="train.npz", **options):
    return examples.examples_from_pieces(pieces, rule=rule, name=name, **options)


def test_pieces_are_joined_in_order():
    found = made(piece([0, 1]), piece([2], first=2))
    assert found.count == 3
    assert found.labels.tolist() == [0, 1, 2]
    assert found.digests == ("digest 0", "digest 1", "digest 2")


def test_raw_pixels_become_what_the_network_takes_only_when_a_batch_is_made():
    found = made(piece([0, 1]), rule=Preprocess(scale=1 / 255, mean=(0.5,), std=(0.5,)))
    assert found.raw.dtype == np.uint8
    batch = found.inputs(np.array([1]))
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, np.ones((1, 1, 2, 2)))


def test_a_batch_is_a_copy_that_may_be_written_to():
    found = made(piece([0, 1], dtype=np.float32))
    found.inputs(slice(0, 2))[:] = -1
    assert (found.raw == 255).all()


def test_data_without_labels_is_refused():
    with pytest.raises(errors.DataError, match=r"train\.npz has no labels"):
        made(piece([0])._replace(labels=None))


def test_no_data_is_refused():
    with pytest.raises(errors.DataError, match="no samples"):
        made()


def test_more_than_fits_is_refused_before_it_is_all_read():
    def endless():
        while True:
            yield piece([0] * 100)

    with pytest.raises(errors.DataError, match="more than 1000 bytes"):
        examples.examples_from_pieces(endless(), rule=None, name="endless", max_bytes=1000)


@pytest.mark.parametrize(("labels", "index"), [([0, 1, 7], 2), ([-1, 0], 0)])
def test_a_label_outside_the_classes_names_the_sample(labels, index):
    with pytest.raises(errors.DataError, match=rf"sample {index} of train\.npz has the label {labels[index]}.*0 to 2"):
        examples.check_labels(made(piece(labels)), 3)


def test_a_sample_in_both_data_sets_is_named():
    with pytest.raises(errors.DataError, match=r"sample 2 of train\.npz and sample 0 of test\.npz are the same"):
        examples.check_apart(made(piece([0, 1, 2])), made(piece([1], first=2), name="test.npz"))
    examples.check_apart(made(piece([0, 1, 2])), made(piece([1], first=3), name="test.npz"))


def test_an_npz_tells_the_input_by_itself(tmp_path):
    file = tmp_path / "data.npz"
    np.savez(file, pixels=np.zeros((5, 3, 8, 6), np.uint8), labels=np.zeros(5, np.int64))
    assert str(examples.spec_from_npz(file)) == "float32[N, 3, 8, 6]"
    assert examples.spec_from_npz(file).name == "pixels"


@pytest.mark.parametrize(
    "arrays",
    [{}, {"labels": np.zeros(2)}, {"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, {"a": np.zeros(2)}],
    ids=["empty", "labels only", "two inputs", "one axis"],
)
def test_an_npz_that_does_not_tell_the_input_is_refused(tmp_path, arrays):
    file = tmp_path / "data.npz"
    np.savez(file, **arrays)
    with pytest.raises(errors.DataError, match="expected one"):
        examples.spec_from_npz(file)


def test_what_is_no_npz_is_refused(tmp_path):
    file = tmp_path / "data.npz"
    file.write_bytes(b"not a zip file")
    with pytest.raises(errors.DataError, match="not an .npz"):
        examples.spec_from_npz(file)
