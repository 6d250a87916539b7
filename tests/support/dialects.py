"""How every dialect is spoken to: where a picture goes in, how its error reads, and what it answers."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.support.served import b64, file_of, photo, white_box

SIZE = (96, 64)  # of the pictures; one dialect takes none below 64
PHOTO, MASK = file_of(photo(SIZE)), file_of(white_box(SIZE))
JSON = "application/json"
FORM = "multipart/form-data; boundary=b"

Words = Mapping[str, Any]  # image, mask: a file, or text, as a URL; prompt, seed
Body = tuple[str, bytes]  # content type and content


@dataclass(frozen=True, slots=True)
class Way:
    """One dialect's way in: its route to edit a picture under a mask."""

    name: str
    path: str
    body: Callable[[Words], Body]
    said: Callable[[Any], str]  # an error's JSON, whose shape it checks → the sentence
    painted: Callable[[httpx2.Response], bytes]  # a good answer → the file of its picture
    seed: Callable[[httpx2.Response], int]  # a good answer → the picture's seed
    fields: Mapping[str, str]  # what a sentence calls a picture

    def post(self, client: httpx2.Client, **words: object) -> httpx2.Response:
        """Send a small request; a word that is None is left out."""
        kind, data = self.content(**words)
        return client.post(self.path, content=data, headers={"content-type": kind, "accept": "*/*"})

    def content(self, **words: object) -> Body:
        """Return content type and content of a small request."""
        plain = {"image": PHOTO, "mask": MASK, "prompt": "a red circle", "seed": 7} | words
        return self.body({name: value for name, value in plain.items() if value is not None})

    def refusal(self, response: httpx2.Response, *statuses: int) -> str:
        """Check that a request was refused, in the dialect's shape and one line; return the sentence."""
        expected = statuses or range(400, 500)
        assert response.status_code in expected, (self.name, response.status_code, response.text[:300])
        sentence = self.said(response.json())
        assert sentence.strip(), response.text
        assert "\n" not in sentence
        assert len(sentence) < 500
        return sentence


def form(fields: Mapping[str, object]) -> bytes:
    """Return a multipart form with the boundary ``b``; bytes are files, and text may be any."""
    parts = []
    for name, value in fields.items():
        is_file = isinstance(value, bytes)
        file_name = '; filename="picture.png"\r\nContent-Type: application/octet-stream' if is_file else ""
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n\r\n'.encode()
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        parts.append(head + data + b"\r\n")
    return b"".join(parts) + b"--b--\r\n"


def _as_form(words: Words) -> Body:
    return FORM, form(words)


def _text_of(words: Words) -> dict[str, Any]:
    """Return words with their files in base64."""
    return {name: b64(value) if isinstance(value, bytes) else value for name, value in words.items()}


def _segmind_body(words: Words) -> Body:
    return JSON, json.dumps(_text_of(words) | {"output_format": "png"}).encode()


def _a1111_body(words: Words) -> Body:
    plain = {"steps": 20, "inpainting_fill": 1, "mask_blur": 0, "inpaint_full_res_padding": 32}
    fields = plain | _text_of(words)
    if "image" in fields:
        fields["init_images"] = [fields.pop("image")]
    return JSON, json.dumps(fields).encode()


def _segmind_said(error: Any) -> str:
    assert list(error) == ["error"]
    return str(error["error"])


def _openai_said(error: Any) -> str:
    assert list(error) == ["error"]
    facts = error["error"]
    assert sorted(facts) == ["code", "message", "param", "type"]
    assert facts["type"] in ("invalid_request_error", "rate_limit_error", "server_error")
    assert all(facts[name] is None or isinstance(facts[name], str) for name in ("code", "param"))
    assert isinstance(facts["message"], str)
    return str(facts["message"])


def _a1111_said(error: Any) -> str:
    assert sorted(error) == ["body", "detail", "error", "errors"]
    assert all(isinstance(value, str) for value in error.values())
    return str(error["detail"])


def _stability_said(error: Any) -> str:
    assert sorted(error) == ["errors", "id", "name"]
    assert isinstance(error["id"], str)
    assert isinstance(error["name"], str)
    (sentence,) = error["errors"]
    return str(sentence)


def _openai_painted(response: httpx2.Response) -> bytes:
    (picture,) = response.json()["data"]
    return base64.b64decode(picture["b64_json"], validate=True)


def _a1111_painted(response: httpx2.Response) -> bytes:
    (picture,) = response.json()["images"]
    return base64.b64decode(picture, validate=True)


_OWN_NAMES = {"image": "image", "mask": "mask"}
WAYS = (
    Way(
        "segmind",
        "/v1/sdxl-inpaint",
        _segmind_body,
        _segmind_said,
        lambda found: found.content,
        lambda found: int(found.headers["x-seed-value"]),
        _OWN_NAMES,
    ),
    Way(
        "openai",
        "/v1/images/edits",
        _as_form,
        _openai_said,
        _openai_painted,
        lambda found: int(found.json()["data"][0]["seed"]),
        _OWN_NAMES,
    ),
    Way(
        "a1111",
        "/sdapi/v1/img2img",
        _a1111_body,
        _a1111_said,
        _a1111_painted,
        lambda found: int(json.loads(found.json()["info"])["seed"]),
        {"image": "init_images", "mask": "mask"},
    ),
    Way(
        "stability",
        "/v2beta/stable-image/edit/inpaint",
        _as_form,
        _stability_said,
        lambda found: found.content,
        lambda found: int(found.headers["seed"]),
        _OWN_NAMES,
    ),
)
# How an error below a path reads; of all others as the first's.
PREFIXES = {"/v1/images": WAYS[1], "/v1/models": WAYS[1], "/sdapi": WAYS[2], "/v2beta": WAYS[3]}


def way_of(path: str) -> Way:
    """Return the dialect of a path."""
    found = (way for prefix, way in PREFIXES.items() if path == prefix or path.startswith(f"{prefix}/"))
    return next(found, WAYS[0])
