"""The errors of the OpenAI dialect: status, type, code and the field at fault."""

import json
from typing import Any

import pytest

from inpaint.errors import DeadlineError, OutOfMemoryError, PaintError
from inpaint.images.codec import MAX_ENCODED_BYTES
from tests.support.openai_api import EDITS, GENERATIONS, MODELS, code, edit, engine_of, generate, problem
from tests.support.served import PHOTO, FakeEngine, Serve, Served, b64

pytest_plugins = ["tests.support.served_fixtures"]

# (field, value): what the sentence says after the field's name.
FIELDS: list[tuple[str, Any, str]] = [
    ("prompt", None, "is required"),
    ("n", 0, "must be a whole number from 1 to 10, not 0"),
    ("n", 11, "must be a whole number from 1 to 10, not 11"),
    ("n", "many", "must be a whole number from 1 to 10, not 'many'"),
    ("size", "big", "must be auto or width × height"),
    ("size", "64*64", "must be auto or width × height"),
    ("size", "0x0", "sides must be 16 to 8192 pixels"),
    ("size", "8192x8192", "must have at most 25 megapixels"),
    ("response_format", "file", "must be one of b64_json, url"),
    ("output_format", "gif", "must be one of jpeg, png, webp, not 'gif'"),
    ("output_compression", 101, "must be a whole number from 0 to 100"),
    ("quality", "best", "must be one of auto, low"),
    ("background", "transparent", "cannot be transparent"),
    ("stream", "perhaps", "must be true or false, not 'perhaps'"),
    ("partial_images", 4, "must be a whole number from 0 to 3, not 4"),
    ("seed", -2, "must be a whole number from -1"),
    ("strength", 1.5, "must be a number above 0, at most 1"),
    ("num_inference_steps", 151, "must be a whole number from 1 to 150"),
    ("scheduler", "best", "unknown name 'best'"),
    ("guidance_interval", "1", "must be two rising fractions"),
    ("color_match", "perhaps", "must be true or false"),
    ("area", "half", "must be one of auto, whole"),
    ("loras", "a:99", "the scale of the LoRA a must be"),
]


@pytest.mark.parametrize(("field", "value", "says"), FIELDS, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("send", [edit, generate])
def test_a_wrong_field_is_named(field: str, value: object, says: str, send: Any, served: Served) -> None:
    """``param`` is what a client's program looks at, the sentence what its user reads."""
    answer = send(served.client, **{field: value})
    assert problem(answer, 400, field).startswith(f"{field}: {says}")
    assert code(answer) == ("invalid_request_error", "invalid_value")


@pytest.mark.parametrize("field", ["prompt", "size", "quality", "scheduler", "n", "stream", "loras", "area"])
def test_a_field_of_another_kind_is_named(field: str, served: Served) -> None:
    """JSON has objects where text belongs."""
    problem(generate(served.client, **{field: {"a": 1}}), 400, field)


EDIT_FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no picture": ({"image": None, "mask": None}, "image", "is required"),
    "no picture but a mask": ({"image": None}, "image", "is required"),
    "an empty file": ({"image": b"", "mask": None}, "image", "is required"),
    "no picture at all": ({"image": b"hello"}, "image", ""),
    "markup": ({"markup": "x"}, "markup", "is not read here"),
    "less than a step": ({"num_inference_steps": 1, "strength": 0.5}, "strength", "1 steps"),
}


@pytest.mark.parametrize("name", EDIT_FIELDS)
def test_a_wrong_edit_is_named(name: str, served: Served) -> None:
    """Nothing is painted or charged."""
    fields, param, says = EDIT_FIELDS[name]
    assert problem(edit(served.client, **fields), 400, param).startswith(f"{param}: {says}")
    assert not engine_of(served).requests


def test_a_lora_that_is_not_there_is_an_invalid_value(served: Served) -> None:
    """A mistyped name is refused before it is painted."""
    assert "style" in problem(edit(served.client, loras="style:0.8"), 400, "loras")


def test_a_url_that_may_not_be_fetched_is_an_invalid_value(served: Served) -> None:
    """The answer does not say what is there."""
    answer = edit(served.client, image="http://127.0.0.1:1/a.png")
    assert problem(answer, 400)
    assert code(answer) == ("invalid_request_error", "invalid_value")


def test_keys_and_credits(serve: Serve) -> None:
    """The SDKs choose their exception by the status, and do not repeat what has x-should-retry: false."""
    served = serve(metering=True, price=0.01)
    poor, rich = served.key(), served.key(balance=5)
    with served.calling(authorization="Bearer inp_0_0") as client:
        refused = edit(served.client), edit(client)
    for answer in refused:
        problem(answer, 401)
        assert code(answer) == ("invalid_request_error", "invalid_api_key")
    with served.calling(authorization=f"Bearer {poor}") as client:
        answer = edit(client)
    problem(answer, 429)
    assert code(answer) == ("rate_limit_error", "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    with served.calling(api_key=rich) as client:
        assert edit(client).status_code == 200
    with served.calling(key=served.key(scopes=("metrics",))) as client:
        for answer in (edit(client), client.get(MODELS)):
            problem(answer, 403)
            assert code(answer) == ("invalid_request_error", "permission_denied")


def test_a_rate_that_is_exceeded_says_when_to_come_back(serve: Serve) -> None:
    """429 is repeated by the SDKs after this time."""
    served = serve(rate="1/hour")
    with served.calling(key=served.key()) as client:
        assert edit(client).status_code == 200
        answer = edit(client)
    problem(answer, 429)
    assert code(answer) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1


FAILURES = [
    (PaintError("the model painted no picture"), 500, None),
    (OutOfMemoryError("too large for this GPU"), 503, "overloaded"),
    (DeadlineError("not painted in time"), 504, "timeout"),
]


@pytest.mark.parametrize(("error", "status", "named"), FAILURES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("fields", [{}, {"stream": "true"}, {"response_format": "url"}], ids=str)
def test_a_failure_has_no_picture(
    error: Exception, status: int, named: str | None, fields: dict[str, str], served: Served
) -> None:
    """Before a stream's first event it is a plain answer, too."""
    engine_of(served).failures.append(error)
    answer = edit(served.client, **fields)
    assert str(error) in problem(answer, status)
    assert code(answer) == ("server_error", named)
    assert "b64_json" not in answer.text
    assert answer.headers.get("x-should-retry") == (
        "false" if status == 504 and not fields.get("response_format") else None
    )


def test_an_engine_that_is_not_ready_is_503(serve: Serve) -> None:
    """The SDKs come back by themselves."""
    answer = edit(serve(FakeEngine(loaded=False)).client)
    assert "not ready" in problem(answer, 503)
    assert "retry-after" in answer.headers


BODIES: dict[str, tuple[str, bytes, int, str]] = {
    "no form": ("text/plain", b"x", 415, "unsupported_media_type"),
    "no JSON": ("application/json", b"{", 400, "invalid_value"),
    "a list": ("application/json", b"[]", 400, "invalid_value"),
    "a broken form": ("multipart/form-data; boundary=b", b"x", 400, "invalid_value"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", [EDITS, GENERATIONS])
def test_a_body_that_cannot_be_read(name: str, path: str, served: Served) -> None:
    """No field is at fault."""
    kind, data, status, named = BODIES[name]
    answer = served.client.post(path, content=data, headers={"content-type": kind})
    problem(answer, status)
    assert code(answer) == ("invalid_request_error", named)


def test_a_body_that_is_too_large_is_413(serve: Serve) -> None:
    """Before all of it was read."""
    served = serve(max_body_bytes=10_000)
    answer = served.client.post(GENERATIONS, json={"prompt": "x" * 20_000})
    problem(answer, 413)
    assert code(answer) == ("invalid_request_error", "too_large")


def test_a_file_that_is_too_large_is_named(served: Served) -> None:
    """The body may be larger than one picture."""
    answer = edit(served.client, image=b"\xff" * (MAX_ENCODED_BYTES + 1))
    assert problem(answer, 413, "image").startswith("image: must be a file of at most 20 MB")


@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        ("POST", "/v1/images/variations", 404, "not_found"),
        ("GET", "/v1/images", 404, "not_found"),
        ("GET", EDITS, 405, "method_not_allowed"),
        ("DELETE", f"{MODELS}/demo", 405, "method_not_allowed"),
    ],
)
def test_a_route_that_is_not_there(method: str, path: str, status: int, named: str, served: Served) -> None:
    """Errors that no handler raises have the shape of their path, and others keep theirs."""
    answer = served.client.request(method, path)
    problem(answer, status)
    assert code(answer) == ("invalid_request_error", named)
    assert isinstance(served.client.get("/v1/nothing").json()["error"], str)


def test_a_bug_has_the_shape_too(served: Served) -> None:
    """An operator finds it by the request's id."""
    engine_of(served).failures.append(ZeroDivisionError("a bug"))
    answer = edit(served.client)
    assert answer.headers["x-request-id"] in problem(answer, 500)
    assert code(answer) == ("server_error", None)


def test_models(served: Served) -> None:
    """Clients fill their menus with the list, and ask for the one that was chosen."""
    listed = served.client.get(MODELS, params={"api-version": "2026-01-01"}).json()
    (model,) = listed["data"]
    assert (listed["object"], model["object"]) == ("list", "model")
    assert (model["id"], type(model["created"])) == ("demo", int)
    assert served.client.get(f"{MODELS}/demo").json() == model
    answer = served.client.get(f"{MODELS}/gpt-image-1")
    assert "'demo'" in problem(answer, 404, "model")
    assert code(answer) == ("invalid_request_error", "model_not_found")


def test_a_request_is_json_or_a_form_on_both_routes(served: Served) -> None:
    """A program that uses the other encoding is understood."""
    form = {"prompt": (None, "x"), "size": (None, "32x32")}
    assert served.client.post(GENERATIONS, files=form).json()["size"] == "32x32"
    body = json.dumps({"prompt": "x", "image": b64(PHOTO)})
    headers = {"content-type": "application/json"}
    assert served.client.post(EDITS, content=body, headers=headers).status_code == 200
