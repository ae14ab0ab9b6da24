"""The OpenAPI 3.1 document of the query API, made from the questions and the structs of their answers."""

from collections.abc import Mapping
from typing import Any

import msgspec

from edge_sdk.collector.web.questions import JSON, Question

_REFUSAL = {
    "description": "why not",
    "content": {JSON: {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}},
}


def document(paths: Mapping[str, Question], *, version: str) -> dict[str, Any]:
    """Gives the document.

    Args:
        paths: what can be asked.
        version: of edge_sdk.
    """
    kinds = [question.answer for question in paths.values()]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edge_sdk collector",
            "version": version,
            "description": "Questions about a fleet's telemetry. Read-only. Times are Unix seconds.",
        },
        "paths": {
            path: {"get": _operation(path, question, schema)}
            for (path, question), schema in zip(paths.items(), schemas, strict=True)
        },
        "components": {"schemas": components},
    }


def _operation(path: str, question: Question, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": path.rpartition("/")[2],
        "summary": question.summary,
        "parameters": [
            {
                "name": parameter.name,
                "in": "query",
                "required": parameter.is_required,
                "description": parameter.meaning,
                "schema": {"type": parameter.kind},
            }
            for parameter in question.parameters
        ],
        "responses": {
            "200": {"description": question.summary, "content": {JSON: {"schema": schema}}},
            "400": _REFUSAL,
            "503": _REFUSAL,
        },
    }
