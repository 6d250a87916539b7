"""Masks that are not masks: what is refused, what gets a warning, and what must get none."""

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from inpaint.canvas.crop import cut
from inpaint.errors import RequestError
from inpaint.request import InpaintRequest
from tests.conftest import PORTRAIT

PHOTO = Image.open(PORTRAIT).convert("RGB")
W, H = PHOTO.size
MIDDLE = (W * 0.35, H * 0.35, W * 0.6, H * 0.6)


def disc(back: int = 0, front: int = 255) -> Image.Image:
    mask = Image.new("L", (W, H), back)
    ImageDraw.Draw(mask).ellipse(MIDDLE, fill=front)
    return mask


def with_alpha(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """The picture, transparent where ``alpha`` is black."""
    seen = image.convert("LA" if image.mode == "L" else "RGBA")
    seen.putalpha(alpha)
    return seen


def as_file(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


HOLE, ISLAND = disc(255, 0), disc()  # the alpha of an erased disc, and of all but a disc erased
WHITE, BLACK = Image.new("RGB", (W, H), "white"), Image.new("RGB", (W, H))


def palette_with_hole() -> Image.Image:
    """A photo of 255 colours whose 256th is transparent, as in a GIF saved as PNG."""
    colours = PHOTO.quantize(255)
    indices = np.where(np.asarray(HOLE) == 0, 255, np.asarray(colours)).astype(np.uint8)
    found = Image.fromarray(indices, "P")
    found.putpalette([*colours.getpalette()[: 3 * 255], 0, 0, 0])
    return as_file(found, "PNG", transparency=255)


def gradient() -> Image.Image:
    """Greys as in a depth map: near is bright."""
    y, x = np.mgrid[:H, :W]
    return Image.fromarray((255 * (0.6 * y / H + 0.4 * np.abs(np.sin(x / 37)))).astype(np.uint8))


def warnings_about(mask: Image.Image, **settings: object) -> tuple[str, ...]:
    request = InpaintRequest(image=PHOTO, mask=mask, prompt="x", **settings)  # type: ignore[arg-type]
    return cut(request, 128).warnings


ERASED = "mask: looks like a photograph with a part erased, not like a mask; .*mask_channel to alpha"
REFUSED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "OpenAI style: photo with erased hole": (lambda: with_alpha(PHOTO, HOLE), ERASED),
    "inverted: all but a disc of the photo erased": (lambda: with_alpha(PHOTO, ISLAND), ERASED),
    "grey photo with erased hole (LA)": (lambda: with_alpha(PHOTO.convert("L"), HOLE), ERASED),
    "palette photo with a transparent colour": (palette_with_hole, ERASED),
    "photo with erased hole as WebP": (lambda: as_file(with_alpha(PHOTO, HOLE), "WEBP"), ERASED),
    "photo itself as mask": (lambda: PHOTO, "mask: looks like a photograph, not like a mask"),
    "photo as JPEG of poor quality": (lambda: as_file(PHOTO, "JPEG", quality=30), "looks like a photograph"),
    "photo of another kind": (lambda: ImageOps.posterize(PHOTO, 6), "looks like a photograph"),
    "OpenAI style: black with hole": (
        lambda: with_alpha(BLACK, HOLE),
        "nothing to repaint.*transparent in part.*mask_channel to alpha",
    ),
    "red strokes on a transparent layer": (
        lambda: with_alpha(Image.new("RGB", (W, H), "red"), ISLAND),
        "nothing to repaint.*transparent in part.*invert_mask",
    ),
    "red on black": (lambda: on_black("red"), "nothing to repaint: paint the parts to change white"),
    "magenta on black": (lambda: on_black("magenta"), "nothing to repaint: paint the parts to change white"),
    "full black": (lambda: BLACK, "nothing to repaint: paint the parts to change white"),
    "0/1 mask": (
        lambda: disc(front=1),
        r"nothing to repaint: paint the parts to change white \(128 or brighter\)$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_surely_no_mask_is_refused(name: str) -> None:
    """Nobody wants 84 % of the picture repainted because a photo was sent where the mask belongs."""
    make, sentence = REFUSED[name]
    with pytest.raises(RequestError, match=sentence) as refused:
        warnings_about(make())
    assert refused.value.field == "mask"


@pytest.mark.parametrize(
    "name", [name for name in REFUSED if "erased" in name or "transparent colour" in name]
)
def test_what_the_refusal_says_works(name: str) -> None:
    """With ``mask_channel`` the same file is read as it was meant."""
    mask = REFUSED[name][0]()
    assert warnings_about(mask, mask_channel="alpha", invert_mask="inverted" in name) == ()


GREYS = r"mask: has greys all over.*set soft"
COVERS = r"mask: 9\d % of the picture would be repainted.*invert_mask"
WARNED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "white with hole (transparent=edit)": (lambda: with_alpha(WHITE, HOLE), COVERS),
    "inverted: black disc on white": (lambda: disc(255, 0), COVERS),
    "inverted, as JPEG": (lambda: as_file(disc(255, 0), "JPEG", quality=30), COVERS),
    "inverted, blurred": (lambda: disc(255, 0).filter(ImageFilter.GaussianBlur(5)), COVERS),
    "grey photo": (lambda: PHOTO.convert("L"), GREYS),
    "grey photo saved with colours": (lambda: PHOTO.convert("L").convert("RGB"), GREYS),
    "depth map without soft": (gradient, GREYS),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_may_be_a_mistake_is_painted_with_a_warning(name: str) -> None:
    """A large mask may be meant, so it is painted; but the caller learns how much it repaints."""
    make, sentence = WARNED[name]
    found = warnings_about(make())
    assert [text for text in found if re.match(sentence, text)], found


def outline() -> Image.Image:
    mask = Image.new("L", (W, H))
    ImageDraw.Draw(mask).ellipse(MIDDLE, outline=255, width=3)
    return mask


def white_at(*boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (W, H))
    for box in boxes:
        mask.paste(255, box)
    return mask


def on_black(colour: str) -> Image.Image:
    """A disc of a colour, as people paint masks."""
    return Image.composite(Image.new("RGB", (W, H), colour), BLACK, ISLAND)


FINE: dict[str, Callable[[], Image.Image]] = {
    "plain": disc,
    "rgba white strokes on transparent": lambda: Image.alpha_composite(
        Image.new("RGBA", (W, H)), with_alpha(WHITE, ISLAND)
    ),
    "yellow on black": lambda: on_black("yellow"),
    "green on black": lambda: on_black("lime"),
    "a few flat greys": lambda: Image.fromarray(
        np.repeat(np.arange(H)[:, None] * 8 // H * 32, W, 1).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", FINE)
def test_a_mask_is_not_taken_for_anything_else(name: str, soft: bool) -> None:
    """A false alarm teaches people to ignore warnings."""
    assert warnings_about(FINE[name](), soft=soft) == ()


@pytest.mark.parametrize(
    "make",
    [gradient, lambda: gradient().convert("RGB"), lambda: as_file(gradient(), "JPEG", quality=30)],
    ids=["depth map", "depth map with colours", "depth map as JPEG"],
)
def test_greys_are_what_a_soft_mask_is_made_of(make: Callable[[], Image.Image]) -> None:
    """With ``soft`` a depth map is a mask."""
    assert warnings_about(make(), soft=True) == ()
