"""DATA in each of its forms, and every way in which it can be wrong: refused with what came, expected and to do."""

import re

import host_graphs as hg
import numpy as np
import pytest
from PIL import Image

from edge_sdk import errors
from edge_sdk.host.calibrate import data, samples
from edge_sdk.records.bundle import Preprocess
from edge_sdk.records.tensors import TensorSpec

GREY = (TensorSpec("image", "float32", (None, 1, 8, 8)),)
COLOR = (TensorSpec("image", "float32", (None, 3, 8, 8)),)
RULES = {"image": Preprocess(scale=1 / 255)}
TEN = samples.Classes(10)


def opened(spec, inputs=GREY, rules=RULES, classes=TEN):
    return data.open_data(spec, inputs, preprocess=rules, classes=classes)


def all_of(opened_data):
    batches = list(opened_data.batches())
    feeds = {name: np.concatenate([b.feeds[name] for b in batches]) for name in batches[0].feeds}
    return feeds, [d for b in batches for d in b.digests], batches


def refused(call, *words, kind=errors.DataError):
    with pytest.raises(kind) as caught:
        call()
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"


def save_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def class_folder(root, classes=3, each=2, *, seed=0):
    rng = np.random.default_rng(seed)
    for index in range(classes):
        for number in range(each):
            save_image(root / f"class{index}" / f"{number}.png", rng.integers(0, 256, (8, 8), np.uint8))
    return root


class TestArrays:
    def npz(self, tmp_path, **arrays):
        path = tmp_path / "data.npz"
        np.savez_compressed(path, **arrays)
        return path

    def test_samples_are_prepared_in_order_with_their_labels(self, tmp_path):
        raw = hg.pixels(70, 1)
        labels = np.arange(70) % 10
        found = opened(self.npz(tmp_path, image=raw, labels=labels))
        feeds, digests, batches = all_of(found)
        np.testing.assert_allclose(feeds["image"], raw / np.float32(255), rtol=1e-6)
        assert feeds["image"].dtype == np.float32
        np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), labels)
        np.testing.assert_array_equal(np.concatenate([b.raw["image"] for b in batches]), raw)
        assert len(set(digests)) == len(digests) == found.expected == 70
        assert [b.first for b in batches] == np.cumsum([0, *(len(b.digests) for b in batches)])[:-1].tolist()

    def test_a_second_pass_gives_the_same(self, tmp_path):
        found = opened(self.npz(tmp_path, image=hg.pixels(40, 1)))
        assert all_of(found)[1] == all_of(found)[1]

    def test_npy_and_npz_of_the_same_values_have_the_same_digests(self, tmp_path):
        raw = hg.pixels(5, 1)
        np.save(tmp_path / "data.npy", raw)
        assert all_of(opened(tmp_path / "data.npy"))[1] == all_of(opened(self.npz(tmp_path, image=raw)))[1]

    def test_values_that_fit_go_in_as_they_are_without_a_rule(self, tmp_path):
        raw = np.random.default_rng(0).normal(size=(6, 1, 8, 8)).astype(np.float32)
        np.testing.assert_array_equal(all_of(opened(self.npz(tmp_path, image=raw), rules={}))[0]["image"], raw)

    def test_big_endian_values_are_read_right(self, tmp_path):
        raw = np.arange(2 * 64, dtype=">f4").reshape(2, 1, 8, 8)
        np.testing.assert_array_equal(
            all_of(opened(self.npz(tmp_path, image=raw)))[0]["image"], raw * np.float32(1 / 255)
        )

    def test_several_inputs(self, tmp_path):
        inputs = (TensorSpec("a", "float32", (None, 4)), TensorSpec("b", "int64", (None, 2)))
        path = self.npz(tmp_path, a=np.ones((3, 4), np.float32), b=np.ones((3, 2), np.int64))
        feeds, _, _ = all_of(opened(path, inputs, {}))
        assert {name: values.dtype.name for name, values in feeds.items()} == {"a": "float32", "b": "int64"}

    @pytest.mark.parametrize("shape", [(4, 8, 8), (4, 3, 8, 8), (4, 1, 8, 9), (4, 8, 8, 1)])
    def test_wrong_shape(self, tmp_path, shape):
        path = self.npz(tmp_path, image=np.zeros(shape, np.uint8))
        refused(lambda: opened(path), r"takes float32\[N, 1, 8, 8\]", r"uint8\[N, ")

    def test_wrong_dtype_without_a_rule_says_how_to_give_one(self, tmp_path):
        refused(
            lambda: opened(self.npz(tmp_path, image=hg.pixels(4, 1)), rules={}), "uint8", "--preprocess", r"\[image\]"
        )

    @pytest.mark.parametrize("dtype", ["U3", "complex64", "M8[s]"])
    def test_what_is_no_number(self, tmp_path, dtype):
        refused(lambda: opened(self.npz(tmp_path, image=np.zeros((4, 1, 8, 8), dtype))), "image")

    def test_python_objects_are_never_loaded(self, tmp_path):
        path = tmp_path / "data.npz"
        np.savez(path, image=np.array([{}, {}], object))
        refused(lambda: opened(path), "Python objects")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite_name_the_sample(self, tmp_path, bad):
        raw = np.zeros((40, 1, 8, 8), np.float32)
        raw[37, 0, 2, 3] = bad
        refused(lambda: all_of(opened(self.npz(tmp_path, image=raw), rules={})), "sample 37", "NaN or infinity")

    def test_no_samples(self, tmp_path):
        refused(lambda: opened(self.npz(tmp_path, image=np.zeros((0, 1, 8, 8), np.uint8))), "no samples")

    def test_an_unknown_array_names_the_nearest(self, tmp_path):
        refused(lambda: opened(self.npz(tmp_path, imgae=hg.pixels(4, 1))), "imgae", "did you mean 'image'")

    def test_a_missing_array(self, tmp_path):
        refused(lambda: opened(self.npz(tmp_path, labels=np.zeros(4, int))), "lacks the array 'image'")

    @pytest.mark.parametrize("bad", [-1, 10, 999])
    def test_a_label_outside_the_classes_names_the_sample(self, tmp_path, bad):
        path = self.npz(tmp_path, image=hg.pixels(4, 1), labels=np.array([0, 1, bad, 3]))
        refused(lambda: opened(path), "sample 2", f"label {bad}", "0 to 9")

    def test_labels_that_do_not_match_in_number(self, tmp_path):
        path = self.npz(tmp_path, image=hg.pixels(4, 1), labels=np.zeros(3, int))
        refused(lambda: opened(path), "unequal lengths", "image 4", "labels 3")

    def test_labels_that_are_no_integers(self, tmp_path):
        path = self.npz(tmp_path, image=hg.pixels(4, 1), labels=np.zeros(4, np.float32))
        refused(lambda: opened(path), "integer class")

    def test_labels_do_not_matter_where_they_are_not_used(self, tmp_path):
        path = self.npz(tmp_path, image=hg.pixels(4, 1), labels=np.full(4, -7))
        found = opened(path, classes=samples.Classes(is_used=False))
        assert not found.is_labelled
        assert all_of(found)[2][0].labels is None

    def test_not_an_archive(self, tmp_path):
        path = tmp_path / "data.npz"
        path.write_bytes(b"PK nonsense")
        refused(lambda: opened(path), "not an .npz")

    def test_a_cut_off_array(self, tmp_path):
        path = tmp_path / "data.npy"
        np.save(path, hg.pixels(10, 1))
        path.write_bytes(path.read_bytes()[:-100])
        refused(lambda: all_of(opened(path)), "ends at sample 8 of 10")

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_a_damaged_member_of_an_archive(self, tmp_path, save):
        path = tmp_path / "data.npz"
        save(path, image=hg.pixels(100, 1) // 16)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))
        refused(lambda: all_of(opened(path)), "damaged")

    def test_one_array_for_a_model_with_two_inputs(self, tmp_path):
        np.save(tmp_path / "data.npy", hg.pixels(4, 1))
        inputs = (*GREY, TensorSpec("other", "float32", (None, 2)))
        refused(lambda: opened(tmp_path / "data.npy", inputs), "image, other")


class TestImages:
    def test_class_folders_give_labels_and_names(self, tmp_path):
        found = opened(class_folder(tmp_path), classes=samples.Classes(3))
        _, _, batches = all_of(found)
        assert batches[0].labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert found.classes == ("class0", "class1", "class2")

    def test_pictures_are_resized_and_turned_into_the_model_s_colours(self, tmp_path):
        red = np.zeros((20, 12, 3), np.uint8)
        red[..., 0] = 200
        save_image(tmp_path / "a.png", red)
        color = all_of(opened(tmp_path, COLOR))[2][0].raw["image"]
        assert color.shape == (1, 3, 8, 8)
        assert (color[0, 0] == 200).all()
        assert not color[0, 1:].any()
        grey = all_of(opened(tmp_path, GREY))[2][0].raw["image"]
        assert grey.shape == (1, 1, 8, 8)
        assert len(np.unique(grey)) == 1

    def test_channels_last(self, tmp_path):
        save_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
        last = (TensorSpec("image", "float32", (None, 8, 8, 3)),)
        assert all_of(opened(tmp_path, last))[0]["image"].shape == (1, 8, 8, 3)

    def test_free_sizes_keep_the_picture_s_own(self, tmp_path):
        save_image(tmp_path / "a.png", np.zeros((5, 7), np.uint8))
        save_image(tmp_path / "b.png", np.zeros((9, 4), np.uint8))
        free = (TensorSpec("image", "float32", (None, 1, None, None)),)
        assert [b.feeds["image"].shape for b in opened(tmp_path, free).batches()] == [(1, 1, 5, 7), (1, 1, 9, 4)]

    def test_a_labels_file(self, tmp_path):
        for name in ("a.png", "b.png"):
            save_image(tmp_path / name, np.full((8, 8), ord(name[0]), np.uint8))
        (tmp_path / "labels.csv").write_text("file,label\nb.png,3\na.png,7\n")
        batch = all_of(opened(tmp_path))[2][0]
        assert batch.labels.tolist() == [3, 7]
        assert batch.raw["image"][0, 0, 0, 0] == ord("b")

    def test_names_of_classes_give_their_order(self, tmp_path):
        classes = samples.Classes(4, ("class2", "class1", "class0", "class9"))
        assert all_of(opened(class_folder(tmp_path), classes=classes))[2][0].labels.tolist() == [2, 2, 1, 1, 0, 0]

    def test_an_unreadable_picture_is_left_out_counted_and_named(self, tmp_path):
        class_folder(tmp_path)
        (tmp_path / "class1" / "broken.png").write_bytes(b"this is not a picture")
        whole = (tmp_path / "class0" / "0.png").read_bytes()
        (tmp_path / "class2" / "cut.png").write_bytes(whole[:60])
        found = opened(tmp_path, classes=samples.Classes(3))
        _, digests, batches = all_of(found)
        assert len(digests) == 6
        assert batches[0].labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert found.skipped.keys() == {"class1/broken.png", "class2/cut.png"}
        assert found.skipped["class1/broken.png"] == "not an image"
        assert str(tmp_path) not in "".join(found.skipped.values())

    def test_only_unreadable_pictures(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no")
        refused(lambda: all_of(opened(tmp_path)), "no samples", "1 files could not be read", "a.png")

    def test_an_empty_folder(self, tmp_path):
        refused(lambda: opened(tmp_path), "holds no images", ".png")

    def test_pictures_beside_class_folders(self, tmp_path):
        save_image(class_folder(tmp_path) / "stray.png", np.zeros((8, 8), np.uint8))
        refused(lambda: opened(tmp_path), "beside class sub-folders")

    def test_fewer_class_folders_than_classes_are_ambiguous(self, tmp_path):
        refused(lambda: opened(class_folder(tmp_path)), "3 classes", "gives 10", "--classes")

    def test_a_class_that_is_not_known(self, tmp_path):
        classes = samples.Classes(3, ("class0", "class1", "class_2"))
        refused(lambda: opened(class_folder(tmp_path), classes=classes), "'class2'", "did you mean 'class_2'")

    @pytest.mark.parametrize(
        ("text", "word"),
        [("file,label\nmissing.png,1\n", "missing.png"), ("name,class\na.png,1\n", "columns file,label"),
         ("file,label\na.png,\n", "line 2"), ("file,label\na.png,12\n", "label 12")],
    )  # fmt: skip
    def test_a_labels_file_that_does_not_fit(self, tmp_path, text, word):
        save_image(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
        (tmp_path / "labels.csv").write_text(text)
        refused(lambda: all_of(opened(tmp_path)), word)

    @pytest.mark.parametrize("shape", [(None, 4, 8, 8), (None, 64)])
    def test_a_model_that_takes_no_pictures(self, tmp_path, shape):
        save_image(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
        refused(lambda: opened(tmp_path, (TensorSpec("image", "float32", shape),)), "1 or 3 channels")

    def test_a_rule_is_needed_for_pixels(self, tmp_path):
        save_image(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
        refused(lambda: all_of(opened(tmp_path, rules={})), "--preprocess")


class TestFunctions:
    def test_samples_with_and_without_labels(self):
        raw = hg.pixels(3, 1)
        assert not opened(lambda: ({"image": row} for row in raw)).is_labelled
        labelled = opened(lambda: (({"image": row}, np.int64(index)) for index, row in enumerate(raw)))
        assert all_of(labelled)[2][0].labels.tolist() == [0, 1, 2]

    def test_a_batch_axis_of_one_is_taken_off(self):
        raw = hg.pixels(3, 1)
        with_axis = opened(lambda: ({"image": row[None]} for row in raw))
        assert all_of(with_axis)[1] == all_of(opened(lambda: ({"image": row} for row in raw)))[1]

    def test_named_by_module_and_function(self, tmp_path, monkeypatch):
        (tmp_path / "my_samples.py").write_text(
            "import numpy as np\ndef few():\n    yield {'image': np.zeros((1, 8, 8), np.uint8)}\nnumber = 3\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        assert len(all_of(opened("my_samples:few"))[1]) == 1
        refused(lambda: opened("my_samples:number"), "not a function")
        refused(lambda: opened("my_samples:nothing"), "names nothing", kind=errors.UsageError)

    def test_what_it_raises_is_told(self):
        def broken():
            yield {"image": hg.pixels(1, 1)[0]}
            raise KeyError("lost")

        refused(lambda: all_of(opened(broken)), "KeyError", "lost")

    @pytest.mark.parametrize("item", [3, ({"image": 1}, "cat"), [1, 2]])
    def test_what_is_no_sample(self, item):
        refused(lambda: opened(lambda: iter([item])), "sample 0", "expected {input: array}")

    def test_a_wrong_name(self):
        refused(lambda: all_of(opened(lambda: iter([{"picture": hg.pixels(1, 1)[0]}]))), "picture", "image")

    def test_labels_must_be_there_for_all_or_none(self):
        row = hg.pixels(1, 1)[0]
        refused(lambda: all_of(opened(lambda: iter([({"image": row}, 1), {"image": row}]))), "sample 1", "no label")

    def test_a_label_outside_the_classes(self):
        refused(lambda: all_of(opened(lambda: iter([({"image": hg.pixels(1, 1)[0]}, 10)]))), "label 10", "0 to 9")

    def test_nothing_at_all(self):
        refused(lambda: all_of(opened(lambda: iter([]))), "no samples")


@pytest.mark.parametrize(("name", "word"), [("none.npz", "does not exist"), ("some.txt", "neither a folder nor")])
def test_what_is_no_data(tmp_path, name, word):
    (tmp_path / "some.txt").write_text("hello")
    refused(lambda: opened(tmp_path / name), word, "module:function")


@pytest.mark.parametrize(
    ("rules", "word"),
    [({"imgae": Preprocess()}, "did you mean 'image'"), ({"image": Preprocess(std=(0.0,))}, "not zero"),
     ({"image": Preprocess(scale=float("nan"))}, "finite"), ({"image": Preprocess(mean=())}, "mean")],
)  # fmt: skip
def test_preprocessing_that_does_not_fit(rules, word):
    refused(lambda: samples.check_preprocess(rules, GREY), word)


def test_preprocessing_for_another_number_of_channels(tmp_path):
    save_image(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    rules = {"image": Preprocess(mean=(0.5, 0.5), std=(1.0, 1.0))}
    refused(lambda: all_of(opened(tmp_path, COLOR, rules)), "2 values")


@pytest.mark.parametrize(
    ("shape", "size"),
    [((None, 1, 28, 28), 32), ((None, 3, 320, 320), 1), ((None, 3, None, None), 1), ((1, 1, 28, 28), 1)],
)
def test_a_batch_is_bounded_in_memory(shape, size):
    assert samples.batch_size((TensorSpec("x", "float32", shape),)) == size
