"""Additions to the OpenAPI description that FastAPI generates."""

from typing import Any

from fastapi import FastAPI

from server.dialects.erase_request import EraseBody
from server.dialects.segmind_answers import Problem
from server.dialects.segmind_request import InpaintBody, RefineBody
from server.dialects.select_body import SelectBody

_KEYS = {
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_WITHOUT_KEY = ("/livez", "/readyz")
# FastAPI's own answer to an invalid path or query, which no route of ours gives.
_UNUSED = ("HTTPValidationError", "ValidationError")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for OpenAPI: those that every route has, and these."""
    return {status: {"model": Problem} for status in (401, 403, 429, 500, 503, *statuses)}


def describe(app: FastAPI) -> None:
    """Add bodies and keys to the description of ``app``, and remove errors that no route answers."""
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
    """Add the models of request bodies, since the routes read bodies themselves."""
    for body in (InpaintBody, RefineBody, SelectBody, EraseBody):
        described = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"][body.__name__] = described


def _add_keys(schema: dict[str, Any]) -> None:
    schema["components"]["securitySchemes"] = _KEYS
    schema["security"] = [{name: []} for name in _KEYS]
    for path in _WITHOUT_KEY:
        schema["paths"][path]["get"]["security"] = []


def _drop_validation(schema: dict[str, Any]) -> None:
    for name in _UNUSED:
        schema["components"]["schemas"].pop(name, None)
    for methods in schema["paths"].values():
        for operation in methods.values():
            if _UNUSED[0] in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
