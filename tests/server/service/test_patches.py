"""Patches: what is kept of a painted picture if the request says so, and the whole files made of them."""

import json
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from inpaint.canvas.crop import assembled
from inpaint.images.codec import decode
from inpaint.request import InpaintRequest, InpaintResult
from server.service.patches import compose, write_patches
from server.service.pictures import IMAGE, Prepared, read_inputs, write, write_inputs
from server.service.pictures import MASK as MASK_FILE
from server.storage.requests import Record
from tests.server.dialects.test_segmind_v2 import ended, submitted
from tests.server.service.test_stored_pictures import files
from tests.support.served import MASK, PHOTO, SIZE, Serve, Served, b64, body, eventually, file_of, opened

pytest_plugins = ["tests.support.served_fixtures"]

WIDTH, HEIGHT = SIZE


def noise(mode: str) -> Image.Image:
    """A picture whose every pixel is another one, so that none can be lost unseen."""
    draw = np.random.default_rng(5)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 65_536, (HEIGHT, WIDTH), dtype=np.uint16))
    channels = Image.new(mode, (1, 1)).getbands()
    shape = (HEIGHT, WIDTH, len(channels)) if len(channels) > 1 else (HEIGHT, WIDTH)
    return Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8), mode)


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def answer(served: Served, **fields: Any) -> Any:
    """The answer of a v2 request, which is painted."""
    found = ended(served.client, submitted(served.client, **fields))
    assert found.json()["status"] == "COMPLETED", found.text
    return found.json()


def get(url: str, more: str = "") -> httpx2.Response:
    response = httpx2.get(url + more, trust_env=False)
    assert response.status_code == 200, response.text
    return response


PICTURES = {
    "rgb with profile": lambda: file_of(noise("RGB"), icc_profile=profile(), dpi=(300, 300)),
    "alpha": lambda: file_of(noise("RGBA")),
    "grey with alpha": lambda: file_of(noise("LA")),
    "grey": lambda: file_of(noise("L")),
    "16-bit grey": lambda: file_of(noise("I;16")),
    "jpeg with profile": lambda: file_of(noise("RGB"), "JPEG", quality=95, icc_profile=profile()),
    "webp": lambda: file_of(noise("RGB"), "WEBP", lossless=True),
    "cmyk": lambda: file_of(noise("CMYK"), "JPEG"),
}


BOX = (8, 6, 30, 40)
FORMATS = pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])


@FORMATS
@pytest.mark.parametrize("name", PICTURES)
def test_a_composed_file_has_the_bytes_of_a_written_one(name: str, output_format: str) -> None:
    """Those who ask for patches give up nothing: not a pixel, not a profile, not a setting."""
    like = decode(PICTURES[name]())
    settings: dict[str, Any] = {"prompt": "a cat", "seed": 4, "samples": 2}
    mask = Image.new("L", like.image.size, 255)
    inputs = write_inputs(Prepared(InpaintRequest(image=like.image, mask=mask, **settings), like))
    prepared = read_inputs(inputs[IMAGE], inputs[MASK_FILE], settings)
    painted = ImageOps.flip(prepared.request.image.crop(BOX))
    patches = (painted, ImageOps.mirror(painted))
    images = [assembled(prepared.request.image, [(BOX, each)]) for each in patches]
    result = InpaintResult(images, [4, 5], BOX, ("a warning",))
    fields: dict[str, object] = {"settings": settings, "output_format": output_format, "quality": 80}
    record = Record.new(id="1", key_id="", mode="v2", fields=fields, seeds=[4, 5], cost_micro=0)
    kept = write_patches(record, prepared, result, "demo")
    stored = [json.loads(json.dumps({**output, "box": kept.box})) for output in kept.outputs]
    made = [compose(stored[n], inputs[IMAGE], kept.files[n][1], output_format) for n in (0, 1)]
    assert made == write(prepared, result, output_format, 80, "demo")
    for image, (_, patch) in zip(images, kept.files, strict=True):
        again = decode(patch)
        assert (again.image.mode, again.image.tobytes()) == (image.mode, image.crop(BOX).tobytes())
        assert (again.icc_profile, again.colour) == (prepared.like.icc_profile, prepared.like.colour)


@FORMATS
@pytest.mark.parametrize("name", ["rgb with profile", "jpeg with profile"])
def test_a_file_made_later_is_the_file_that_would_have_been_written(
    name: str, output_format: str, served: Served
) -> None:
    """Through the server, with its metadata, for each picture of a request."""
    asked = {
        "image": b64(PICTURES[name]()),
        "output_format": output_format,
        "quality": 80,
        "metadata": True,
        "samples": 2,
    }
    at_first, later = answer(served, **asked), answer(served, **asked, answer="boxes")
    for one, other in zip(at_first["images"], later["images"], strict=True):
        assert one["file_size"] == len(get(one["url"]).content)
        assert "file_size" not in other, "nobody knows it yet"
        assert get(other["url"]).content == get(one["url"]).content
        assert one["box"] == other["box"]
        if output_format == "png":
            whole, box = opened(get(one["url"]).content), tuple(one["box"])
            for each in (one, other):
                patch = get(each["url"], "&crop=box")
                assert patch.headers["x-box"] == ",".join(map(str, box))
                assert patch.headers["content-type"] == "image/png"
                cut = opened(patch.content)
                assert (cut.mode, cut.tobytes()) == (whole.mode, whole.crop(box).tobytes())
                assert cut.info.get("icc_profile") == whole.info.get("icc_profile")


def test_only_the_patch_is_written_and_the_whole_file_once_it_is_asked_for(serve: Serve) -> None:
    """The end of a 24-megapixel picture must not wait for a file that perhaps nobody wants."""
    served = serve()
    (image,) = answer(served, output_format="png", answer="boxes")["images"]
    assert files(served) == {"0.box.png", "image.png", "mask.png"}
    first = get(image["url"])
    assert files(served) == {"0.box.png", "0.png", "image.png", "mask.png"}
    assert get(image["url"]).content == first.content
    jpeg = get(image["url"], "&format=jpeg")
    assert opened(jpeg.content).format == "JPEG"
    assert "0.jpeg" in files(served)


def test_what_is_kept_is_counted(serve: Serve) -> None:
    """Patches and the files made of them take room in the picture store, and a key may fill only its part."""
    served = serve()
    request_id = submitted(served.client, output_format="png", answer="boxes")
    (image,) = ended(served.client, request_id).json()["images"]

    def counted() -> tuple[int, int]:
        record = served.running.service.parts.store.get(request_id, "")
        folder = served.settings.data / "pictures" / request_id
        return record.stored_bytes, sum(path.stat().st_size for path in folder.iterdir())

    assert counted()[0] == counted()[1]
    get(image["url"])
    assert counted()[0] == counted()[1]


def test_a_key_that_stores_too_much_still_gets_its_file(serve: Serve) -> None:
    """It is made again each time, and not kept."""
    stored = len(PHOTO) + len(MASK) + 2000
    served = serve(max_stored_bytes_per_key=stored)
    with served.calling(key=served.key()) as owner:
        asked = {"output_format": "png", "image": b64(file_of(noise("RGB").resize(SIZE))), "answer": "boxes"}
        refused = owner.post("/v2/sdxl-inpaint", json=body(**asked))
        assert refused.status_code == 429, "the picture alone is too large"
        (image,) = ended(owner, submitted(owner, output_format="png", answer="boxes")).json()["images"]
        first = get(image["url"]).content
        assert get(image["url"]).content == first


def test_a_file_is_made_after_a_restart(serve: Serve) -> None:
    """What is needed for it is in the picture store and the database, not in a process."""
    served = serve()
    (image,) = answer(served, output_format="png", metadata=True, answer="boxes", seed=3)["images"]
    expected = answer(served, output_format="png", metadata=True, seed=3)["images"][0]
    data = get(expected["url"]).content
    path = image["url"].partition("/v2/")[2]
    served.stop()
    later = serve(data=served.settings.data)
    assert later.client.get(f"/v2/{path}").content == data


def test_a_file_is_made_after_its_record_has_expired(serve: Serve) -> None:
    """Prompts are deleted before pictures; the pictures' URLs work on."""
    served = serve()
    asked = {"output_format": "jpeg", "quality": 60, "metadata": True}
    (image,) = answer(served, **asked, answer="boxes")["images"]
    data = get(answer(served, **asked)["images"][0]["url"]).content
    path = image["url"].partition("/v2/")[2]
    served.stop()
    later = serve(data=served.settings.data, requests_ttl_s=0.001)  # a sweep runs at the start
    request_id = path.split("/")[1]
    eventually(lambda: later.client.get(f"/v2/requests/{request_id}").status_code == 404)
    assert later.client.get(f"/v2/{path}").content == data
    assert later.client.get(f"/v2/{path}&crop=box").headers["x-box"] == ",".join(map(str, image["box"]))


def test_a_patch_needs_the_token_or_the_key(serve: Serve) -> None:
    """It shows what was painted as the whole does."""
    served = serve()
    with served.calling(key=served.key()) as owner, served.calling(key=served.key()) as other:
        request_id = submitted(owner, answer="boxes")
        ended(owner, request_id)
        path = f"/v2/requests/{request_id}/images/0?crop=box"
        assert owner.get(path).status_code == 200
        assert other.get(path).status_code == 404
        assert served.client.get(path).status_code == 401
        assert served.client.get(f"{path}&token=wrong").status_code == 404


def test_a_patch_is_a_png_and_there_is_no_other_crop(served: Served) -> None:
    """A lossy patch would show its edges."""
    (image,) = answer(served, answer="boxes")["images"]
    refused = served.client.get(image["url"] + "&crop=box&format=jpeg")
    assert refused.status_code == 400
    assert "format: must be png" in refused.text
    assert served.client.get(image["url"] + "&crop=face").status_code == 400


def test_a_patch_named_as_an_input_is_the_whole_picture(served: Served) -> None:
    """The URL in the answer names the picture, whatever is kept of it."""
    (image,) = answer(served, output_format="png", answer="boxes")["images"]
    named = served.client.post("/v1/sdxl-inpaint", json=body(image=image["url"], output_format="png"))
    sent = b64(get(image["url"]).content)
    whole = served.client.post("/v1/sdxl-inpaint", json=body(image=sent, output_format="png"))
    assert named.content == whole.content


def test_v1_answers_whole_files_whatever_is_asked(served: Served) -> None:
    """Its answer is the file; with an idempotency key it passes through the queue."""
    asked = body(output_format="png", answer="boxes")
    plain = served.client.post("/v1/sdxl-inpaint", json=asked)
    queued = served.client.post("/v1/sdxl-inpaint", json=asked, headers={"Idempotency-Key": "one"})
    assert plain.status_code == queued.status_code == 200
    assert opened(plain.content).size == SIZE
    assert queued.content == plain.content


def test_the_done_event_says_where_the_box_is(served: Served) -> None:
    """A page puts the patch in its place without asking again."""
    request_id = submitted(served.client, answer="boxes", extend="16,0,0,0")
    done = ended(served.client, request_id).json()
    with served.client.stream("GET", f"/v2/requests/{request_id}/events") as stream:
        text = "".join(stream.iter_text())
    assert f'"box": {done["images"][0]["box"]}' in text
    left, _, right, bottom = done["images"][0]["box"]
    assert (left, right <= WIDTH + 16, bottom <= HEIGHT) == (0, True, True)


def test_an_exact_picture_is_compared_with_its_draft_in_the_box(served: Served) -> None:
    """The distance is that of the pictures' painted parts, however they are kept."""
    distances = []
    for kept in ("files", "boxes"):
        draft = submitted(
            served.client, output_format="png", pace="near", answer=kept, num_inference_steps=40
        )
        ended(served.client, draft)
        refined = served.client.post(f"/v2/requests/{draft}/refine").json()["request_id"]
        done = ended(served.client, refined).json()
        distances.append(done["distance_db"])
        assert ("file_size" in done["images"][0]) == (kept == "files")
    assert distances[0] == distances[1]


def test_the_box_is_the_union_of_the_painted_ones() -> None:
    """Of islands far apart each has a box of its own."""
    image = Image.new("RGB", (90, 60))
    one = InpaintResult([image], [1], (10, 10, 50, 50))
    assert one.changed == (10, 10, 50, 50)
    several = InpaintResult([image], [1], (0, 0, 90, 60), boxes=((50, 8, 80, 40), (4, 20, 30, 55)))
    assert several.changed == (4, 8, 80, 55)
