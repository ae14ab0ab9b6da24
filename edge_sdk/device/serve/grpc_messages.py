"""The messages of gRPC v2 as tables of fields: number, name, kind.

Sources: open-inference-protocol ``inference_grpc.md``; Triton's ``grpc_service.proto`` and ``model_config.proto`` for
the extensions.
"""

from edge_sdk.wire.protobuf import Field, Fields

SERVICE = "inference.GRPCInferenceService"


def _fields(**numbers: int) -> Fields:
    return {number: Field(name, "string") for name, number in numbers.items()}


def _many(name: str, fields: Fields) -> Field:
    return Field(name, "message", is_repeated=True, fields=fields)


PARAMETER: Fields = {
    1: Field("bool_param", "bool"),
    2: Field("int64_param", "int"),
    3: Field("string_param", "string"),
    4: Field("double_param", "double"),
    5: Field("uint64_param", "int"),
}
_PARAMETERS = Field("parameters", "map", fields=PARAMETER)
_SHAPE = Field("shape", "int", is_repeated=True)

CONTENTS: Fields = {
    1: Field("bool_contents", "bool", is_repeated=True),
    2: Field("int_contents", "int", is_repeated=True),
    3: Field("int64_contents", "int", is_repeated=True),
    4: Field("uint_contents", "int", is_repeated=True),
    5: Field("uint64_contents", "int", is_repeated=True),
    6: Field("fp32_contents", "float", is_repeated=True),
    7: Field("fp64_contents", "double", is_repeated=True),
    8: Field("bytes_contents", "bytes", is_repeated=True),
}
_TENSOR: Fields = {
    **_fields(name=1, datatype=2),
    3: _SHAPE,
    4: _PARAMETERS,
    5: Field("contents", "message", fields=CONTENTS),
}

EMPTY: Fields = {}
LIVE: Fields = {1: Field("live", "bool")}
READY: Fields = {1: Field("ready", "bool")}
MODEL = _fields(name=1, version=2)
NAME = _fields(name=1)
SERVER_METADATA: Fields = {**_fields(name=1, version=2), 3: Field("extensions", "string", is_repeated=True)}

_METADATA_TENSOR: Fields = {**_fields(name=1, datatype=2), 3: _SHAPE}
MODEL_METADATA: Fields = {
    **_fields(name=1, platform=3),
    2: Field("versions", "string", is_repeated=True),
    4: _many("inputs", _METADATA_TENSOR),
    5: _many("outputs", _METADATA_TENSOR),
}

INFER_REQUEST: Fields = {
    **_fields(model_name=1, model_version=2, id=3),
    4: _PARAMETERS,
    5: _many("inputs", _TENSOR),
    6: _many("outputs", {**_fields(name=1), 2: _PARAMETERS}),
    7: Field("raw_input_contents", "bytes", is_repeated=True),
}
INFER_RESPONSE: Fields = {
    **_fields(model_name=1, model_version=2, id=3),
    4: _PARAMETERS,
    5: _many("outputs", _TENSOR),
    6: Field("raw_output_contents", "bytes", is_repeated=True),
}
STREAM_RESPONSE: Fields = {
    **_fields(error_message=1),
    2: Field("infer_response", "message", fields=INFER_RESPONSE),
}

_DATA_TYPES = (
    "TYPE_INVALID",
    "TYPE_BOOL",
    *(f"TYPE_UINT{bits}" for bits in (8, 16, 32, 64)),
    *(f"TYPE_INT{bits}" for bits in (8, 16, 32, 64)),
    *(f"TYPE_FP{bits}" for bits in (16, 32, 64)),
    "TYPE_STRING",
    "TYPE_BF16",
)
_DATA_TYPE = Field("data_type", "enum", names=_DATA_TYPES)
_DIMS = Field("dims", "int", is_repeated=True)
_QUEUE_POLICY: Fields = {
    2: Field("default_timeout_microseconds", "int"),
    3: Field("allow_timeout_override", "bool"),
    4: Field("max_queue_size", "int"),
}
_BATCHING: Fields = {
    1: Field("preferred_batch_size", "int", is_repeated=True),
    2: Field("max_queue_delay_microseconds", "int"),
    4: Field("priority_levels", "int"),
    5: Field("default_priority_level", "int"),
    6: Field("default_queue_policy", "message", fields=_QUEUE_POLICY),
}
_LATEST: Fields = {1: Field("latest", "message", fields={1: Field("num_versions", "int")})}
_GROUP: Fields = {
    1: Field("name", "string"),
    2: Field("count", "int"),
    3: Field("gpus", "int", is_repeated=True),
    4: Field("kind", "enum", names=("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")),
}
_CONFIG: Fields = {
    **_fields(name=1, platform=2, backend=17),
    3: Field("version_policy", "message", fields=_LATEST),
    4: Field("max_batch_size", "int"),
    5: _many("input", {**_fields(name=1), 2: _DATA_TYPE, 4: _DIMS}),
    6: _many("output", {**_fields(name=1), 2: _DATA_TYPE, 3: _DIMS}),
    7: _many("instance_group", _GROUP),
    11: Field("dynamic_batching", "message", fields=_BATCHING),
}
MODEL_CONFIG: Fields = {1: Field("config", "message", fields=_CONFIG)}

_DURATION: Fields = {1: Field("count", "int"), 2: Field("ns", "int")}
_PARTS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
_INFER_STATISTICS: Fields = {
    number: Field(name, "message", fields=_DURATION) for number, name in enumerate(_PARTS, start=1)
}
_STATISTICS: Fields = {
    **_fields(name=1, version=2),
    3: Field("last_inference", "int"),
    4: Field("inference_count", "int"),
    5: Field("execution_count", "int"),
    6: Field("inference_stats", "message", fields=_INFER_STATISTICS),
}
STATISTICS: Fields = {1: _many("model_stats", _STATISTICS)}

INDEX_REQUEST: Fields = {1: Field("repository_name", "string"), 2: Field("ready", "bool")}
INDEX: Fields = {1: _many("models", _fields(name=1, version=2, state=3, reason=4))}
REPOSITORY_MODEL = _fields(repository_name=1, model_name=2)

REGION: Fields = {**_fields(name=1, key=2), 3: Field("offset", "int"), 4: Field("byte_size", "int")}
REGIONS: Fields = {1: Field("regions", "map", fields=REGION)}
