"""The requests of A1111's clients, and what comes back, for the tests of ``/sdapi/v1``."""

import base64
import json
from typing import Any

from PIL import Image

from tests.support.served import MASK, PHOTO, FakeEngine, Served, b64, opened

API = "/sdapi/v1"


def engine_of(served: Served) -> FakeEngine:
    """The server's engine."""
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def img2img(**fields: object) -> dict[str, object]:
    """A small request to paint inside a mask, without blur; a field that is None is left out."""
    plain: dict[str, object] = {
        "init_images": [b64(PHOTO)],
        "mask": b64(MASK),
        "prompt": "a red circle",
        "seed": 7,
        "steps": 4,
        "mask_blur": 0,
    }
    return {name: value for name, value in (plain | fields).items() if value is not None}


def post(served: Served, path: str = "img2img", **fields: object) -> Any:
    """The answer to a request that is painted."""
    answer = served.client.post(f"{API}/{path}", json=img2img(**fields) if path == "img2img" else fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def request_of(served: Served, **fields: object) -> Any:
    """What the engine is asked to paint for an img2img request."""
    post(served, **fields)
    return engine_of(served).requests[-1]


def files_of(answer: Any) -> list[bytes]:
    """The files in an answer."""
    return [base64.b64decode(image, validate=True) for image in answer["images"]]


def pictures_of(answer: Any) -> list[Image.Image]:
    """The pictures in an answer."""
    return [opened(file) for file in files_of(answer)]


def info_of(answer: Any) -> Any:
    """What an answer says about its pictures."""
    return json.loads(answer["info"])


def detail(answer: Any, status: int) -> str:
    """Check an error's shape, and return its sentence."""
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert list(found) == ["error", "detail", "body", "errors"]
    assert found["error"] == "HTTPException"
    text = found["detail"]
    assert isinstance(text, str)
    assert 0 < len(text) < 300
    return text
