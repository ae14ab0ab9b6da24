"""NVIDIA's Python client, unmodified: each check prints its name; an assertion ends it. Arguments: HTTP, gRPC, gRPC's socket."""

import asyncio
import sys

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
Y = X @ np.array([[1, -1], [2, 0.5], [0, 3]], np.float32)


def inputs_of(module, x=X, name="x", datatype="FP32", **how):
    given = module.InferInput(name, list(x.shape), datatype)
    given.set_data_from_numpy(x, **how)
    return [given]


def refused(call, *words, status=None):
    try:
        call()
    except InferenceServerException as error:
        text = f"{error.status()} {error.message()}"
        assert all(word in text for word in words), text
        if status is not None:
            assert status in str(error.status()), text  # noqa: PT017 - pytest is not installed beside the client
        return
    raise AssertionError("it was answered")


def same(result):
    np.testing.assert_allclose(result.as_numpy("y"), Y, rtol=1e-5)


def descriptions(client, as_json):
    """What the server says of itself and of the model, on either transport."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert not client.is_model_ready("zzz")
    server = client.get_server_metadata(**as_json)
    assert server["name"] == "edge_sdk"
    assert {"model_configuration", "statistics", "system_shared_memory"} <= set(server["extensions"])
    metadata = client.get_model_metadata("tiny", **as_json)
    assert [int(axis) for axis in metadata["inputs"][0]["shape"]] == [-1, 3]
    config = client.get_model_config("tiny", **as_json)
    config = config.get("config", config)
    assert (config["max_batch_size"], config["input"][0]["data_type"]) == (1, "TYPE_FP32")
    assert [int(axis) for axis in config["output"][0]["dims"]] == [2]


def statistics(client, as_json):
    (before,) = client.get_inference_statistics("tiny", **as_json)["model_stats"]
    yield
    (after,) = client.get_inference_statistics("tiny", **as_json)["model_stats"]
    for part in ("success", "queue", "compute_infer"):
        counts = [int(one["inference_stats"][part].get("count", 0)) for one in (before, after)]
        assert counts[1] == counts[0] + 1, (part, counts)
    assert int(after["execution_count"]) == int(before.get("execution_count", 0)) + 1


def repository(client, as_json):
    def states():
        index = client.get_model_repository_index(**as_json)
        rows = index if isinstance(index, list) else index["models"]
        return {row["name"]: row["state"] for row in rows}

    assert states()["tiny"] == "READY"
    client.unload_model("other")
    assert states()["other"] == "UNAVAILABLE"
    assert not client.is_model_ready("other")
    client.load_model("other")
    assert states()["other"] == "READY"
    refused(lambda: client.load_model("zzz"), "failed to load 'zzz', failed to poll from model repository")


def errors(module, client, *, unknown, wrong):
    refused(
        lambda: client.infer("zzz", inputs_of(module)), "Request for unknown model: 'zzz' is not found", status=unknown
    )
    refused(lambda: client.infer("tiny", inputs_of(module), model_version="9"), "unknown model", status=unknown)
    four = np.zeros((1, 4), np.float32)
    refused(lambda: client.infer("tiny", inputs_of(module, four)), "but was given float32[1, 4]", status=wrong)
    double = inputs_of(module, X.astype(np.float64), datatype="FP64")
    refused(lambda: client.infer("tiny", double), "but was given float64", status=wrong)
    refused(lambda: client.infer("tiny", inputs_of(module, name="z")), "['z']", status=wrong)
    short = inputs_of(module)
    short[0].set_shape([3, 3])
    refused(
        lambda: client.infer("tiny", short), "unexpected total byte size 24 for input 'x', expecting 36", status=wrong
    )
    outputs = [module.InferRequestedOutput("yy")]
    refused(
        lambda: client.infer("tiny", inputs_of(module), outputs=outputs),
        "unexpected inference output 'yy'",
        status=wrong,
    )


def shared_memory(module, client, name):
    source = shm.create_shared_memory_region(f"in_{name}", f"/edge_sdk_{name}_in", X.nbytes)
    target = shm.create_shared_memory_region(f"out_{name}", f"/edge_sdk_{name}_out", Y.nbytes)
    try:
        client.unregister_system_shared_memory()
        client.register_system_shared_memory(f"in_{name}", f"/edge_sdk_{name}_in", X.nbytes)
        client.register_system_shared_memory(f"out_{name}", f"/edge_sdk_{name}_out", Y.nbytes)
        register = client.register_system_shared_memory
        refused(lambda: register(f"in_{name}", f"/edge_sdk_{name}_in", X.nbytes), "already in manager")
        refused(lambda: register("large", f"/edge_sdk_{name}_in", 1 << 30), "bytes")
        refused(lambda: client.register_system_shared_memory("none", "/edge_sdk_no_such", 4), "Unable to open")
        assert f"in_{name}" in str(client.get_system_shared_memory_status())
        shm.set_shared_memory_region(source, [X])
        given = module.InferInput("x", list(X.shape), "FP32")
        given.set_shared_memory(f"in_{name}", X.nbytes)
        wanted = module.InferRequestedOutput("y")
        wanted.set_shared_memory(f"out_{name}", Y.nbytes)
        result = client.infer("tiny", [given], outputs=[wanted])
        assert result.get_output("y") is not None
        np.testing.assert_allclose(shm.get_contents_as_numpy(target, np.float32, Y.shape), Y, rtol=1e-5)
        given.set_shared_memory(f"in_{name}", X.nbytes, offset=8)
        refused(lambda: client.infer("tiny", [given]), "Invalid offset + byte size")
        given.set_shared_memory("unknown", X.nbytes)
        refused(lambda: client.infer("tiny", [given]), "Unable to find shared memory region")
        client.unregister_system_shared_memory()
    finally:
        shm.destroy_shared_memory_region(source)
        shm.destroy_shared_memory_region(target)


def http_sync(url):
    with triton_http.InferenceServerClient(url, concurrency=4) as client:
        descriptions(client, {})
        counting = statistics(client, {})
        next(counting)
        same(client.infer("tiny", inputs_of(triton_http)))
        next(counting, None)
        same(client.infer("tiny", inputs_of(triton_http, binary_data=False)))
        plain = [triton_http.InferRequestedOutput("y", binary_data=False)]
        result = client.infer("tiny", inputs_of(triton_http), outputs=plain, request_id="r-1", model_version="1.2.0")
        same(result)
        assert result.get_response()["id"] == "r-1"
        same(client.infer("tiny", inputs_of(triton_http), priority=1, timeout=5_000_000))
        same(client.async_infer("tiny", inputs_of(triton_http)).get_result())
        repository(client, {})
        errors(triton_http, client, unknown="404", wrong="400")
        shared_memory(triton_http, client, "http")


async def http_asyncio(url):
    async with triton_http_aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_config("tiny"))["name"] == "tiny"
        for result in await asyncio.gather(*(client.infer("tiny", inputs_of(triton_http)) for _ in range(16))):
            same(result)
        try:
            await client.infer("zzz", inputs_of(triton_http))
        except InferenceServerException as error:
            assert "unknown model" in str(error)  # noqa: PT017 - as above
        else:
            raise AssertionError("it was answered")


def grpc_sync(url, name):
    with triton_grpc.InferenceServerClient(url) as client:
        as_json = {"as_json": True}
        descriptions(client, as_json)
        counting = statistics(client, as_json)
        next(counting)
        same(client.infer("tiny", inputs_of(triton_grpc)))
        next(counting, None)
        result = client.infer(
            "tiny", inputs_of(triton_grpc), request_id="r-1", model_version="1.2.0", priority=1, timeout=5_000_000
        )
        same(result)
        assert result.get_response().id == "r-1"
        repository(client, as_json)
        errors(triton_grpc, client, unknown="NOT_FOUND", wrong="INVALID_ARGUMENT")
        shared_memory(triton_grpc, client, name)
        answers = []
        client.start_stream(lambda result, error: answers.append((result, error)))
        for number in range(5):
            client.async_stream_infer("tiny", inputs_of(triton_grpc), request_id=str(number))
        client.async_stream_infer("zzz", inputs_of(triton_grpc))
        client.stop_stream()
        assert [error for _, error in answers[:5]] == [None] * 5
        for result, _ in answers[:5]:
            same(result)
        assert "unknown model" in str(answers[5][1])


async def grpc_asyncio(url):
    async with triton_grpc_aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        same(await client.infer("tiny", inputs_of(triton_grpc)))


def numbers():
    """Every field that the daemon's tables name has the number that NVIDIA's generated code has."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    known = {}
    for module in (service_pb2, model_config_pb2):

        def walk(message):
            numbers = {field.name: field.number for field in message.fields}
            known.update({message.name: numbers, message.full_name: numbers})
            for nested in message.nested_types:
                walk(nested)

        for message in module.DESCRIPTOR.message_types_by_name.values():
            walk(message)
    return known


def main():
    if sys.argv[1] == "numbers":
        import json

        print(json.dumps(numbers()))
        return
    http, grpc, grpc_socket = sys.argv[1:]
    for name, check in {
        "HTTP, sync": lambda: http_sync(http),
        "HTTP, asyncio": lambda: asyncio.run(http_asyncio(http)),
        "gRPC": lambda: grpc_sync(grpc, "grpc"),
        "gRPC over a unix socket": lambda: grpc_sync(f"unix:{grpc_socket}", "unix"),
        "gRPC, asyncio": lambda: asyncio.run(grpc_asyncio(grpc)),
    }.items():
        check()
        print("ok", name, flush=True)


if __name__ == "__main__":
    main()
