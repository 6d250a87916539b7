"""The routes that describe the server and pictures, and those that the page needs beyond the hosted API."""

import io
from typing import Any

import pillow_heif
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from inpaint.images.codec import decode
from inpaint.images.made import Made
from inpaint.images.metadata import write
from inpaint.schedulers import SCHEDULERS
from server.dialects.segmind_request import LIMITS, InpaintBody
from tests.support.bad_pictures import BAD_PICTURES
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    PictureHost,
    Serve,
    Served,
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

V1, V2, INFO, PICTURE = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint", "/v2/info", "/v2/picture"


def file_in(kind: str) -> bytes:
    """The photograph as a file of this format, a name of Pillow's."""
    if kind != "HEIF":
        return file_of(photo(), kind)
    file = io.BytesIO()
    pillow_heif.from_pillow(photo()).save(file)
    return file.getvalue()


def finished(served: Served, **fields: object) -> Any:
    """Submit a request, wait until it is painted, and return its answer."""
    request_id = served.client.post(V2, json=body(**fields)).json()["request_id"]
    eventually(lambda: served.client.get(f"/v2/requests/{request_id}").json()["status"] == "COMPLETED")
    return served.client.get(f"/v2/requests/{request_id}").json()


# GET /v2/sdxl-inpaint.


def test_a_form_can_be_built_from_what_the_server_offers(served: Served) -> None:
    """The page builds its form from the offer, so every default and range in it must be accepted."""
    offer = served.client.get(V2).json()
    assert offer["schedulers"] == list(SCHEDULERS)
    assert (offer["model"], offer["native_size"], offer["ready"]) == ("demo", 128, True)
    fields = {field["name"]: field for field in offer["fields"]}
    assert set(fields) == set(InpaintBody.model_fields) - {"image", "mask", "model"}  # there is one model
    for name, limits in LIMITS.items():
        assert (fields[name]["minimum"], fields[name]["maximum"]) == (limits.low, limits.high)
    assert fields["scheduler"]["choices"] == list(SCHEDULERS)
    assert fields["fill"]["kind"] == "choice"
    assert [name for name, field in fields.items() if field["required"]] == ["prompt"]
    defaults = {name: field["default"] for name, field in fields.items() if not field["required"]}
    assert served.client.post(V1, json=body(**defaults)).status_code == 200


def test_the_offer_says_what_the_model_paints(serve: Serve) -> None:
    """People who try the demo model must learn what it can paint, also in programs of others."""
    told = serve().client.get(V2).json()["about"]
    assert told["text"].startswith("Demo model: paints coloured shapes")
    assert not told["photographs"]
    assert {"a circle", "black sunglasses", "an ice cream"} <= set(told["things"])
    assert {"red", "circle", "background", "glasses", "cream"} <= set(told["words"])
    told = serve(model="sdxl-inpainting").client.get(V2).json()["about"]
    assert told["text"].startswith("Paints photographs")
    assert (told["photographs"], told["things"], told["words"]) == (True, None, None)


def test_while_the_model_loads_the_offer_says_so(serve: Serve) -> None:
    """Requests are accepted and wait; the model's native size is not known yet."""
    engine = FakeEngine(loaded=False)
    served = serve(engine)
    assert (served.client.get(V2).json()["ready"], served.client.get(V2).json()["native_size"]) == (
        False,
        None,
    )
    served.do(engine.load)
    eventually(lambda: served.client.get(V2).json()["ready"])


def test_a_models_folder_is_not_revealed(serve: Serve) -> None:
    """A client must not learn where files are on the operator's disk."""
    assert serve(model="/home/ann/models/beach.safetensors").client.get(V2).json()["model"] == "beach"


def test_the_offer_needs_the_scope_for_painting(serve: Serve) -> None:
    """The offer needs a key with the same scope as painting."""
    served = serve()
    with served.calling(key=served.key(scopes=("metrics",))) as client:
        assert client.get(V2).status_code == 403
        assert client.post(INFO, json={"image": b64(PHOTO)}).status_code == 403
        assert client.post(PICTURE, json={"image": b64(PHOTO)}).status_code == 403
    assert served.client.get(V2).status_code == 401


# POST /v2/info.


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_says_what_it_is(served: Served, kind: str) -> None:
    """Size and format come from JSON and from a form, after the picture is turned upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(photo(), kind, exif=exif)
    said = {"format": kind.lower(), "width": SIZE[1], "height": SIZE[0], "settings": None, "model": None}
    said["left_out"] = []
    assert served.client.post(INFO, json={"image": b64(data)}).json() == said
    assert served.client.post(INFO, files={"image": data}).json() == said


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_painted_picture_gives_its_settings_back(served: Served, kind: str) -> None:
    """A user who finds last week's result can continue from its settings."""
    settings = {"prompt": "a red circle", "seed": 12, "scheduler": "Euler a", "strength": 0.8}
    plain = decode(PHOTO)
    data = write(plain.image, plain, Made(settings, model="demo"), kind)
    said = served.client.post(INFO, json={"image": b64(data)}).json()
    assert (said["settings"], said["model"]) == (settings, "demo")


def test_a_picture_of_another_program_says_what_is_left_out(served: Served) -> None:
    """The page takes its settings over, and says what it does not."""
    texts = PngInfo()
    texts.add_text(
        "parameters", "a cat\nSteps: 20, Sampler: Restart, CFG scale: 7, Seed: 18446744073709551615"
    )
    said = served.client.post(INFO, json={"image": b64(file_of(photo(), "PNG", pnginfo=texts))}).json()
    assert said["settings"] == {"prompt": "a cat", "num_inference_steps": 20, "guidance_scale": 7.0}
    assert said["left_out"] == [
        "its seed 18446744073709551615 is outside -1 to 999999999999999",
        "its sampler 'Restart' is not one of ours",
    ]


def test_a_picture_by_url_is_fetched_as_safely_as_any(served: Served, picture_host: PictureHost) -> None:
    """This route fetches URLs under the same rules as painting."""
    url = picture_host.put("/info.png", PHOTO)
    assert served.client.post(INFO, json={"image": url}).json()["width"] == SIZE[0]
    refused = served.client.post(INFO, json={"image": "http://169.254.169.254/latest"})
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ({}, 400, "image: is required"),
        ({"image": None}, 400, "image: is required"),
        ({"image": "????"}, 400, "image: is neither"),
        ({"image": b64(b"no picture at all \xff")}, 400, "image: is not a picture in a format that is read"),
        ({"image": b64(PHOTO[:60])}, 400, "image: cannot be decoded"),
        ({"image": b64(PHOTO + bytes(20_000_000))}, 413, "image: must be a file of at most 20 MB"),
    ],
    ids=["nothing", "null", "text", "noise", "cut", "large"],
)
def test_a_file_that_is_no_picture_is_named(
    served: Served, sent: dict[str, object], status: int, said: str
) -> None:
    """The page shows the error, so it is one sentence."""
    response = served.client.post(INFO, json=sent)
    assert response.status_code == status
    assert response.json()["error"].startswith(said)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "HEIF"])
def test_a_picture_of_any_format_that_is_read_says_what_it_is(served: Served, kind: str) -> None:
    """These are painted, so they are described as well."""
    said = served.client.post(INFO, files={"image": file_in(kind)})
    assert (said.status_code, said.json()["format"]) == (200, kind.lower())


# POST /v2/picture.


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_browsers_show_comes_back_as_it_is(
    served: Served, picture_host: PictureHost, kind: str
) -> None:
    """A page that opens a URL works on the file itself, with its metadata and its quality."""
    data = file_in(kind)
    for sent in ({"json": {"image": picture_host.put("/shown", data)}}, {"files": {"image": data}}):
        response = served.client.post(PICTURE, **sent)
        assert (response.content, response.headers["content-type"]) == (data, f"image/{kind.lower()}")


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "HEIF"])
def test_a_picture_that_browsers_do_not_show_becomes_a_png(served: Served, kind: str) -> None:
    """The pixels that would be painted, upright, so that a mask drawn on it fits the file itself."""
    data = file_in(kind)
    response = served.client.post(PICTURE, files={"image": data})
    assert response.headers["content-type"] == "image/png"
    assert opened(response.content).tobytes() == decode(data).image.tobytes()
    assert (
        served.client.post(V1, data={"prompt": "x"}, files={"image": data, "mask": MASK}).status_code == 200
    )


def test_a_tiff_is_shown_upright_in_its_colours(served: Served) -> None:
    """A scan on its side, with the scanner's profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = file_of(photo(), "TIFF", exif=exif, icc_profile=profile)
    shown = opened(served.client.post(PICTURE, files={"image": data}).content)
    assert (shown.size, shown.info["icc_profile"]) == ((SIZE[1], SIZE[0]), profile)


@pytest.mark.parametrize("data", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_bad_picture_is_neither_shown_nor_described(served: Served, data: bytes) -> None:
    """Both routes decode under the limits of painting."""
    for route in (INFO, PICTURE):
        response = served.client.post(route, json={"image": b64(data)})
        assert response.status_code == 400
        assert response.json()["error"].startswith("image: ")


def test_a_url_is_shown_under_the_rules_of_painting(served: Served, picture_host: PictureHost) -> None:
    """No private address, no web page, and a key with the scope for painting."""
    refused = served.client.post(PICTURE, json={"image": "http://169.254.169.254/latest"})
    assert refused.status_code == 422
    page = served.client.post(PICTURE, json={"image": picture_host.put("/page", b"<html><p>no</p></html>")})
    assert (page.status_code, page.json()["error"]) == (
        400,
        "image: is a web page (HTML), not a picture; give the picture itself",
    )


# Painting beyond the picture's edge.


@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
def test_a_picture_grows_by_what_is_asked(served: Served, mask: bytes | None) -> None:
    """The new strip is painted, the old pixels stay, and a mask adds what else to paint."""
    sides = {"extend": [16, 0, 8, 4]}
    answer = served.client.post(V1, json=body(mask=mask and b64(mask), output_format="png", seed=3, **sides))
    picture = opened(answer.content)
    width, height = SIZE
    assert picture.size == (16 + width + 8, height + 4)
    assert picture.getpixel((15, 0)) == colour_of(3)
    assert picture.getpixel((16 + width, 0)) == colour_of(3)
    assert picture.getpixel((20, height)) == colour_of(3)
    assert picture.crop((16, 0, 16 + width // 2, height)).tobytes() == (
        photo().crop((0, 0, width // 2, height)).tobytes()
    )
    right_half = picture.getpixel((16 + width - 1, height - 1))
    assert right_half == (colour_of(3) if mask else photo().getpixel((width - 1, height - 1)))


def test_a_form_extends_too(served: Served) -> None:
    """Forms and the command line write ``0,0,16,0``; v2 accepts it like v1."""
    form = {"prompt": "more", "extend": "0,0,16,0", "output_format": "png"}
    assert opened(served.client.post(V1, data=form, files={"image": PHOTO}).content).size == (64, 32)
    done = finished(served, mask=None, extend=[0, 16, 0, 0])
    assert opened(served.client.get(done["output"]).content).size == (48, 48)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"extend": [0, 0, 0, 0]}, "mask: is required"),
        ({}, "mask: is required"),
        ({"extend": [0, 0, -1, 0]}, "extend: must be four whole numbers of pixels from 0 to 8192"),
        ({"extend": [1, 2]}, "extend: must be four whole numbers of pixels from 0 to 8192"),
        ({"extend": "a,b"}, "extend: must be four whole numbers of pixels from 0 to 8192"),
        ({"extend": [0, 0, 8192, 0]}, "extend: sides must be 16 to 8192 pixels"),
        ({"extend": [0, 0, 1.5, 0]}, "extend: must be four whole numbers of pixels from 0 to 8192"),
        ({"extend": [0, 0, 8, 0], "mask": b64(file_of(white_box((9, 9))))}, "mask: "),
        (
            {"extend": [0, 0, 8, 0], "mask": b64(file_of(white_box((32, 48))))},
            "mask: must have the picture's",
        ),
    ],
)
def test_a_wrong_extension_is_named(served: Served, fields: dict[str, object], said: str) -> None:
    """It is refused before anything is charged or painted."""
    response = served.client.post(V1, json=body(**({"mask": None} | fields)))
    assert response.status_code == 400
    assert response.json()["error"].startswith(said)


# The answer.


def test_a_picture_comes_in_the_format_that_is_asked_for(served: Served) -> None:
    """The page paints lossless PNGs and downloads the format that was opened."""
    done = finished(served, output_format="png", seed=5)
    as_stored = served.client.get(done["output"])
    for name in ("png", "jpeg", "webp"):
        response = served.client.get(f"{done['output']}&format={name}")
        assert response.headers["content-type"] == f"image/{name}"
        picture = opened(response.content)
        assert (picture.format, picture.size) == (name.upper(), SIZE)
        corner = picture.convert("RGB").getpixel((SIZE[0] - 1, 0))
        assert all(abs(a - b) <= 6 for a, b in zip(corner, colour_of(5), strict=True))
    assert served.client.get(f"{done['output']}&format=png").content == as_stored.content
    refused = served.client.get(f"{done['output']}&format=gif")
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("format: ")


def test_a_colour_profile_survives_another_format(served: Served) -> None:
    """A download looks like the picture that was opened."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = b64(file_of(photo(), icc_profile=profile))
    done = finished(served, image=tagged, output_format="png")
    picture = Image.open(io.BytesIO(served.client.get(f"{done['output']}&format=jpeg").content))
    assert picture.info["icc_profile"] == profile


def test_the_answer_holds_the_seed_of_each_picture(served: Served) -> None:
    """A user who likes the third of four pictures can paint it again."""
    done = finished(served, samples=3, seed=11)
    assert done["seeds"] == [11, 12, 13]
    assert len(done["images"]) == 3
    assert done["warnings"] == []
