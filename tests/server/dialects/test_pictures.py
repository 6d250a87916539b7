"""Pictures of every format over HTTP, in both versions of the API."""

import json
import zlib

import httpx2
import numpy as np
import pytest
from PIL import Image

from inpaint.images.codec import Picture, decode
from inpaint.images.encoding import encode
from tests.server.dialects.test_segmind_v2 import V1, ended, submitted
from tests.support.odd_pictures import BIG_MASKS, BIG_METADATA, COLOURS, IPTC, XMP, chunks_of
from tests.support.served import MASK, SIZE, Served, b64, body, file_of, photo

pytest_plugins = ["tests.support.served_fixtures"]

FRAMES = {"save_all": True, "append_images": [photo(colour="green")]}
PICTURES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "tiff": (file_of(photo(), "TIFF"), ()),
    "tiff of pages": (file_of(photo(), "TIFF", **FRAMES), ("image: it has several pages",)),
    "avif": (file_of(photo(), "AVIF"), ()),
    "animated avif": (file_of(photo(), "AVIF", **FRAMES), ("image: it is animated",)),
    "animated webp": (file_of(photo(), "WEBP", **FRAMES), ("image: it is animated",)),
    "cmyk": (file_of(photo().convert("CMYK"), "JPEG"), ("image: it is CMYK and becomes RGB",)),
    "cmyk tiff": (file_of(photo().convert("CMYK"), "TIFF"), ("image: it is CMYK and becomes RGB",)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_format_is_painted_and_its_losses_are_said(name: str, served: Served) -> None:
    """The answer's warnings are the same in both versions, and so are the pictures."""
    data, expected = PICTURES[name]
    fields = body(image=b64(data), output_format="png")
    over_v1 = served.client.post(V1, json=fields)
    assert over_v1.status_code == 200, over_v1.text
    said = json.loads(over_v1.headers["x-output-metadata"]).get("warnings", [])
    answer = ended(served.client, submitted(served.client, **fields)).json()
    assert answer["warnings"] == said
    assert len(said) == len(expected)
    assert all(text.startswith(start) for text, start in zip(said, expected, strict=True))
    assert httpx2.get(answer["output"], trust_env=False).content == over_v1.content


@pytest.mark.parametrize("name", COLOURS)
def test_colours_survive_both_versions(name: str, served: Served) -> None:
    """A queued picture is stored as a file of ours, which keeps what its numbers mean."""
    chunks = b"".join(
        len(data).to_bytes(4, "big") + kind + data + crc(kind + data) for kind, data in COLOURS[name]
    )
    plain = file_of(photo())
    fields = body(image=b64(plain[:33] + chunks + plain[33:]), output_format="png")
    over_v1 = served.client.post(V1, json=fields).content
    answer = ended(served.client, submitted(served.client, **fields)).json()
    for painted in (over_v1, httpx2.get(answer["output"], trust_env=False).content):
        kept = dict(chunks_of(painted))
        assert {kind: kept.get(kind) for kind, _ in COLOURS[name]} == dict(COLOURS[name])


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


@pytest.mark.parametrize("name", BIG_MASKS)
def test_large_metadata_are_painted_over_http(name: str, served: Served) -> None:
    """As a picture and as a mask: they were called a damaged file."""
    fields = {"image": b64(BIG_METADATA[name]()), "mask": b64(BIG_MASKS[name]())}
    assert served.client.post(V1, json=body(**fields)).status_code == 200


@pytest.mark.parametrize(
    ("turn", "mask_size", "status"),
    [
        (6, (120, 160), 200),
        (6, (160, 120), 400),
        (8, (160, 120), 400),
        (3, (160, 120), 200),
        (1, (160, 120), 200),
    ],
    ids=["exif6", "exif6_rawmask", "exif8_rawmask", "exif3", "exif1"],
)
def test_a_mask_is_compared_with_the_upright_picture(
    turn: int, mask_size: tuple[int, int], status: int, served: Served
) -> None:
    """A mask drawn on a phone's unturned pixels would lie elsewhere: it is refused with both sizes."""
    turned = Image.Exif()
    turned[0x0112] = turn
    mask = Image.new("L", mask_size, 255)
    fields = {"image": b64(file_of(photo((160, 120)), "JPEG", exif=turned)), "mask": b64(file_of(mask))}
    response = served.client.post(V1, json=body(**fields))
    assert response.status_code == status, response.text
    assert status == 200 or "120×160, but is 160×120" in response.text


def test_who_took_a_picture_and_where_does_not_come_back(served: Served) -> None:
    """The hosted API returns no EXIF, and XMP and IPTC say the same."""
    image = b64(encode(photo(), Picture(photo(), "JPEG", xmp=XMP, iptc=IPTC)))
    for kind in ("jpeg", "png", "webp"):
        painted = served.client.post(V1, json=body(image=image, output_format=kind)).content
        assert b"Jane Doe" not in painted
        assert decode(painted).image.size == SIZE


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_a_lossless_webp_gets_the_quality_that_was_asked_for(kind: str, served: Served) -> None:
    """``output_format`` and ``quality`` are the caller's words; png is the lossless one."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    image = b64(file_of(Image.fromarray(noise), "WEBP", lossless=True))
    painted = served.client.post(V1, json=body(image=image, mask=b64(MASK), output_format=kind, quality=30))
    assert decode(painted.content).lossless is False
    assert len(painted.content) < 3 * SIZE[0] * SIZE[1]
