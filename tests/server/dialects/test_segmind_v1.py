"""``POST /v1/sdxl-inpaint`` as clients of the hosted API know it: requests, answers and errors."""

import io
import json
from typing import Any

import pytest
from PIL import Image

from inpaint.errors import DeviceError, OutOfMemoryError, PaintError
from inpaint.schedulers import SCHEDULERS
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    answer,
    b64,
    body,
    colour_of,
    eventually,
    file_of,
    opened,
    photo,
    white_box,
)

pytest_plugins = ["tests.support.served_fixtures"]

V1 = "/v1/sdxl-inpaint"


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def painted_with(served: Served, **fields: object) -> Any:
    """Paint with these fields, and return the request that the engine got."""
    response = served.client.post(V1, json=body(**fields))
    assert response.status_code == 200, response.text
    return engine_of(served).requests[-1]


def problem(response: Any, status: int) -> str:
    """Check an error's shape, and return its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert list(found) == ["error"]
    text = found["error"]
    assert isinstance(text, str)
    assert 0 < len(text) < 400
    assert "\n" not in text
    return text


def refused(served: Served, status: int = 400, **fields: object) -> str:
    """Send a body that must not reach the engine, and return the error's sentence."""
    before = len(engine_of(served).requests)
    text = problem(served.client.post(V1, json=body(**fields)), status)
    assert len(engine_of(served).requests) == before
    return text


# Requests.


def test_the_documented_example_works_unchanged(served: Served, picture_host: PictureHost) -> None:
    """A user of the hosted API's documentation changes only the host name and the key."""
    example = {
        "image": picture_host.put("/sdxl_inpaint.jpeg", file_of(photo(), "JPEG"), "image/jpeg"),
        "mask": picture_host.put("/sdxl_inpaint_mask.png", MASK),
        "prompt": "A man with black sun glasses",
        "negative_prompt": "bad quality, painting, blur",
        "samples": 1,
        "scheduler": "DDIM",
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "seed": 12467,
        "strength": 0.9,
        "base64": False,
    }
    response = served.client.post(V1, json=example)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/jpeg"
    assert opened(response.content).size == SIZE
    request = engine_of(served).requests[-1]
    settings = {name: example[name] for name in example.keys() - {"image", "mask", "base64"}}
    assert {name: getattr(request, name) for name in settings} == settings


def test_every_form_of_a_picture_gives_the_same_bytes(served: Served, picture_host: PictureHost) -> None:
    """Clients send JSON or forms, URLs, data: URIs, base64 or files; the result must be the same."""
    urls = {
        "image": picture_host.put("/same.png", PHOTO),
        "mask": picture_host.put("/same-mask.png", MASK),
    }
    uris = {name: f"data:image/png;base64,{b64(data)}" for name, data in (("image", PHOTO), ("mask", MASK))}
    plain = {"image": b64(PHOTO), "mask": b64(MASK)}
    loose = {
        "image": b64(PHOTO).rstrip("="),
        "mask": "\r\n".join(b64(MASK)[i : i + 60] for i in range(0, 999, 60)),
    }
    files = {"image": ("photo.png", PHOTO, "image/png"), "mask": ("mask.png", MASK, "image/png")}
    words = {"prompt": "a red circle", "seed": "7", "output_format": "png"}
    answers = [served.client.post(V1, json=words | form) for form in (urls, uris, plain, loose)]
    answers += [
        served.client.post(V1, data=words | form, files={"_": b""}) for form in (urls, uris, plain, loose)
    ]
    answers.append(served.client.post(V1, data=words, files=files))
    answers.append(
        served.client.post(V1, data=words | {"mask": plain["mask"]}, files={"image": files["image"]})
    )
    assert [response.status_code for response in answers] == [200] * 10
    assert len({response.content for response in answers}) == 1


def test_defaults_are_the_documented_ones(served: Served) -> None:
    """Three fields are required; the others have the hosted API's defaults, with strength 0.9 and not 7.5."""
    assert served.client.post(V1, json=body(seed=None)).headers["content-type"] == "image/jpeg"
    request = engine_of(served).requests[-1]
    assert (request.samples, request.scheduler, request.num_inference_steps) == (1, "DPM2 Karras", 25)
    assert (request.guidance_scale, request.strength, request.negative_prompt) == (7.5, 0.9, None)


def test_numbers_and_booleans_may_be_text(served: Served) -> None:
    """Clients that use forms send everything as text."""
    text = {"samples": "2", "num_inference_steps": "30", "guidance_scale": "5.5", "seed": "9"}
    text |= {"strength": "0.5", "base64": "False", "soft": "true", "padding": "64"}
    request = painted_with(served, **text)
    assert (request.samples, request.num_inference_steps, request.guidance_scale) == (2, 30, 5.5)
    assert (request.seed, request.strength, request.soft, request.padding) == (9, 0.5, True, 64)


@pytest.mark.parametrize("value", [[0.25, 0.5], "0.25,0.5", "[0.25, 0.5]", ["0.25", "0.5"]])
def test_a_guidance_interval_comes_as_a_list_or_as_a_forms_text(served: Served, value: object) -> None:
    """A form has no lists."""
    assert painted_with(served, guidance_interval=value).guidance_interval == (0.25, 0.5)


@pytest.mark.parametrize("value", ["False", "false", "0", 0, False, "no", None, ""])
def test_base64_false_in_any_spelling_sends_bytes(served: Served, value: object) -> None:
    """Python clients send ``str(False)``."""
    fields = body() | {"base64": value}
    assert served.client.post(V1, json=fields).headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("value", ["True", "true", "1", 1, True])
def test_base64_true_in_any_spelling_sends_json(served: Served, value: object) -> None:
    """Python clients send ``str(True)``."""
    response = served.client.post(V1, json=body(base64=value))
    assert response.headers["content-type"] == "application/json"


def test_unknown_fields_are_ignored(served: Served) -> None:
    """Clients of other models send those models' fields."""
    more = {
        "negativePrompt": "x",
        "style": 5,
        "width": [1024],
        "imageUrl": "http://nowhere",
        "lora": {"a": 1},
    }
    assert painted_with(served, **more).prompt == "a red circle"


def test_the_older_names_of_both_pictures_work(served: Served) -> None:
    """``imageUrl`` and ``maskUrl`` count where image and mask are absent."""
    old = body(imageUrl=b64(PHOTO), maskUrl=b64(MASK), image=None, mask=None)
    assert served.client.post(V1, json=old).status_code == 200
    assert served.client.post(V1, json=old | {"image": None}).status_code == 200


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_documented_scheduler_works_in_any_letter_case(served: Served, name: str) -> None:
    """Every name works in upper and lower case."""
    for spelling in (name, name.upper(), name.lower()):
        assert painted_with(served, scheduler=spelling).scheduler == name


EDGES = {
    "samples": (1, 4, 0, 5),
    "num_inference_steps": (20, 100, 19, 101),
    "guidance_scale": (1, 25, 0.99, 25.01),
    "guidance_rescale": (0, 1, -0.01, 1.01),
    "strength": (0.05, 0.99, -0.01, 0.991),
    "seed": (-1, 999_999_999_999_999, -2, 1_000_000_000_000_001),
    "padding": (0, 1024, -1, 1025),
    "grow": (0, 256, -1, 257),
    "feather": (0, 256, -1, 257),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_number_out_of_its_range_is_an_error_and_never_clamped(served: Served, name: str) -> None:
    """A picture made with other settings than the requested ones is worse than none."""
    least, most, below, above = EDGES[name]
    for value in (below, above, str(above)):
        text = refused(served, **{name: value})
        assert text.startswith(f"{name}: must be a")
        assert f"not {value!r}" in text
    for value in (least, most):
        assert served.client.post(V1, json=body(**{name: value})).status_code == 200


WRONG = [
    ("samples", "two"),
    ("samples", 1.5),
    ("samples", [1]),
    ("num_inference_steps", {"a": 1}),
    ("guidance_scale", "nan"),
    ("guidance_scale", "inf"),
    ("guidance_scale", 1e400),
    ("strength", "NaN"),
    ("base64", "maybe"),
    ("base64", 2),
    ("scheduler", "Karras"),
    ("scheduler", 5),
    ("prompt", 5),
    ("prompt", ["a"]),
    ("prompt", "x" * 10_001),
    ("prompt", "a\0b"),
    ("negative_prompt", "\0"),
    ("output_format", "gif"),
    ("quality", 0),
    ("quality", 101),
    ("area", "half"),
    ("fill", "magic"),
    ("soft", "perhaps"),
    ("guidance_interval", "half"),
    ("guidance_interval", 0.5),
    ("guidance_interval", [0.5]),
    ("guidance_interval", [0.8, 0.2]),
    ("guidance_interval", "0.2,nan"),
    ("guidance_interval", {"a": 1}),
    ("image", ""),
    ("image", 5),
    ("image", ["a"]),
    ("image", "file:///etc/passwd"),
    ("image", "/etc/passwd"),
    ("image", "gopher://x/"),
    ("image", "no base64!"),
    ("image", "YWJj"),
    ("image", "data:text/html;base64,YWJj"),
    ("image", "data:image/png,raw"),
    ("image", "http://h/" + "x" * 100_000),
    ("mask", "data:image/png;base64,%%%"),
    ("mask", b64(file_of(photo(), "GIF"))),
    ("mask", b64(PHOTO[:60])),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_answered_with_its_name(served: Served, name: str, value: object) -> None:
    """A client developer sees which field to correct."""
    fields = json.dumps(body() | {name: value}).replace("Infinity", "1e400")
    response = served.client.post(V1, content=fields, headers={"content-type": "application/json"})
    assert problem(response, 400).startswith(f"{name}:")


@pytest.mark.parametrize("name", ["image", "mask", "prompt"])
def test_a_missing_field_is_named(served: Served, name: str) -> None:
    """A field that is absent or null is missing."""
    assert refused(served, **{name: None}) == f"{name}: is required"
    assert problem(served.client.post(V1, json=body() | {name: None}), 400) == f"{name}: is required"


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("bad", ["\\ud800", "a \\udcf6", "\\u0000"])
def test_what_is_no_text_is_refused(served: Served, field: str, bad: str) -> None:
    """JSON can contain it, but neither a tokenizer nor a database can store it."""
    fields = json.dumps(body(**{field: "HERE"})).replace("HERE", bad)
    response = served.client.post(V1, content=fields, headers={"content-type": "application/json"})
    assert problem(response, 400).startswith(f"{field}: contains characters that are not text")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    "prompt",
    [
        "(" * 4990 + "red" + ")" * 4990,
        "([" * 2490 + "red" + "])" * 2490,
        "(a red circle:" + "9" * 60 + ")",
        "(a red circle:-" + "9" * 400 + ")",
        "((a red circle:90):90)",
    ],
)
def test_an_absurd_prompt_is_refused_before_it_reaches_an_engine(
    served: Served, field: str, prompt: str
) -> None:
    """Such a prompt once stopped the engine for everybody, or was answered as a fault of the server."""
    assert refused(served, **{field: prompt}).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "body_text", ["", "{", "[]", "null", '"x"', "5", '{"seed": NaN}', "{'a': 1}", "\xff"]
)
def test_a_body_that_is_no_json_object_is_named(served: Served, body_text: str) -> None:
    """NaN is not JSON, although Python's own parser accepts it."""
    headers = {"content-type": "application/json"}
    response = served.client.post(V1, content=body_text.encode("latin-1"), headers=headers)
    assert problem(response, 400).startswith("body:")


def test_a_seed_one_above_the_bound_is_tolerated(served: Served) -> None:
    """The hosted API's own page draws this seed."""
    assert painted_with(served, seed=1_000_000_000_000_000).seed == 999_999_999_999_999
    assert painted_with(served, seed="1000000000000000").seed == 999_999_999_999_999


@pytest.mark.parametrize("seed", [-1, None, "-1"])
def test_a_random_seed_is_reported(served: Served, seed: object) -> None:
    """A user can paint a good picture again."""
    first, second = (served.client.post(V1, json=body(seed=seed)) for _ in range(2))
    seeds = [int(response.headers["x-seed-value"]) for response in (first, second)]
    assert seeds == [request.seed for request in engine_of(served).requests[-2:]]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0


def test_too_few_steps_for_the_strength_is_an_error_that_names_both(served: Served) -> None:
    """20 steps × 0.04 leave nothing to paint."""
    text = refused(served, num_inference_steps=20, strength=0.04)
    assert "20 steps" in text
    assert "0.04" in text
    refused(served, strength=0)


def test_pictures_of_different_size_are_refused_with_both_sizes(served: Served) -> None:
    """A mask's pixels mean nothing on a picture of another size."""
    text = refused(served, mask=b64(file_of(white_box((64, 64)))))
    assert "48×32" in text
    assert "64×64" in text


@pytest.mark.parametrize("grey", [0, 127])
def test_a_mask_without_white_is_refused(served: Served, grey: int) -> None:
    """A caller does not pay for an unchanged picture."""
    text = refused(served, mask=b64(file_of(Image.new("L", SIZE, grey))))
    assert text.startswith("mask: nothing to repaint")


def test_the_faintest_grey_that_counts_in_a_soft_mask_is_painted(served: Served) -> None:
    """Grey 8 is a little strength; test_attacks shows that 7 is refused."""
    faint = b64(file_of(Image.new("L", SIZE, 8)))
    assert painted_with(served, mask=faint, soft=True).soft


def test_the_lenient_server_clamps_instead(serve: Serve) -> None:
    """Two public clients exceed the documented ranges; an operator may allow it."""
    served = serve(segmind_lenient=True)
    wild = {"samples": 9, "num_inference_steps": "500", "guidance_scale": 0, "strength": 1}
    request = painted_with(served, **wild, seed=10**20, scheduler="K_EULER")
    assert (request.samples, request.num_inference_steps, request.guidance_scale) == (4, 100, 1)
    assert (request.strength, request.seed) == (0.99, 999_999_999_999_999)
    assert request.scheduler == "DPM2 Karras"
    for value in ("nan", "many", [5]):
        assert refused(served, guidance_scale=value).startswith("guidance_scale:")


# Answers.


def test_the_content_type_is_exactly_that_of_the_format(served: Served) -> None:
    """One public client compares the header with ``image/jpeg`` exactly."""
    for output_format, kind in ((None, "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
        response = served.client.post(V1, json=body(output_format=output_format))
        assert response.headers["content-type"] == f"image/{kind.lower()}"
        image = Image.open(io.BytesIO(response.content))
        assert image.format == kind


def test_quality_is_that_of_the_file(served: Served) -> None:
    """The quality is 95 by default."""
    noisy = Image.effect_noise((256, 256), 80).convert("RGB")
    fields = {"image": b64(file_of(noisy)), "mask": b64(file_of(white_box((256, 256))))}
    sizes = [
        len(served.client.post(V1, json=body(quality=quality, **fields)).content)
        for quality in (10, 95, None, 100)
    ]
    assert sizes[0] < sizes[1] == sizes[2] < sizes[3]


def test_the_headers_hold_what_the_bytes_cannot(served: Served) -> None:
    """The vendor's older client raises KeyError without the header for credits."""
    headers = served.client.post(V1, json=body(samples=2), headers={"x-request-id": "mine-1"}).headers
    assert float(headers["x-remaining-credits"]) > 1000
    assert float(headers["x-generation-time"]) >= 0
    facts = {"height": 32, "width": 48, "samples": 2, "seeds": [7, 8]}
    assert json.loads(headers["x-output-metadata"]) == facts
    assert headers["x-request-id"] == "mine-1"
    assert headers["x-seed-value"] == "7"
    assert float(headers["x-cost"]) == 0
    assert int(headers["x-rate-limit-remaining"]) > 0
    assert "T" in headers["x-rate-limit-reset-at-utc"]


def test_warnings_are_in_a_header_that_proxies_take(served: Served) -> None:
    """A proxy with room for 4 kB of headers answers 502 where there are more."""
    said = served.client.post(V1, json=body(prompt="(red:9) AND blue")).headers["x-output-metadata"]
    assert [text.partition(";")[0] for text in json.loads(said)["warnings"]] == [
        "prompt: the weight of 'red' is 9",
        "prompt: 'AND' is read as a word",
    ]
    face = chr(0x1F600) * 40  # twelve characters of JSON each
    worst = f"({face}:9) AND {{{face}|}} __a__ embedding:b <c:{face}> [a|b] [a:1] （{face}:1） ( <lora:{face}"
    said = served.client.post(V1, json=body(prompt=worst)).headers["x-output-metadata"]
    assert 2 <= len(json.loads(said)["warnings"]) < 10
    assert len(said) < 2_500


def test_a_near_picture_says_so_and_costs_less(serve: Serve) -> None:
    """A caller pays for the UNet calls that are made, and can tell a draft from the exact picture."""
    served = serve(metering=True, price=1.0)
    with served.calling(key=served.key(balance=1)) as client:
        near, exact = (client.post(V1, json=body(pace=pace)).headers for pace in ("near", "exact"))
    facts = json.loads(near["x-output-metadata"])
    assert (facts["pace"], facts["unet_calls"]) == ("near", [23, 43])
    assert float(near["x-cost"]) == pytest.approx(float(exact["x-cost"]) * 23 / 43, rel=1e-3)


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>", "é"])
def test_a_harmful_request_id_is_replaced(served: Served, given: str) -> None:
    """The id is written to logs."""
    found = served.client.post(V1, json={}, headers={"x-request-id": given.encode("latin-1")})
    assert found.headers["x-request-id"] not in ("", given)


def test_base64_answers_have_the_hosted_keys(served: Served) -> None:
    """``image`` has no data: prefix, ``status`` is Success, and ``images`` holds all samples."""
    response = served.client.post(V1, json=body(base64=True, samples=3, output_format="png"))
    assert response.headers["content-type"] == "application/json"
    assert float(response.headers["x-remaining-credits"]) > 0
    found = response.json()
    assert found.keys() == {"status", "image", "images", "infer_time", "outputs", "image_format"}
    assert (found["status"], found["outputs"], found["image_format"]) == ("Success", 3, "png")
    assert found["image"] == found["images"][0]
    colours = [opened(io.BytesIO(_unpacked(text)).read()).getpixel((40, 16)) for text in found["images"]]
    assert colours == [colour_of(7), colour_of(8), colour_of(9)]
    assert found["infer_time"] >= 0


def _unpacked(text: str) -> bytes:
    import base64

    return base64.b64decode(text, validate=True)


def test_of_several_samples_the_bytes_are_the_first(served: Served) -> None:
    """There is one body; a header says how many pictures there were."""
    one = served.client.post(V1, json=body(output_format="png"))
    four = served.client.post(V1, json=body(output_format="png", samples=4))
    assert one.content == four.content
    assert json.loads(four.headers["x-output-metadata"])["samples"] == 4


@pytest.mark.parametrize("size", [(17, 33), (100, 20), (64, 64)])
def test_the_output_has_the_inputs_size(served: Served, size: tuple[int, int]) -> None:
    """The size in which the model works does not matter."""
    fields = {"image": b64(file_of(photo(size))), "mask": b64(file_of(white_box(size)))}
    assert opened(served.client.post(V1, json=body(**fields)).content).size == size


def test_what_the_mask_keeps_is_the_callers_own(served: Served) -> None:
    """White is repainted, black is kept."""
    response = served.client.post(V1, json=body(output_format="png"))
    painted = opened(response.content)
    left = (0, 0, 24, 32)
    assert painted.crop(left).tobytes() == photo().crop(left).tobytes()
    assert painted.getpixel((40, 16)) == colour_of(7)


def test_a_phone_picture_comes_back_upright(served: Served) -> None:
    """EXIF gives the orientation; the mask was drawn on the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90°
    exif[0x010F] = "a camera's maker"
    lying = photo().transpose(Image.Transpose.ROTATE_90)
    response = served.client.post(V1, json=body(image=b64(file_of(lying, "JPEG", quality=95, exif=exif))))
    painted = opened(response.content)
    assert painted.size == SIZE
    red, green, _ = painted.convert("RGB").getpixel((2, 2))  # type: ignore[misc]
    assert (red > 200, green > 180) == (True, True)  # the corner is still where it was
    assert len(painted.getexif()) == 0  # the EXIF data, such as place and camera, is gone


def test_a_prompt_in_any_script_is_painted(served: Served) -> None:
    """Headers are ASCII, although a prompt may be in any script."""
    assert painted_with(served, prompt="Überraschung 🎈 日本").prompt == "Überraschung 🎈 日本"


# Errors.


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/png", ""])
def test_another_content_type_is_refused_with_the_hosted_words(served: Served, kind: str) -> None:
    """The hosted API answers 406 as well."""
    response = served.client.post(V1, content=b"prompt=x", headers={"content-type": kind})
    assert problem(response, 406) == "Invalid content type"


def test_an_unknown_model_or_route_is_404_in_the_same_shape(served: Served) -> None:
    """Clients look for ``error``, and never for ``detail``."""
    for path in ("/v1/sd1.5-inpaint", "/v1", "/docs", "/v1/sdxl-inpaint/x", "/v2/requests/"):
        problem(served.client.post(path, json=body()), 404)


def test_nothing_redirects(served: Served) -> None:
    """The vendor's SDK takes 3xx for success and does not follow it."""
    for path in ("/v1/sdxl-inpaint/", "//v1/sdxl-inpaint", "/V1/sdxl-inpaint", "/livez/"):
        assert served.client.post(path, json=body()).status_code == 404
        assert served.client.get(path).status_code == 404


def test_a_wrong_verb_is_405_and_says_which_is_right(served: Served) -> None:
    """The same holds for HEAD and OPTIONS, which a proxy may send."""
    for verb in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        response = served.client.request(verb, V1)
        problem(response, 405)
        assert response.headers["allow"] == "POST"
    assert served.client.head(V1).status_code == 405
    problem(served.client.post("/livez"), 405)


def test_a_url_that_may_not_be_fetched_is_422(served: Served) -> None:
    """A URL that leads nowhere gets the same error."""
    blocked = refused(served, 422, image="http://10.0.0.1/x.png")
    nowhere = refused(served, 422, image="http://does-not-exist.invalid/x.png")
    assert blocked == nowhere
    assert "10.0.0.1" not in blocked


def test_a_picture_host_that_answers_wrongly_is_502(served: Served, picture_host: PictureHost) -> None:
    """It is neither the caller's fault nor ours."""
    refused(served, 502, image=f"{picture_host.url}/nothing-there.png")
    html = picture_host.put("/page.png", b"<html>", "text/html")
    refused(served, 502, mask=html)
    junk = picture_host.put("/junk.png", b"junk" * 99, "image/png")
    assert refused(served, 400, image=junk).startswith("image:")


def test_two_urls_share_one_cap(serve: Serve, picture_host: PictureHost) -> None:
    """The cap limits what one request makes the server fetch."""
    served = serve(fetch_max_bytes=2 * len(PHOTO) - 1)
    same = picture_host.put("/cap.png", PHOTO)
    white = picture_host.put("/cap-mask.png", file_of(Image.new("L", SIZE, 255)))
    refused(served, 413, image=same, mask=same)
    assert served.client.post(V1, json=body(image=same, mask=white)).status_code == 200


def test_a_picture_too_large_to_decode_is_413(served: Served) -> None:
    """The limit of 20 MB holds for every way to send a picture."""
    padded = PHOTO + bytes(20_000_001 - len(PHOTO))
    files = {"image": ("photo.png", padded), "mask": ("mask.png", MASK)}
    text = problem(served.client.post(V1, data={"prompt": "x"}, files=files), 413)
    assert "20 MB" in text


def test_a_file_in_another_format_is_named(served: Served) -> None:
    """The error must not call it bad base64, since it was sent as a file."""
    files = {"image": ("photo.gif", file_of(photo(), "GIF")), "mask": ("mask.png", MASK)}
    text = problem(served.client.post(V1, data={"prompt": "x"}, files=files), 400)
    assert text == "image: is a GIF picture; save it as PNG, JPEG, WebP, TIFF or AVIF"


FAILURES = [
    (OutOfMemoryError("it did not fit into the GPU's memory"), 503),
    (DeviceError("the GPU failed"), 503),
    (PaintError("the model made no picture"), 500),
    (RuntimeError("a bug"), 500),
]


@pytest.mark.parametrize(("error", "status"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_failure_of_ours_says_so_with_an_id(served: Served, error: Exception, status: int) -> None:
    """500 carries the id that our log has, 503 a time to retry."""
    engine_of(served).failures.append(error)
    response = served.client.post(V1, json=body(), headers={"x-request-id": "abc"})
    text = problem(response, status)
    assert response.headers["x-request-id"] == "abc"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert ("abc" in text) == (status == 500)
    assert ("retry-after" in response.headers) == (status == 503)
    assert served.client.post(V1, json=body()).status_code == 200  # the next request is not affected


def test_before_the_model_is_loaded_the_answer_is_503(serve: Serve) -> None:
    """The answer has a time to retry; a supervisor distinguishes /readyz from /livez."""
    engine = FakeEngine(loaded=False)
    served = serve(engine)
    response = served.client.post(V1, json=body())
    assert "not ready" in problem(response, 503)
    assert int(response.headers["retry-after"]) >= 1
    assert served.client.get("/livez").text == "ok"
    assert served.client.get("/readyz").status_code == 503
    served.do(engine.load)
    eventually(lambda: served.client.get("/readyz").text == "ready")
    assert served.client.post(V1, json=body()).status_code == 200


def test_after_the_deadline_the_answer_is_504_and_the_engine_is_free(serve: Serve) -> None:
    """The engine does not paint for a client that has stopped waiting."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, deadline_s=0.2)
    text = problem(served.client.post(V1, json=body()), 504)
    assert "0.2 seconds" in text
    assert engine.next().state == "cancelled"


def test_a_client_that_hangs_up_frees_the_engine(served: Served) -> None:
    """The rows of its request are free for clients that still wait."""
    engine = engine_of(served)
    engine.held = True
    content = json.dumps(body())
    head = ("POST /v1/sdxl-inpaint HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    connection = served.raw(*head, f"Content-Length: {len(content)}", send=content.encode())
    ticket = engine.next()
    served.do(engine.step, ticket)
    assert ticket.state == "step"
    connection.close()
    eventually(lambda: ticket.state == "cancelled")


@pytest.mark.parametrize("status", [200, 500])
def test_a_connection_is_kept_for_the_next_request(served: Served, status: int) -> None:
    """Neither watching for a disconnect nor an internal error may close the connection."""
    if status == 500:
        engine_of(served).failures.append(RuntimeError("a bug"))
    content = json.dumps(body())
    head = ("POST /v1/sdxl-inpaint HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    connection = served.raw(*head, f"Content-Length: {len(content)}", send=content.encode())
    assert connection.recv(65536).startswith(f"HTTP/1.1 {status}".encode())
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    rest = b"".join(iter(lambda: connection.recv(65536), b""))
    connection.close()
    assert rest.endswith(b"ok")


def test_credits_are_a_large_number_where_nothing_is_counted(served: Served) -> None:
    """Clients expect a number, under the hosted API's names."""
    found = served.client.get("/v1/get-user-credits").json()
    assert found.keys() == {"credits", "free-credits"}
    assert found["credits"] > 1000
    assert found["free-credits"] == 0.0


def test_an_http_1_0_client_is_served(served: Served) -> None:
    """Some proxies speak nothing newer."""
    content = json.dumps(body())
    head = (
        "POST /v1/sdxl-inpaint HTTP/1.0",
        "Host: localhost",
        "Content-Type: application/json; charset=utf-8",
    )
    connection = served.raw(*head, f"Content-Length: {len(content)}", send=content.encode())
    status, headers, data = answer(connection)
    assert status == 200
    assert headers["content-type"] == "image/jpeg"
    assert opened(data).size == SIZE
