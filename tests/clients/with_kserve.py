"""KServe's clients, unmodified: REST v2 (binary and JSON) and gRPC. Arguments: HTTP, gRPC, gRPC's socket."""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
Y = X @ np.array([[1, -1], [2, 0.5], [0, 3]], np.float32)


def request(*, model="tiny", is_binary=False, x=X, datatype="FP32"):
    given = InferInput("x", list(x.shape), datatype)
    given.set_data_from_numpy(x, binary_data=is_binary)
    return InferRequest(model_name=model, infer_inputs=[given], request_id="r-1")


def same(answer):
    assert answer.id == "r-1"
    np.testing.assert_allclose(answer.outputs[0].as_numpy(), Y, rtol=1e-5)


async def refused(awaitable, *words):
    try:
        await awaitable
    except Exception as error:
        text = f"{type(error).__name__} {error} {getattr(getattr(error, 'response', None), 'text', '')}"
        assert all(word in text for word in words), text
        return
    raise AssertionError("it was answered")


async def rest(base):
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20))
    assert await client.is_server_live(base)
    assert await client.is_server_ready(base)
    assert await client.is_model_ready(base, "tiny")
    for is_binary in (False, True):
        same(await client.infer(base, request(is_binary=is_binary), model_name="tiny"))
    await refused(client.infer(base, request(model="zzz"), model_name="zzz"), "404")
    await refused(client.infer(base, request(x=X[:, :2]), model_name="tiny"), "400")
    await refused(client.infer(base, request(x=X.astype(np.float64), datatype="FP64"), model_name="tiny"), "400")
    await client.close()


async def grpc(url):
    client = InferenceGRPCClient(url=url)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("tiny")
    same(await client.infer(request(is_binary=True)))
    same(await client.infer(request()))
    await refused(client.infer(request(model="zzz")), "unknown model")
    await refused(client.infer(request(x=X[:, :2])), "but was given float32[2, 2]")
    await client.close()


def main():
    http, address, path = sys.argv[1:]
    for name, check in {
        "REST": lambda: rest(f"http://{http}"),
        "gRPC": lambda: grpc(address),
        "gRPC over a unix socket": lambda: grpc(f"unix:{path}"),
    }.items():
        asyncio.run(check())
        print("ok", name, flush=True)


if __name__ == "__main__":
    main()
