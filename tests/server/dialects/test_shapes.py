"""Errors in the shape of a path's dialect, wherever they are raised, and bodies that may be missing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request

from server.dialects.errors import Failure, Shapes, plain
from server.dialects.table import DIALECTS
from tests.support import plain_dialect
from tests.support.served import PHOTO, FakeEngine, PictureHost, Serve, Served, answer, b64, body, server_for

pytest_plugins = ["tests.support.served_fixtures"]

PAINT, STOP = "/plain/paint", "/plain/stop"
SENT = {"image": b64(PHOTO)}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module", autouse=True)
def dialects() -> Iterator[None]:
    """Add the tests' own dialects to those of every server here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.app.DIALECTS", (plain_dialect.inner, plain_dialect.plain, *DIALECTS))
        yield


@pytest.fixture(scope="module")
def locked(
    dialects: None, tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost
) -> Iterator[Served]:
    """Serve with keys, small bodies, and a low rate."""
    data = tmp_path_factory.mktemp("locked")
    with server_for(data, picture_host, max_body_bytes=5000, rate="2/minute") as served:
        served.key()
        yield served


def said(response: Any, status: int, kind: str, field: str = "") -> str:
    """Check an error of the dialect and return its sentence."""
    assert response.status_code == status, response.text
    found = response.json()
    assert found.pop("id") == response.headers["x-request-id"]
    text = str(found.pop("said"))
    assert found == {"status": status, "kind": kind, "field": field}
    assert "\n" not in text
    return text


# What no handler raises.


def test_a_route_that_is_not_there_has_the_dialects_shape(served: Served) -> None:
    """Also one whose path only begins as a route does; and a client learns of a doubled slash."""
    client = served.client
    for path in ("/plain", "/plain/", "/plain/nothing", "/plain/paint/", "/plain/Paint"):
        assert said(client.get(path), 404, "NoneType") == "there is no such route or model"
    assert "two slashes in a row" in said(client.get("/plain//paint"), 404, "NoneType")
    assert said(client.get("/plain/number/x"), 404, "RequestValidationError").startswith("there is no such")


def test_a_path_of_no_dialect_has_the_hosted_apis_shape(served: Served) -> None:
    """``/plainly`` is not below ``/plain``, and ``//plain`` is another path."""
    client = served.client
    for path in (
        "/plainly",
        "/plain-a/paint",
        "/x/plain/paint",
        "//plain/paint",
        "/PLAIN/paint",
        "/v1/plain",
    ):
        response = client.get(path)
        assert (response.status_code, list(response.json())) == (404, ["error"]), path


def test_the_longest_beginning_counts(served: Served) -> None:
    """Whatever the order of the table."""
    client = served.client
    assert client.get("/plain/inner").json() == ["there is no such route or model"]
    assert client.get("/plain/inner/x").json() == ["there is no such route or model"]
    assert said(client.get("/plain/innermost"), 404, "NoneType")


def test_another_method_is_405_and_names_those_allowed(served: Served) -> None:
    """A client that probes takes 405 for a route that is there."""
    client = served.client
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = client.request(method, PAINT)
        assert said(response, 405, "NoneType") == "this route does not support this method"
        assert response.headers["allow"] == "POST"


def test_a_key_a_size_and_a_rate_are_refused_in_the_dialects_shape(locked: Served) -> None:
    """401, 413 and 429 are raised before the dialect sees a field."""
    assert said(locked.client.post(PAINT, json=SENT), 401, "UnauthorizedError").startswith("Missing")
    with locked.calling(key=locked.key()) as client:
        assert "at most" in said(client.post(PAINT, json={"x": "x" * 6000}), 413, "TooLargeError")
        assert client.post(PAINT, json=SENT).status_code == 200
        response = client.post(PAINT, json=SENT)
        assert "2 requests per 60 seconds" in said(response, 429, "RateError")
        assert int(response.headers["retry-after"]) >= 1


def test_a_body_that_cannot_be_read_is_refused_in_the_dialects_shape(served: Served) -> None:
    """Of the wrong kind, compressed, or damaged."""
    client = served.client
    assert said(client.post(PAINT, content=b"x"), 406, "ContentTypeError")
    packed = {"content-encoding": "gzip", "content-type": "application/json"}
    response = client.post(PAINT, content=b"x", headers=packed)
    assert said(response, 415, "EncodingError")
    assert response.headers["accept-encoding"] == "identity"
    damaged = client.post(PAINT, content=b"{", headers=JSON)
    assert said(damaged, 400, "RequestError", "body") == "body: is not valid JSON"


def test_a_bug_says_nothing_but_the_id_to_report(served: Served) -> None:
    """The exception's text may hold a prompt; its id finds it in the log."""
    response = served.client.get("/plain/bug")
    text = said(response, 500, "RuntimeError")
    assert text == f"internal error; please report it with the request id {response.headers['x-request-id']}"


def test_a_failure_of_the_engine_has_the_dialects_shape(serve: Serve) -> None:
    """500 names the request's id, 503 says when to come again."""
    engine = FakeEngine()
    client = serve(engine).client
    engine.failures.append(RuntimeError("a bug"))
    assert "internal error" in said(client.post(PAINT, json=SENT), 500, "RuntimeError")
    response = client.get("/plain/full")
    assert said(response, 503, "OutOfMemoryError") == "too large for this GPU"
    assert int(response.headers["retry-after"]) >= 1
    engine.die()
    assert "not ready" in said(client.post(PAINT, json=SENT), 503, "BusyError")


def test_a_stranger_is_refused_in_the_dialects_shape(served: Served) -> None:
    """An open server refuses other names and pages before anything is read."""
    for header in ("Host: example.com", "Host: 127.0.0.1\r\nOrigin: https://example.com"):
        status, _, data = answer(served.raw(f"POST {STOP} HTTP/1.1", header))
        assert (status, json.loads(data)["kind"]) == (403, "ForbiddenError")


def test_the_field_at_fault_is_named(served: Served) -> None:
    """By the engine, by the service, and in a query."""
    client = served.client
    assert said(client.post(PAINT, json={"image": "@"}), 400, "RequestError", "image").startswith("image: ")
    many = client.post(PAINT, json=SENT | {"samples": 99})
    assert said(many, 400, "RequestError", "samples").startswith("samples: must be")
    assert said(client.get("/plain/number/2?count=x"), 400, "RequestValidationError", "count")
    assert client.get("/plain/number/2?count=3").json() == 6


def test_errors_of_other_paths_stay_the_hosted_apis(served: Served) -> None:
    """Its clients show the one field that it documents."""
    client = served.client
    for response in (
        client.post("/v1/sdxl-inpaint", json=body(samples=9)),
        client.get("/nothing"),
        client.put("/v1/sdxl-inpaint"),
    ):
        assert list(response.json()) == ["error"]


def test_a_prefix_may_be_the_whole_path() -> None:
    """And one that is the beginning of another never takes its paths."""
    shapes = Shapes({"/a": plain_dialect.shape, "/a/b": plain_dialect.inner_shape})
    failure = Failure(404, "no")

    def body_at(path: str) -> bytes:
        return bytes(shapes.answer(Request({"type": "http", "path": path, "headers": []}), failure).body)

    outer, inner, other = (
        bytes(each(failure).body) for each in (plain_dialect.shape, plain_dialect.inner_shape, plain)
    )
    assert [body_at(path) for path in ("/a", "/a/", "/a/bc")] == [outer] * 3
    assert [body_at(path) for path in ("/a/b", "/a/b/", "/a/b/c")] == [inner] * 3
    assert [body_at(path) for path in ("/", "", "/ab", "/b/a")] == [other] * 4


# Bodies that may be missing.


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b", "text/plain", ""])
def test_an_empty_body_is_not_parsed_where_none_is_needed(kind: str, served: Served) -> None:
    """Photoshop labels it JSON, webuiapi does not label it."""
    headers = {"content-type": kind} if kind else {}
    assert served.client.post(STOP, content=b"", headers=headers).json() == {"fields": []}


def test_a_body_is_read_where_none_is_needed(served: Served) -> None:
    """Some clients send ``{}``, and what is no body is refused as everywhere."""
    assert served.client.post(STOP, json={}).json() == {"fields": []}
    assert served.client.post(STOP, json={"a": 1}).json() == {"fields": ["a"]}
    chunked = served.client.post(STOP, content=iter([b'{"a":', b"1}"]), headers=JSON)
    assert chunked.json() == {"fields": ["a"]}
    assert said(served.client.post(STOP, content=b"x"), 406, "ContentTypeError")
    bad = served.client.post(STOP, content=b"[]", headers=JSON)
    assert said(bad, 400, "RequestError", "body") == "body: must be a JSON object"
