"""``POST /v2beta/stable-image/edit/…`` as programs written for Stability's API send and read it."""

import base64
from typing import Any

import pytest
from PIL import Image

from inpaint.errors import PaintError
from inpaint.request import DEFAULTS, InpaintRequest
from tests.support.served import FakeEngine, Serve, Served, b64, colour_of, file_of, opened, photo, white_box

pytest_plugins = ["tests.support.served_fixtures"]

EDIT = "/v2beta/stable-image/edit"
SIZE = (96, 64)
PHOTO, MASK = file_of(photo(SIZE)), file_of(white_box(SIZE))
FILES = {"image": ("photo.png", PHOTO, "image/png"), "mask": ("mask.png", MASK, "image/png")}


def sent(served: Served, route: str = "inpaint", *, accept: str = "image/*", **fields: Any) -> Any:
    """Send a form; fields that are bytes are files, and None leaves out one of the plain ones."""
    plain: dict[str, Any] = {"image": PHOTO, "prompt": "a red circle"}
    plain |= {} if route == "outpaint" else {"mask": MASK}
    given = {name: value for name, value in (plain | fields).items() if value is not None}
    files = {n: (f"{n}.png", v, "image/png") for n, v in given.items() if isinstance(v, bytes)}
    words = {name: value for name, value in given.items() if name not in files}
    return served.client.post(
        f"{EDIT}/{route}", data=words, files=files or {"none": b""}, headers={"accept": accept}
    )


def painted_with(served: Served, route: str = "inpaint", **fields: Any) -> InpaintRequest:
    """Paint with these fields, and return the request that the engine got."""
    response = sent(served, route, **fields)
    assert response.status_code == 200, response.text
    assert isinstance(served.engine, FakeEngine)
    return served.engine.requests[-1]


def problem(response: Any, status: int, name: str) -> str:
    """Check an error's shape, and return its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert list(found) == ["id", "name", "errors"]
    assert found["id"] == response.headers["x-request-id"]
    assert found["name"] == name
    (sentence,) = found["errors"]
    assert 0 < len(sentence) < 400
    assert "\n" not in sentence
    return str(sentence)


# Answers.


def test_a_picture_is_answered_with_its_seed(served: Served) -> None:
    """A script writes the body to a file, and prints the headers."""
    response = sent(served, seed="7")
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.headers["finish-reason"] == "SUCCESS"
    assert response.headers["seed"] == "7"
    assert response.headers["x-request-id"]
    image = opened(response.content)
    assert (image.format, image.size) == ("PNG", SIZE)
    assert image.getpixel((SIZE[0] - 1, 0)) == colour_of(7)
    left = (0, 0, SIZE[0] // 2, SIZE[1])
    assert image.crop(left).tobytes() == photo(SIZE).crop(left).tobytes()


def test_json_holds_the_same_picture(served: Served) -> None:
    """``litellm`` asks for JSON."""
    response = sent(served, accept="application/json", seed="7")
    assert response.status_code == 200
    found = response.json()
    assert list(found) == ["image", "finish_reason", "seed"]
    assert (found["finish_reason"], found["seed"]) == ("SUCCESS", 7)
    assert base64.b64decode(found["image"]) == sent(served, seed="7").content


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("image/png", "image/png"),
        ("text/html", "image/png"),
        ("application/json, text/plain, */*", "application/json"),
        ("image/*;q=0.5, application/json", "application/json"),
        ("application/json;q=0.5, image/*", "image/png"),
        ("application/json;q=0, */*", "image/png"),
        ("application/json;q=much", "image/png"),
    ],
)
def test_accept_chooses(served: Served, accept: str, kind: str) -> None:
    """HTTP libraries add headers of their own."""
    assert sent(served, accept=accept).headers["content-type"] == kind


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_every_format_is_what_it_says(served: Served, output_format: str) -> None:
    """The content type and the file agree."""
    response = sent(served, output_format=output_format)
    assert response.headers["content-type"] == f"image/{output_format}"
    assert opened(response.content).format == output_format.upper()


@pytest.mark.parametrize("seed", [None, "0", "-1", ""])
def test_seed_0_draws_one(served: Served, seed: str | None) -> None:
    """Without a seed each picture is another."""
    seeds = {sent(served, seed=seed).headers["seed"] for _ in range(2)}
    assert len(seeds) == 2


# What is painted.


def test_the_fields_reach_the_engine(served: Served) -> None:
    """Lengths are the picture's pixels, as everywhere in this API."""
    request = painted_with(served, negative_prompt="blue", seed="9", grow_mask="12", style_preset="anime")
    assert (request.prompt, request.negative_prompt, request.seed) == ("a red circle", "blue", 9)
    assert (request.grow, request.feather, request.lengths) == (12, 12, "picture")
    assert (request.strength, request.fill, request.soft) == (
        DEFAULTS["strength"], DEFAULTS["fill"], False,
    )  # fmt: skip
    assert painted_with(served).grow == 5


def test_a_grey_mask_is_soft(served: Served) -> None:
    """Grey is strength in this API; what JPEG does to black and white is not grey."""
    mask = white_box(SIZE)
    mask.paste(100, (0, 0, 20, 20))
    request = painted_with(served, mask=file_of(mask))
    assert request.soft
    assert request.mask.tobytes() == mask.tobytes()
    assert not painted_with(served, mask=file_of(mask.point(lambda v: 250 if v == 255 else 3))).soft


def test_without_a_mask_transparency_is_painted(served: Served) -> None:
    """The hosted API reads the picture's alpha."""
    image = photo(SIZE).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 30, 64))
    request = painted_with(served, image=file_of(image), mask=None)
    assert request.mask.getbbox() == (0, 0, 30, 64)
    assert (request.soft, request.strength) == (False, DEFAULTS["strength"])
    image.paste((0, 0, 0, 128), (30, 0, 40, 64))
    request = painted_with(served, image=file_of(image), mask=None)
    assert request.soft
    assert request.mask.getpixel((35, 5)) == 127


def test_an_opaque_picture_without_a_mask_is_painted_as_a_whole(served: Served) -> None:
    """At a strength at which it can be recognised."""
    request = painted_with(served, mask=None)
    assert request.mask.getextrema() == (255, 255)
    assert (request.area, request.strength) == ("whole", 0.75)


def test_a_mask_of_another_size_is_resized(served: Served) -> None:
    """The hosted API does so; one of another shape must be a mistake."""
    request = painted_with(served, mask=file_of(white_box((192, 128))))
    assert request.mask.tobytes() == white_box(SIZE).tobytes()
    text = problem(sent(served, mask=file_of(white_box((64, 96)))), 400, "bad_request")
    assert text == "mask: must have the shape of the picture, which is 96×64, to be resized, but is 64×96"


@pytest.mark.parametrize("prompt", [None, "", "a cat"])
def test_erase_continues_the_surroundings(served: Served, prompt: str | None) -> None:
    """``litellm`` always sends a prompt, which would paint something there again."""
    request = painted_with(served, "erase", prompt=prompt)
    assert (request.prompt, request.fill, request.strength) == ("", "telea", 0.99)
    assert (request.grow, request.feather, request.lengths) == (5, 5, "picture")
    assert request.mask.tobytes() == white_box(SIZE).tobytes()


def test_erase_needs_to_know_what(served: Served) -> None:
    """To erase a whole picture leaves nothing."""
    text = problem(sent(served, "erase", mask=None), 400, "bad_request")
    assert text == "mask: is required, since nothing in the picture is transparent"
    image = photo(SIZE).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 30, 64))
    request = painted_with(served, "erase", image=file_of(image), mask=None)
    assert request.mask.getbbox() == (0, 0, 30, 64)


def test_outpaint_adds_on_the_named_sides(served: Served) -> None:
    """The picture is where it belongs in the larger one, and not a bit of it has changed."""
    added = {"left": "8", "right": "16", "up": "24", "down": "0", "creativity": "0.5"}
    response = sent(served, "outpaint", prompt=None, seed="7", **added)
    assert response.status_code == 200, response.text
    image = opened(response.content)
    assert image.size == (SIZE[0] + 24, SIZE[1] + 24)
    assert image.crop((8, 24, 8 + SIZE[0], 24 + SIZE[1])).tobytes() == photo(SIZE).tobytes()
    for outside in ((0, 30), (SIZE[0] + 23, 30), (20, 0)):
        assert image.getpixel(outside) == colour_of(7)
    assert isinstance(served.engine, FakeEngine)
    assert served.engine.requests[-1].prompt == ""


# Errors.


@pytest.mark.parametrize(
    ("route", "fields", "sentence"),
    [
        ("inpaint", {"image": None}, "image: is required"),
        ("inpaint", {"image": ""}, "image: is required"),
        ("inpaint", {"prompt": None}, "prompt: is required"),
        ("inpaint", {"prompt": "x" * 10_001}, "prompt: must have at most 10000 characters, not 10001"),
        ("inpaint", {"seed": "x"}, "seed: must be a whole number from -1 to 999999999999999, not 'x'"),
        ("inpaint", {"grow_mask": "257"}, "grow_mask: must be a whole number from 0 to 256, not '257'"),
        ("inpaint", {"output_format": "gif"}, "output_format: must be one of jpeg, png, webp, not 'gif'"),
        (
            "inpaint",
            {"image": file_of(photo((63, 96))), "mask": None},
            "image: sides must be at least 64 pixels, but it is 63×96",
        ),
        (
            "erase",
            {"mask": file_of(Image.new("L", SIZE))},
            "mask: nothing to repaint: paint the parts to change white (128 or brighter)",
        ),
        (
            "outpaint",
            {"image": file_of(photo((96, 63))), "left": "8"},
            "image: sides must be at least 64 pixels, but it is 96×63",
        ),
        ("outpaint", {}, "left: left, right, up and down are all 0; set one to the pixels to add"),
        ("outpaint", {"up": "-1"}, "up: must be a whole number from 0 to 8192, not '-1'"),
        (
            "outpaint",
            {"left": "8192"},
            "left: with left, right, up and down added the picture has 8288×64 pixels; at most 8192 a side "
            "and 25 million in all are painted",
        ),
    ],
)
def test_a_wrong_field_is_named(served: Served, route: str, fields: dict[str, Any], sentence: str) -> None:
    """A caller who made a mistake must not search for it."""
    assert problem(sent(served, route, **fields), 400, "bad_request") == sentence
    assert isinstance(served.engine, FakeEngine)
    assert not served.engine.requests


def test_pictures_of_another_kind_are_named(served: Served) -> None:
    """JSON, which the hosted API does not read, may hold anything."""
    url = f"{EDIT}/inpaint"
    body: dict[str, Any] = {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "a red circle"}
    assert served.client.post(url, json=body).status_code == 200
    text = problem(served.client.post(url, json=body | {"mask": [1]}), 400, "bad_request")
    assert text == "mask: must be a picture's file, not a list"
    text = problem(served.client.post(url, json=body | {"prompt": {}}), 400, "bad_request")
    assert text == "prompt: must be text of at most 10000 characters, not an object"


def test_other_bodies_are_refused(served: Served) -> None:
    """The sentence says what would be right, under the hosted API's status."""
    response = served.client.post(f"{EDIT}/erase", content=b"x", headers={"content-type": "text/plain"})
    assert problem(response, 400, "bad_request") == "content-type: must be multipart/form-data"
    response = served.client.post(f"{EDIT}/erase", files=FILES, headers={"content-encoding": "gzip"})
    problem(response, 415, "unsupported_media_type")


def test_errors_without_a_route_have_the_shape(served: Served) -> None:
    """Below ``/v2beta`` a program reads ``errors``, whatever is wrong; elsewhere it does not."""
    problem(served.client.post("/v2beta/stable-image/generate/core"), 404, "not_found")
    problem(served.client.get("/v2beta"), 404, "not_found")
    response = served.client.get(f"{EDIT}/inpaint")
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert list(served.client.get("/v2betas").json()) == ["error"]


def test_a_failure_of_the_engine_has_the_shape(served: Served) -> None:
    """And carries the id by which its operator finds it."""
    assert isinstance(served.engine, FakeEngine)
    served.engine.failures.append(PaintError("the model painted no picture"))
    text = problem(response := sent(served), 500, "internal_error")
    assert text == f"the model painted no picture (request {response.headers['x-request-id']})"
    served.engine.failures.append(ZeroDivisionError())
    problem(sent(served), 500, "internal_error")


def test_keys_credits_and_rates_are_checked(serve: Serve) -> None:
    """401, 402 and 429, and a body that is too large, before anything is painted."""
    served = serve(
        metering=True, price=0.01, rate="2/hour", cors_origins=("https://app.example",), max_body_bytes=10_000
    )
    key = served.key(balance=1)
    poor = served.key()
    url = f"{EDIT}/inpaint"
    problem(served.client.post(url, files=FILES), 401, "unauthorized")
    with served.calling(authorization=f"Bearer {poor}") as client:
        words = {"prompt": "a red circle"}
        response = client.post(url, data=words, files=FILES)
        assert "credits" in problem(response, 402, "payment_required")
        assert response.headers["x-should-retry"] == "false"
    with served.calling(authorization=f"Bearer {key}") as client:
        problem(client.post(url, files={"image": b"x" * 20_000}), 413, "payload_too_large")
        response = client.post(url, data=words, files=FILES, headers={"origin": "https://app.example"})
        assert response.status_code == 200
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"seed", "finish-reason"} <= set(exposed)  # a page could not read them otherwise
        response = client.post(url, data=words, files=FILES)
        problem(response, 429, "rate_limit_exceeded")
        assert int(response.headers["retry-after"]) > 0


def test_a_picture_that_cannot_be_fetched_is_422(served: Served) -> None:
    """A URL works as a picture, as in the server's own API, and within its guard."""
    response = sent(served, image="http://10.0.0.1/x.png")
    problem(response, 422, "unprocessable_entity")
