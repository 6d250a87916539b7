"""Requests to the OpenAI dialect as its clients send them, and their answers."""

import base64
import json
from typing import Any

import httpx2
from PIL import Image

from tests.support.served import MASK, PHOTO, SIZE, FakeEngine, Served, opened

EDITS, GENERATIONS, MODELS = "/v1/images/edits", "/v1/images/generations", "/v1/models"
W, H = SIZE
IN, OUT = (W - 4, H // 2), (W // 2 - 4, H // 2)  # in the right half, which is repainted, and in the left


def hole(size: tuple[int, int] = SIZE, alpha: int = 0, colour: str = "white") -> Image.Image:
    """A mask as OpenAI's API has it: opaque, and transparent in the right half."""
    mask = Image.new("RGBA", size, colour)
    mask.paste((0, 0, 0, alpha), (size[0] // 2, 0, *size))
    return mask


def edit(client: httpx2.Client, **fields: object) -> httpx2.Response:
    """Send a form: bytes as files, all else as text; a field that is None is left out."""
    plain: dict[str, object] = {"image": PHOTO, "mask": MASK, "prompt": "a red circle", "seed": 7}
    form = {name: value for name, value in (plain | fields).items() if value is not None}
    parts = {
        name: (f"{name}.png", value) if isinstance(value, bytes) else (None, str(value))
        for name, value in form.items()
    }
    return client.post(EDITS, files=parts)


def generate(client: httpx2.Client, **fields: object) -> httpx2.Response:
    """Send a generation; a field that is None is left out."""
    body: dict[str, object] = {"prompt": "a red circle", "size": "64x48", "seed": 7} | fields
    return client.post(GENERATIONS, json={name: value for name, value in body.items() if value is not None})


def pictures(response: httpx2.Response) -> list[Image.Image]:
    """The pictures of an answer."""
    return [opened(data) for data in files(response)]


def files(response: httpx2.Response) -> list[bytes]:
    """The files of an answer."""
    assert response.status_code == 200, response.text
    return [base64.b64decode(item["b64_json"], validate=True) for item in response.json()["data"]]


def problem(response: httpx2.Response, status: int, param: str | None = None) -> str:
    """The message of an error of this status about this field; it has the four keys."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["param"] == param, error
    return str(error["message"])


def code(response: httpx2.Response) -> tuple[str, str]:
    """The type and the code of an error."""
    error = response.json()["error"]
    return error["type"], error["code"]


def events(text: str) -> list[tuple[str, Any]]:
    """The events of a stream: their names and data."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def engine_of(served: Served) -> FakeEngine:
    """The engine of a server."""
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def unlike(one: Image.Image, other: Image.Image) -> Image.Image:
    """A mask (``1``) of the pixels in which two pictures differ."""
    return Image.frombytes(
        "L",
        one.size,
        bytes(255 * (a != b) for a, b in zip(_pixels(one), _pixels(other), strict=True)),
    )


def _pixels(image: Image.Image) -> list[tuple[int, ...]]:
    data, count = image.tobytes(), len(image.getbands())
    return [tuple(data[i : i + count]) for i in range(0, len(data), count)]
