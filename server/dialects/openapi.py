"""What ``/openapi.json`` says beyond what FastAPI finds out by itself."""

from typing import Any

from fastapi import FastAPI

from server.dialects.segmind_answers import Problem
from server.dialects.segmind_request import InpaintBody

_KEYS = {
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_FOR_STRANGERS = ("/livez", "/readyz")
# FastAPI's own answer to a wrong path or query, which no route of ours gives.
_NOT_OURS = ("HTTPValidationError", "ValidationError")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for OpenAPI: those that every route has, and these."""
    return {status: {"model": Problem} for status in (401, 403, 429, 500, 503, *statuses)}


def describe(app: FastAPI) -> None:
    """Add to the description of ``app`` what it cannot see: bodies, keys, and which errors never come."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            _add_body(schema)
            _add_keys(schema)
            _drop_validation(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _add_body(schema: dict[str, Any]) -> None:
    """The bodies are read by hand, under caps, so their model is added by hand."""
    body = InpaintBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["components"]["schemas"]["InpaintBody"] = body


def _add_keys(schema: dict[str, Any]) -> None:
    schema["components"]["securitySchemes"] = _KEYS
    schema["security"] = [{name: []} for name in _KEYS]
    for path in _FOR_STRANGERS:
        schema["paths"][path]["get"]["security"] = []


def _drop_validation(schema: dict[str, Any]) -> None:
    for name in _NOT_OURS:
        schema["components"]["schemas"].pop(name, None)
    for methods in schema["paths"].values():
        for operation in methods.values():
            if _NOT_OURS[0] in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
