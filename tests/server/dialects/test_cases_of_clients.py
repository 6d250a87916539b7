"""What clients of other programs send: taken as it is meant, or one sentence that names the field."""

import json
from typing import Any

import pytest

from tests.support.served import MASK, PHOTO, SIZE, Served, b64, body, eventually, file_of, white_box

pytest_plugins = ["tests.support.served_fixtures"]

V1 = "/v1/sdxl-inpaint"
TAKEN = ""
_SEED = "seed: must be a whole number from -1 to 999999999999999, not "
_NO_TEXT = "contains characters that are not text"

# (field, value): the sentence of the refusal, or TAKEN.
FIELDS: list[tuple[str, Any, str]] = [
    *(("seed", seed, TAKEN) for seed in (1.0, "1", "1.0", 1e3, None, "", -1, 2**32, 10**15, "0007", " 5 ")),
    *(("seed", seed, f"{_SEED}{seed!r}") for seed in (2**53, "abc", -2, 1.5, 2**64, 10**15 + 1)),
    *(("strength", strength, TAKEN) for strength in ("0.9", 0.05, 0.99, "1e-1")),
    ("strength", 0, "strength: 20 steps × strength 0 is less than one step"),
    ("strength", 0.04, "strength: 20 steps × strength 0.04 is less than one step"),
    *(
        ("strength", s, f"strength: must be a number from 0 to 0.99, not {s!r}")
        for s in (1, 1.0, -0.1, "x", 5)
    ),
    *(("num_inference_steps", steps, TAKEN) for steps in (20.0, "20", "20.0", 100)),
    *(
        ("num_inference_steps", n, f"num_inference_steps: must be a whole number from 20 to 100, not {n!r}")
        for n in (19, 101, 20.5, "many")
    ),
    *(("guidance_scale", scale, TAKEN) for scale in (1, 25, "7.5")),
    *(
        ("guidance_scale", scale, f"guidance_scale: must be a number from 1 to 25, not {scale!r}")
        for scale in ("7,5", 0, 25.5, -1)
    ),
    *(("base64", value, TAKEN) for value in ("True", "false", "0", 1, "yes", "on", False)),
    *(("base64", value, f"base64: must be true or false, not {value!r}") for value in ("perhaps", 2, -1)),
    *(("samples", samples, TAKEN) for samples in ("2", 1, 4)),
    *(("samples", n, f"samples: must be a whole number from 1 to 4, not {n!r}") for n in (0, 5, 1.5)),
    *(("scheduler", name, TAKEN) for name in ("euler a", "EULER A", "DPM++ 2M Karras", "dpmpp_2m", "", None)),
    *(
        ("scheduler", name, f"scheduler: unknown name '{name}'; use one of DDIM")
        for name in ("K_EULER", "EulerDiscreteScheduler", "eular")
    ),
    ("prompt", "", TAKEN),
    ("prompt", None, "prompt: is required"),
    *(("prompt", text, f"prompt: {_NO_TEXT}") for text in ("\0", "\ud83d", "a \udce9 b")),
    *(("prompt", value, "prompt: must be text") for value in (123, ["a"], {"a": 1})),
    *(("negative_prompt", text, TAKEN) for text in (None, "", "bad")),
    *(("negative_prompt", text, f"negative_prompt: {_NO_TEXT}") for text in ("\ud83d", "\0")),
]


@pytest.fixture(scope="module")
def served(shared: Served) -> Served:
    """The shared server, once its engine has started."""
    eventually(lambda: shared.client.get("/readyz").status_code == 200)
    return shared


def posted(served: Served, fields: dict[str, Any]) -> tuple[int, str]:
    """Return the status and the sentence of an answer; httpx would not send lone surrogates."""
    headers = {"content-type": "application/json"}
    answer = served.client.post(V1, content=json.dumps(fields), headers=headers)
    return answer.status_code, "" if answer.status_code == 200 else answer.json()["error"]


@pytest.mark.parametrize(("field", "value", "says"), FIELDS, ids=lambda value: repr(value)[:40])
def test_a_value_is_taken_or_named(field: str, value: object, says: str, served: Served) -> None:
    """Numbers in text and whole floats are what JavaScript and forms send."""
    fields = {**body(num_inference_steps=20, scheduler="Euler"), field: value}
    status, sentence = posted(served, fields)
    assert status == (400 if says else 200), sentence
    assert sentence.startswith(says)


SIZES = [(SIZE[0] + 1, SIZE[1]), (SIZE[0] * 2, SIZE[1] * 2), (SIZE[1], SIZE[0]), (SIZE[0], SIZE[1] - 1)]


@pytest.mark.parametrize("size", SIZES, ids=["1px wider", "2x size", "turned", "1px lower"])
def test_a_mask_of_another_size_is_told_both(size: tuple[int, int], served: Served) -> None:
    """The sentence has both sizes."""
    status, sentence = posted(served, body(mask=b64(file_of(white_box(size)))))
    assert status == 400
    assert f"{SIZE[0]}×{SIZE[1]}" in sentence
    assert f"{size[0]}×{size[1]}" in sentence


TYPES = {
    "application/json": 200,
    "application/json; charset=utf-8": 200,
    "APPLICATION/JSON": 200,
    "text/json": 406,
    "text/plain": 406,
    "application/x-www-form-urlencoded": 406,
    "application/vnd.api+json": 406,
    "": 406,
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_content_type_decides(kind: str, served: Served) -> None:
    """As in the hosted API, which says ``Invalid content type``."""
    headers = {"content-type": kind} if kind else {}
    answer = served.client.post(V1, content=json.dumps(body()).encode(), headers=headers)
    assert answer.status_code == TYPES[kind]
    if answer.status_code != 200:
        assert answer.json() == {"error": "Invalid content type"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_any_unicode_encoding_of_json_is_read(encoding: str, served: Served) -> None:
    """Programs on Windows write byte order marks."""
    data = json.dumps(body(prompt="ein großer Kreis"), ensure_ascii=False).encode(encoding)
    answer = served.client.post(V1, content=data, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


Part = tuple[str, bytes, str, str]  # name, value, file name, content type
_IMAGE: Part = ("image", PHOTO, "p.png", "image/png")
_MASK: Part = ("mask", MASK, "m.png", "image/png")
_PROMPT: Part = ("prompt", b"a red circle", "", "")
FORMS: dict[str, tuple[list[Part], str]] = {
    "plain": ([_IMAGE, _MASK, _PROMPT], TAKEN),
    "octet-stream without a name": (
        [("image", PHOTO, "blob", "application/octet-stream"), ("mask", MASK, "blob", ""), _PROMPT],
        TAKEN,
    ),
    "a picture as text": ([("image", b64(PHOTO).encode(), "", ""), _MASK, _PROMPT], TAKEN),
    "a UTF-8 file name": ([("image", PHOTO, "фото (1).png", "image/png"), _MASK, _PROMPT], TAKEN),
    "image[]": ([("image[]", PHOTO, "p.png", "image/png"), _MASK, _PROMPT], "image: is required"),
    "mask_image": ([_IMAGE, ("mask_image", MASK, "m.png", ""), _PROMPT], "mask: is required"),
    "an empty mask": ([_IMAGE, ("mask", b"", "", ""), _PROMPT], "mask: must be an http(s) URL"),
    "no prompt": ([_IMAGE, _MASK], "prompt: is required"),
}


@pytest.mark.parametrize("what", FORMS)
def test_a_form_is_taken_or_named(what: str, served: Served) -> None:
    """Browsers, curl and client libraries name the parts in their own ways."""
    parts, says = FORMS[what]
    lines = []
    for name, value, file, kind in parts:
        file_name = f'; filename="{file}"' if file else ""
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n'
        lines.append(
            (head + (f"Content-Type: {kind}\r\n" if kind else "") + "\r\n").encode() + value + b"\r\n"
        )
    headers = {"content-type": "multipart/form-data; boundary=XX"}
    answer = served.client.post(V1, content=b"".join(lines) + b"--XX--\r\n", headers=headers)
    assert answer.status_code == (400 if says else 200), answer.text
    assert says == "" or answer.json()["error"].startswith(says)


@pytest.mark.parametrize("name", ["image_url", "init_image", "input_image", "img"])
def test_another_name_of_the_picture_is_refused(name: str, served: Served) -> None:
    """The sentence has the name that is right."""
    fields = body()
    fields[name] = fields.pop("image")
    assert posted(served, fields) == (400, "image: is required")


@pytest.mark.parametrize("name", ["mask_image", "mask_url", "init_mask"])
def test_another_name_of_the_mask_is_refused(name: str, served: Served) -> None:
    """The sentence has the name that is right."""
    fields = body()
    fields[name] = fields.pop("mask")
    assert posted(served, fields) == (400, "mask: is required")


@pytest.mark.parametrize(
    "value", [[b64(PHOTO)], {"url": "http://x/"}, 5, True], ids=["list", "object", "number", "bool"]
)
def test_a_picture_of_another_kind_is_refused(value: object, served: Served) -> None:
    """A list and an object are other APIs' notations."""
    status, sentence = posted(served, body(image=value))
    assert (status, sentence.partition(":")[0]) == (400, "image")


URLS = {
    "http://127.0.0.1:8931/": 422,
    "http://localhost/a.png": 422,
    "http://example.invalid/a b.png": 422,
    "http://example.invalid/фото.png": 422,
    "https://user:pw@example.invalid/x.png": 422,
    "HTTP://EXAMPLE.invalid/x.png": 422,
    "//example.invalid/x.png": 400,
    "example.invalid/x.png": 400,
    "s3://bucket/x.png": 400,
    "blob:http://localhost:3000/1234": 400,
    "/home/me/x.png": 400,
    "file:///etc/passwd": 400,
}


@pytest.mark.parametrize("url", URLS)
def test_an_address_that_is_not_fetched_is_one_sentence(url: str, served: Served) -> None:
    """No address of this machine or of a disk is opened, and the answer does not say what is there."""
    status, sentence = posted(served, body(image=url))
    assert status == URLS[url]
    assert "URL" in sentence


METHODS = [
    ("GET", V1, 405),
    ("PUT", V1, 405),
    ("HEAD", V1, 405),
    ("OPTIONS", V1, 405),
    ("GET", "/favicon.ico", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), METHODS)
def test_another_method_is_named(method: str, path: str, status: int, served: Served) -> None:
    """The sentence is JSON, as all errors are."""
    answer = served.client.request(method, path)
    assert answer.status_code == status
    assert method == "HEAD" or list(answer.json()) == ["error"]
