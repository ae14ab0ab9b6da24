"""The Open Inference Protocol codec: what goes in comes out, and everything else is refused in words."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_sdk import errors
from edge_sdk.device.serve import oip, v2
from edge_sdk.records.tensors import DTYPES, TensorSpec

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


def arrays(dtype):
    finite = {"allow_nan": False, "allow_infinity": False} if np.dtype(dtype).kind == "f" else None
    return hnp.arrays(dtype, SHAPES, elements=finite)


def json_body(array, **changes):
    tensor = {"name": "x", "shape": list(array.shape), "datatype": v2.datatype_of(array.dtype.name)}
    return memoryview(json.dumps({"inputs": [{**tensor, "data": array.tolist(), **changes}]}).encode())


def binary_body(array, *, size=None, **header):
    tensor = {"name": "x", "shape": list(array.shape), "datatype": v2.datatype_of(array.dtype.name)}
    tensor["parameters"] = {"binary_data_size": array.nbytes if size is None else size}
    text = json.dumps({"inputs": [tensor], **header}).encode()
    return memoryview(text + array.tobytes()), len(text)


def parsed(array):
    return oip.parse_request(*binary_body(array))


def test_every_dtype_of_a_bundle_has_a_name_in_the_protocol():
    assert set(v2.DTYPES.values()) == set(DTYPES)


@given(st.sampled_from(DTYPES).flatmap(arrays))
def test_binary_tensors_arrive_bit_for_bit(array):
    found = parsed(array).feeds["x"]
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(st.sampled_from(DTYPES).flatmap(arrays), st.booleans())
def test_json_tensors_arrive_nested_or_flat(array, is_flat):
    body = json_body(array, data=array.ravel().tolist()) if is_flat else json_body(array)
    found = oip.parse_request(body).feeds["x"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


@given(st.sampled_from(DTYPES).flatmap(arrays), st.booleans())
def test_an_answer_carries_the_output_as_asked(array, is_binary):
    request = parsed(np.zeros(1, np.float32))._replace(id="r7", wanted={"y": is_binary})
    answer = oip.response_from_outputs(request, model="m", version="1", outputs={"y": array, "z": array})
    header = json.loads(answer.header)
    (output,) = header["outputs"]
    assert (header["id"], header["model_name"], output["name"], output["shape"]) == ("r7", "m", "y", list(array.shape))
    if is_binary:
        assert output["parameters"]["binary_data_size"] == array.nbytes
        assert b"".join(part.tobytes() for part in answer.raw) == array.tobytes()
    else:
        found = np.array(output["data"], array.dtype).reshape(array.shape)
        np.testing.assert_array_equal(found, array)


def test_several_binary_inputs_follow_each_other():
    first, second = np.arange(3, dtype=np.int16), np.arange(4, dtype=np.float64).reshape(2, 2)
    inputs = [
        {"name": name, "shape": array.shape, "datatype": kind, "parameters": {"binary_data_size": array.nbytes}}
        for name, array, kind in (("a", first, "INT16"), ("b", second, "FP64"))
    ]
    text = json.dumps({"inputs": inputs}).encode()
    feeds = oip.parse_request(memoryview(text + first.tobytes() + second.tobytes()), len(text)).feeds
    np.testing.assert_array_equal(feeds["a"], first)
    np.testing.assert_array_equal(feeds["b"], second)


def test_without_wishes_all_outputs_come_and_the_request_says_how():
    body, length = binary_body(np.zeros(2, np.float32), parameters={"binary_data_output": True})
    request = oip.parse_request(body, length)
    outputs = {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.int64)}
    answer = oip.response_from_outputs(request, model="m", version="1", outputs=outputs)
    assert [part.nbytes for part in answer.raw] == [8, 8]
    assert "id" not in json.loads(answer.header)


def test_a_wish_for_one_output_wins_over_the_wish_for_all():
    body, length = binary_body(
        np.zeros(2, np.float32),
        parameters={"binary_data_output": True},
        outputs=[{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
    )
    assert oip.parse_request(body, length).wanted == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datatype": "BF16"}, "known: BOOL"),
        ({"datatype": 7}, "failed to parse"),
        ({"shape": [3]}, "FP32[3]: Expected `float`, got `array`"),
        ({"shape": [3], "data": [1.0, 2.0]}, "expected [3] or flat"),
        ({"shape": [-1, 2]}, "failed to parse"),
        ({"shape": [2, 1]}, "expected [2, 1] or flat"),
        ({"data": [[1.0], [2.0, 3.0]]}, "inhomogeneous"),
        ({"data": [[[1.0, 2.0]]]}, "got `array`"),
        ({"data": ["a", "b"]}, "got `str`"),
        ({"data": [None, 1.0]}, "got `null`"),
        ({"data": [1e300, 1.0]}, "outside FP32"),
        ({"data": {"0": 1}}, "got `object`"),
        ({"data": "00"}, "got `str`"),
        ({"datatype": "UINT8", "data": [-1, 2]}, "`int` >= 0"),
        ({"datatype": "UINT8", "data": [256, 2]}, "`int` <= 255"),
        ({"datatype": "INT64", "data": [2**63, 2]}, "`int` <= 9223372036854775807"),
        ({"datatype": "UINT64", "data": [2**70, 2]}, "UINT64[1, 2]"),
        ({"datatype": "INT32", "data": [1.5, 2.0]}, "got `float`"),
        ({"datatype": "BOOL", "data": [1, 0]}, "got `int`"),
    ],
)
def test_json_that_does_not_fit_is_refused(changes, words):
    body = json_body(np.zeros((1, 2), np.float32), **changes)
    with pytest.raises(errors.InputError) as refusal:
        oip.parse_request(body)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (4, "expecting 8"),
        (12, "expecting 8"),
        (-1, "a number of bytes"),
        ("8", "a number of bytes"),
        (True, "a number of"),
    ],
)
def test_a_binary_size_that_is_not_the_tensors_is_refused(size, words):
    with pytest.raises(errors.InputError, match=words):
        oip.parse_request(*binary_body(np.zeros(2, np.float32), size=size))


def test_what_is_remembered_of_a_request_is_only_what_it_has_in_common_with_the_next():
    arrays = [np.full((2, 2), value, np.float32) for value in (1, 2)]
    found = [parsed(array) for array in arrays]
    for request, array in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(request.feeds["x"], array)
    given = [
        oip.response_from_outputs(
            found[0]._replace(id=name, is_binary=True), model="m", version=version, outputs={"y": np.zeros(rows)}
        )
        for name, version, rows in (("", "1", 2), ("", "1", 3), ("", "2", 2), ("r7", "1", 2), ("", "1", 2))
    ]
    assert len({answer.header for answer in given}) == 4
    assert given[0].header == given[4].header


def test_a_short_body_and_a_long_one_are_refused():
    body, length = binary_body(np.zeros(2, np.float32))
    with pytest.raises(errors.InputError, match="only 7 more"):
        oip.parse_request(body[:-1], length)
    with pytest.raises(errors.InputError, match="1 bytes after the last tensor"):
        oip.parse_request(memoryview(bytes(body) + b"x"), length)
    with pytest.raises(errors.InputError, match="but the body has"):
        oip.parse_request(body, len(body) + 1)


def test_an_input_with_neither_data_or_both_or_given_twice_is_refused():
    tensor = {"name": "x", "shape": [1], "datatype": "FP32"}
    both = {**tensor, "data": [1.0], "parameters": {"binary_data_size": 4}}
    one = {**tensor, "data": [1.0]}
    for inputs, words in (([tensor], "neither"), ([both], "both"), ([one, one], "twice")):
        with pytest.raises(errors.InputError, match=words):
            oip.parse_request(memoryview(json.dumps({"inputs": inputs}).encode()))


def test_a_bool_of_another_byte_is_refused():
    body, length = binary_body(np.ones(2, np.bool_))
    with pytest.raises(errors.InputError, match="other than 0 and 1"):
        oip.parse_request(memoryview(bytes(body[:-1]) + b"\x02"), length)


def test_large_json_is_refused_with_the_way_out_both_ways():
    with pytest.raises(errors.InputError, match="binary extension"):
        oip.parse_request(json_body(np.zeros(30_000, np.float32)))
    request = parsed(np.zeros(1, np.float32))
    large = {"y": np.zeros(20_000, np.float32)}
    with pytest.raises(errors.InputError, match="binary_data_output"):
        oip.response_from_outputs(request, model="m", version="1", outputs=large)


def test_an_output_that_json_cannot_carry_is_refused_but_binary_can():
    outputs = {"y": np.array([np.nan, 1], np.float32)}
    request = parsed(np.zeros(1, np.float32))
    with pytest.raises(errors.InputError, match="ask for it as binary"):
        oip.response_from_outputs(request, model="m", version="1", outputs=outputs)
    answer = oip.response_from_outputs(request._replace(is_binary=True), model="m", version="1", outputs=outputs)
    assert np.isnan(np.frombuffer(answer.raw[0].tobytes(), np.float32)[0])


def test_an_unknown_output_is_refused_by_name():
    request = parsed(np.zeros(1, np.float32))._replace(wanted={"yy": True})
    with pytest.raises(errors.InputError, match=r"'yy' for model 'm'; it gives \['y'\]"):
        oip.response_from_outputs(request, model="m", version="1", outputs={"y": np.zeros(1)})


@given(st.binary(max_size=300), st.none() | st.integers(0, 400))
def test_garbage_is_refused_and_never_anything_else(garbage, length):
    with pytest.raises(errors.InputError):
        oip.parse_request(memoryview(garbage), length)


@pytest.mark.parametrize("text", ["[]", "{}", '{"inputs": 3}', '{"inputs": [{"name": "x"}]}', "[" * 5000, '"\\ud800"'])
def test_json_of_another_form_is_refused(text):
    with pytest.raises(errors.InputError):
        oip.parse_request(memoryview(text.encode()))


def test_metadata_writes_a_free_axis_as_minus_one():
    spec = TensorSpec("x", "uint8", (None, 3))
    assert oip.tensor_metadata(spec) == {"name": "x", "datatype": "UINT8", "shape": [-1, 3]}


def test_a_dtype_that_the_protocol_lacks_is_an_engine_error():
    with pytest.raises(errors.EngineError, match="complex64"):
        v2.datatype_of("complex64")
