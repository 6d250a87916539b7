"""The geometry of a request: the part that is cut and painted, and the pixels that stay the caller's."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from scipy.ndimage import distance_transform_edt

from inpaint.canvas import crop
from inpaint.canvas.crop import Canvas, assembled, extend, paste, patch
from inpaint.canvas.mask import latent_mask, latent_soft_mask
from inpaint.errors import RequestError
from inpaint.images.codec import Picture, decode
from inpaint.images.encoding import encode
from inpaint.request import EXIF_ORIENTATION, InpaintRequest

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")
SIZES = ((63, 65), (513, 777), (16, 256))
NATIVE = 256


def texture(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8))
    return image.convert("RGB").quantize(64) if mode == "P" else image.convert(mode)


def blob(size: tuple[int, int], seed: int = 0, kind: int | None = None) -> Image.Image:
    """Make a random mask: an ellipse, a stroke, single pixels, or two far corners."""
    rng = np.random.default_rng(seed)
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    w, h = size
    kind = int(rng.integers(4)) if kind is None else kind
    x, y = int(rng.integers(w)), int(rng.integers(h))
    if kind == 0:
        rx, ry = rng.integers(1, max(2, w // 4)), rng.integers(1, max(2, h // 4))
        draw.ellipse([x - rx, y - ry, x + rx, y + ry], fill=255)
    elif kind == 1:
        draw.line([x, y, int(rng.integers(w)), int(rng.integers(h))], fill=255)
    elif kind == 2:
        draw.point([x, y], fill=255)
    else:
        draw.point([0, 0, w - 1, h - 1], fill=255)
    return mask


def request(image: Image.Image, mask: Image.Image, **settings: Any) -> InpaintRequest:
    return InpaintRequest(image, mask, "a red circle", **settings)


def cut(request: InpaintRequest, native: int = 1024) -> Canvas:
    """Cut a request whose mask has one box."""
    (canvas,) = crop.cut(request, native).canvases
    return canvas


def noise(canvas: Canvas, seed: int = 9) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((canvas.size[1], canvas.size[0], 3), np.float32)


def outside(mask: Image.Image, reach_px: int) -> NDArray[np.bool_]:
    """Find the pixels further than ``reach_px`` from the mask, by another library than the tested one."""
    return np.asarray(distance_transform_edt(np.asarray(mask) < 128) > reach_px)


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def assert_only_the_mask_changed(data: bytes, seed: int, **settings: Any) -> None:
    """Paste noise into a decoded file, encode and decode it, and compare every byte beyond the reach."""
    picture = decode(data)
    mask = blob(picture.image.size, seed)
    boxes = crop.cut(request(picture.image, mask, **settings), NATIVE).canvases
    pasted = assembled(boxes[0].original, [(each.box, patch(each, noise(each))) for each in boxes])
    result = decode(encode(pasted, picture)).image
    own = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = np.asarray(own if own.mode == picture.image.mode else own.convert(picture.image.mode))
    far = outside(mask, max(canvas.reach_px for canvas in boxes))
    assert result.size == own.size
    assert result.mode == picture.image.mode
    assert np.array_equal(np.asarray(result)[far], expected[far])
    assert not np.array_equal(np.asarray(result)[~far], expected[~far])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_beyond_grow_and_feather_are_the_callers_own_bytes(mode: str, size: tuple[int, int]) -> None:
    """A user who repaints a corner gets the rest of the picture back unchanged."""
    for seed in range(3):
        assert_only_the_mask_changed(saved(texture(mode, size)), seed)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
def test_the_promise_holds_for_every_exif_orientation(orientation: int, mode: str) -> None:
    """Phones store portrait photos lying and mark them as turned."""
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    assert_only_the_mask_changed(saved(texture(mode, (63, 75)), exif=tags), seed=orientation)


@pytest.mark.parametrize(
    "settings",
    [
        {"area": "whole"},
        {"grow": 0, "feather": 0},
        {"grow": 0, "feather": 256},
        {"grow": 256, "feather": 1, "padding": 0},
        {"fill": "telea", "soft": True},
        {"color_match": False, "fill": "noise"},
    ],
)
def test_the_promise_holds_for_every_setting(settings: dict[str, Any]) -> None:
    """Settings change what is painted, and never reach further than they say."""
    for seed in range(4):
        assert_only_the_mask_changed(saved(texture("RGB", (300, 200))), seed, **settings)


def test_a_python_callers_turned_picture_comes_back_upright_and_unharmed() -> None:
    """A Python caller may pass Image.open(...) of a phone photo together with an upright mask."""
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = 6
    image = Image.open(io.BytesIO(saved(texture("RGB", (60, 40)), exif=tags)))
    before = (image.size, image.tobytes())
    mask = blob((40, 60), kind=0)
    mask_before = mask.tobytes()
    canvas = cut(request(image, mask), NATIVE)
    result = paste(canvas, noise(canvas))
    assert result.size == (40, 60)
    assert (image.size, image.tobytes(), mask.tobytes()) == (*before, mask_before)


def test_native_size_without_extras_is_not_touched_at_all() -> None:
    """Parity with the stock diffusers pipeline depends on this."""
    image, mask = texture("RGB", (256, 256)), blob((256, 256), 1, kind=0)
    settings = {"area": "whole", "grow": 0, "feather": 0, "color_match": False}
    canvas = cut(request(image, mask, **settings), NATIVE)
    painted = noise(canvas)
    result = np.asarray(paste(canvas, painted))
    hole = np.asarray(mask) > 0
    assert canvas.box == (0, 0, 256, 256)
    assert canvas.image.tobytes() == image.tobytes()
    assert canvas.mask.tobytes() == canvas.paste_mask.tobytes() == mask.tobytes()
    assert np.array_equal(result[hole], np.rint(painted[hole] * 255).astype(np.uint8))
    assert np.array_equal(result[~hole], np.asarray(image)[~hole])


def test_a_box_of_the_working_size_is_not_resampled_in_auto_either() -> None:
    """Resampling twice costs sharpness."""
    image, mask = texture("RGB", (400, 400)), Image.new("L", (400, 400))
    mask.paste(255, (100, 100, 300, 300))
    canvas = cut(request(image, mask, padding=119, grow=0, feather=0), NATIVE)
    assert canvas.box == (72, 72, 328, 328)
    assert canvas.image.tobytes() == image.crop(canvas.box).tobytes()


@pytest.mark.parametrize("seed", range(60))
def test_box_and_sizes_hold_their_invariants(seed: int) -> None:
    """Any picture and any mask give something that the model can paint and that can be pasted back."""
    rng = np.random.default_rng(seed)
    w = int(rng.integers(16, 900))
    h = int(np.clip(rng.integers(16, 900), -(-w // 16), 16 * w))
    native = int(rng.choice([64, 256, 512]))
    grow, feather, padding = (int(v) for v in rng.choice([0, 1, 8, 40, 256], 3))
    mask = blob((w, h), seed)
    asked = request(Image.new("L", (w, h)), mask, grow=grow, feather=feather, padding=padding)
    for canvas in crop.cut(asked, native).canvases:
        assert_canvas_holds_its_invariants(canvas, mask, native)


def assert_canvas_holds_its_invariants(canvas: Canvas, mask: Image.Image, native: int) -> None:
    w, h = mask.size
    left, top, right, bottom = canvas.box
    l0, t0, r0, b0 = np.add(mask.crop(canvas.box).getbbox(), (left, top, left, top)).tolist()
    reach = canvas.reach_px
    assert 0 <= left <= max(0, l0 - reach)
    assert 0 <= top <= max(0, t0 - reach)
    assert min(w, r0 + reach) <= right <= w
    assert min(h, b0 + reach) <= bottom <= h
    assert right - left >= min(w, native // 2)
    assert bottom - top >= min(h, native // 2)
    assert all(side % 64 == 0 for side in canvas.size)
    assert canvas.image.size == canvas.mask.size == canvas.size
    assert canvas.paste_mask.size == (right - left, bottom - top)
    distortion = (right - left) / (bottom - top) * canvas.size[1] / canvas.size[0]
    assert 1 / 1.5 < distortion < 1.5
    assert set(np.unique(np.asarray(canvas.mask))) <= {0, 255}


def test_a_tiny_mask_keeps_context_around_it() -> None:
    """One spot on a face is painted with the face in view, upscaled at most about twice."""
    image, mask = Image.new("RGB", (3000, 2000)), Image.new("L", (3000, 2000))
    mask.putpixel((1500, 1000), 255)
    canvas = cut(request(image, mask))
    left, top, right, bottom = canvas.box
    assert (right - left, bottom - top) == (512, 512)
    assert abs((left + right) / 2 - 1500) <= 1
    assert canvas.size == (1024, 1024)


def test_a_strip_gets_a_box_at_most_twice_as_long_as_high() -> None:
    """SDXL would paint the 1:20 strip of a power line badly."""
    image, mask = Image.new("L", (3000, 2000)), Image.new("L", (3000, 2000))
    mask.paste(255, (200, 900, 2800, 930))
    left, top, right, bottom = cut(request(image, mask)).box
    assert (right - left) / (bottom - top) < 2.1


def test_the_box_takes_the_working_shape_where_the_picture_allows() -> None:
    """Nothing is squeezed on its way to the model unless the picture is too small for anything else."""
    image = Image.new("L", (3000, 2500))
    for w, h in ((600, 700), (640, 900), (333, 512), (1000, 777)):
        mask = Image.new("L", image.size)
        mask.paste(255, (1000, 800, 1000 + w, 800 + h))
        canvas = cut(request(image, mask))
        left, top, right, bottom = canvas.box
        squeezed = (right - left) / (bottom - top) * canvas.size[1] / canvas.size[0]
        assert squeezed == pytest.approx(1, abs=0.002)


def test_a_large_picture_is_cut_without_being_copied_or_converted_whole() -> None:
    """24 megapixels and a small mask cost what the box costs."""
    image, mask = Image.new("RGB", (6000, 4000)), Image.new("L", (6000, 4000))
    mask.paste(255, (3000, 2000, 3100, 2100))
    canvas = cut(request(image, mask))
    assert canvas.original is image
    assert max(canvas.paste_mask.size) < 600


def test_lengths_scale_with_the_box() -> None:
    """One setting fits a thumbnail and a poster; 0 stays 0, and 1 is at least a pixel."""
    square, mask = Image.new("L", (512, 512)), Image.new("L", (512, 512))
    mask.putpixel((256, 256), 255)
    canvas = cut(request(square, mask, area="whole", grow=8, feather=16))
    assert (canvas.grow_px, canvas.feather_px, canvas.reach_px) == (4, 8, 12)
    canvas = cut(request(square, mask, area="whole", grow=1, feather=0))
    assert (canvas.grow_px, canvas.feather_px) == (1, 0)


def test_lengths_of_the_picture_are_its_own_pixels() -> None:
    """Whatever the box: what other programs call a mask blur of 10 is 10 pixels of a poster, too."""
    settings: dict[str, Any] = {"grow": 8, "feather": 16, "padding": 40, "lengths": "picture"}
    for side in (200, 2000):
        image = Image.new("RGB", (side, side))
        mask = Image.new("L", image.size)
        mask.paste(255, (side // 4, side // 4, side // 2, side // 2))
        for area in ("auto", "whole"):
            canvas = cut(request(image, mask, area=area, **settings), NATIVE)
            assert (canvas.grow_px, canvas.feather_px) == (8, 16)
    padded = [
        cut(request(image, mask, **settings | {"padding": padding}), NATIVE).box for padding in (200, 400)
    ]
    assert padded[0][0] - padded[1][0] == 200


def test_grow_is_round_and_feather_falls_outwards_only() -> None:
    """The whole mask is repainted; only its surroundings are a blend."""
    size = (256, 256)
    mask = Image.new("L", size)
    mask.paste(255, (100, 100, 140, 140))
    canvas = cut(request(Image.new("L", size), mask, area="whole", grow=40, feather=80), NATIVE)
    weight = np.asarray(canvas.paste_mask).astype(int)
    distance = distance_transform_edt(np.asarray(mask) == 0)
    assert (canvas.grow_px, canvas.feather_px) == (10, 20)
    assert (weight[distance <= 10] == 255).all()
    assert ((weight > 0) & (weight < 255))[(distance > 11) & (distance < 28)].all()
    assert (weight[distance > 30] == 0).all()
    assert np.array_equal(np.asarray(canvas.mask) > 0, distance <= 10)
    row = weight[120, 140:]
    assert (np.diff(row) <= 0).all()
    assert np.abs(np.diff(row)).max() < 25  # no visible step


def test_a_mask_of_another_size_names_both() -> None:
    """A caller who resized one of the two sees both sizes in the error."""
    with pytest.raises(RequestError, match="64×48, but is 48×64"):
        request(Image.new("RGB", (64, 48)), Image.new("L", (48, 64)))


def test_a_picture_one_pixel_wide_is_refused() -> None:
    """There is nothing to paint in it."""
    with pytest.raises(RequestError, match="image: sides must be 16"):
        request(Image.new("RGB", (1, 64)), Image.new("L", (1, 64)))


@pytest.mark.parametrize("offset", range(0, 64, 9))
@pytest.mark.parametrize("size", [(1024, 1024), (256, 256), (900, 700), (2400, 1800)])
def test_a_thin_stroke_off_the_grid_survives_to_the_latent_mask(size: tuple[int, int], offset: int) -> None:
    """diffusers samples one pixel in 64, and a scratch between the samples would not be repainted."""
    mask = Image.new("1", size)
    x, y = size[0] // 3 + offset, size[1] // 4 + offset
    ImageDraw.Draw(mask).line([x, y, x, y + 90], fill=1)
    canvas = cut(request(Image.new("L", size), mask, area="whole", grow=0, feather=0), NATIVE)
    latents = latent_mask(canvas.mask)
    scale = canvas.size[0] / size[0], canvas.size[1] / size[1]
    column = latents[:, int((x + 0.5) * scale[0]) // 8]
    first, last = int((y + 0.5) * scale[1]) // 8, int((y + 90.5) * scale[1]) // 8
    assert column[first : last + 1].all()
    assert latents.sum() <= 2 * (last - first + 3)  # and it has not become a bar


def test_one_white_pixel_sets_its_latent_pixel() -> None:
    """The model must know every latent pixel that it may repaint."""
    mask = Image.new("L", (64, 128))
    mask.putpixel((15, 9), 255)
    latents = latent_mask(mask)
    assert latents.shape == (16, 8)
    assert latents.dtype == np.float32
    assert np.argwhere(latents).tolist() == [[1, 1]]
    assert latent_mask(mask, 64).shape == (2, 1)


def test_a_soft_mask_is_strength_and_reaches_the_latents_as_a_mean() -> None:
    """A user who paints grey keeps half of the old content."""
    size = (256, 256)
    mask = Image.new("L", size)
    mask.paste(64, (64, 64, 128, 128))
    mask.paste(255, (128, 64, 192, 128))
    hard = cut(request(Image.new("L", size), mask, area="whole", grow=0, feather=0), NATIVE)
    soft = cut(request(Image.new("L", size), mask, area="whole", grow=0, feather=0, soft=True), NATIVE)
    assert hard.soft_mask is None
    assert soft.soft_mask is not None
    assert soft.soft_mask.tobytes() == mask.tobytes()
    assert np.array_equal(np.asarray(hard.mask) > 0, np.asarray(mask) >= 128)
    assert np.array_equal(np.asarray(soft.mask) > 0, np.asarray(mask) > 0)
    strength = latent_soft_mask(soft.soft_mask)
    assert strength.shape == (32, 32)
    assert strength[10, 10] == pytest.approx(64 / 255)
    assert strength[10, 20] == 1
    assert strength[0, 0] == 0


def test_a_grown_soft_mask_continues_its_own_grey() -> None:
    """Growing must neither strengthen the rim of a weak stroke nor leave it without effect."""
    mask = Image.new("L", (256, 256))
    mask.paste(80, (100, 100, 140, 140))
    canvas = cut(request(Image.new("L", (256, 256)), mask, area="whole", grow=40, soft=True), NATIVE)
    values = np.asarray(canvas.soft_mask)
    assert set(np.unique(values)) == {0, 80}
    assert np.array_equal(values > 0, np.asarray(canvas.mask) > 0)


def test_a_soft_paste_fades_with_the_grey_and_a_white_one_does_not() -> None:
    """Dark grey keeps the file's own sharpness; light grey is repainted, and shown."""
    size = (256, 256)
    mask = Image.new("L", size)
    for i, grey in enumerate((8, 24, 40, 64, 160, 255)):
        mask.paste(grey, (40 * i, 0, 40 * i + 40, 256))
    canvas = cut(request(Image.new("L", size), mask, area="whole", grow=0, feather=0, soft=True), NATIVE)
    weights = [int(canvas.paste_mask.getpixel((40 * i + 20, 128))) for i in range(6)]
    assert weights[0] < 16
    assert weights[:4] == sorted(set(weights[:4]))
    assert weights[3:] == [255] * 3
    hard = cut(request(Image.new("L", size), mask, grow=8, feather=40), NATIVE)
    white = mask.point(lambda v: 255 if v >= 128 else 0)
    soft = cut(request(Image.new("L", size), white, grow=8, feather=40, soft=True), NATIVE)
    assert soft.paste_mask.tobytes() == hard.paste_mask.tobytes()


@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_painting_the_same_picture_changes_little(scale: float) -> None:
    """Cutting and pasting back shifts nothing by half a pixel and darkens nothing."""
    side = int(256 * scale)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = np.dstack([np.sin(9 * x + 2 * y), np.cos(8 * y), np.sin(7 * x * y)]) * 0.4 + 0.5
    image = Image.fromarray((waves * 255).astype(np.uint8))
    mask = Image.new("L", image.size, 255)
    canvas = cut(request(image, mask), NATIVE)
    result = paste(canvas, np.asarray(canvas.image, np.float32) / 255)
    assert np.abs(np.asarray(result, int) - np.asarray(image, int)).max() <= 2


def test_colour_match_corrects_a_drift_and_can_be_switched_off() -> None:
    """A discoloured patch is the most frequent complaint about inpainting."""
    image, mask = texture("RGB", (256, 256)), Image.new("L", (256, 256))
    mask.paste(255, (90, 90, 150, 150))
    errors = {}
    for match in (True, False):
        canvas = cut(request(image, mask, area="whole", color_match=match), NATIVE)
        drifted = np.asarray(canvas.image, np.float32) / 255 * 0.9 + 0.06
        result = np.asarray(paste(canvas, drifted), int)
        errors[match] = np.abs(result - np.asarray(image, int)).max()
    assert errors[True] <= 1 < 9 < errors[False]


def test_repainting_everything_needs_no_ring() -> None:
    """An all-white mask has no surroundings to compare colours with."""
    canvas = cut(request(texture("RGB", (256, 256)), Image.new("L", (256, 256), 255)), NATIVE)
    painted = noise(canvas)
    assert np.array_equal(np.asarray(paste(canvas, painted)), np.rint(painted * 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_extend_keeps_the_picture_and_whitens_the_new_area(mode: str) -> None:
    """A user who wants more sky keeps the photo as it was."""
    image, mask = texture(mode, (40, 30)), blob((40, 30), kind=0)
    bigger, bigger_mask = extend(image, mask, 10, 0, 7, 20)
    new = np.ones((50, 57), bool)
    new[0:30, 10:50] = False
    assert bigger.mode == mode
    assert bigger.size == bigger_mask.size == (57, 50)
    assert np.array_equal(np.asarray(bigger)[0:30, 10:50], np.asarray(image))
    assert (np.asarray(bigger_mask)[new] == 255).all()
    assert np.array_equal(np.asarray(bigger_mask)[0:30, 10:50], np.asarray(mask))
    assert not np.asarray(extend(image, None, 1, 0, 0, 0)[1])[:, 1:].any()
    canvas = cut(request(bigger, bigger_mask), NATIVE)
    result = np.asarray(paste(canvas, noise(canvas)))
    far = outside(bigger_mask, canvas.reach_px)
    assert np.array_equal(result[far], np.asarray(bigger)[far])


def test_extend_continues_the_edges() -> None:
    """The model starts from the neighbouring colours, not from black."""
    image = Image.new("RGB", (40, 40), (200, 10, 30))
    assert extend(image, None, 8, 8, 8, 8)[0].getcolors() == [(56 * 56, (200, 10, 30))]


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_an_extension_begins_as_the_picture_ends_and_gets_softer(mode: str) -> None:
    """A step at the old edge would be painted as an edge, and bare streaks of pixels as curtains."""
    image = texture(mode, (120, 80))
    left, top, right, bottom = 40, 30, 0, 60
    bigger = np.asarray(extend(image, None, left, top, right, bottom)[0], float)
    own = np.asarray(image, float)
    contrast = own.std()
    outer = [bigger[top : top + 80, left - d] for d in (1, 4, 12, 36)]
    assert np.abs(outer[0] - own[:, 0]).mean() < 0.5 * contrast  # of unrelated pixels it would be 1.1
    roughness = [np.abs(np.diff(column, axis=0)).mean() for column in outer]
    assert roughness == sorted(roughness, reverse=True)
    assert roughness[-1] < 0.05 * roughness[0]
    corner = bigger[top + 80 + 15 :, : left - 15]
    assert max(np.abs(np.diff(corner, axis=axis)).max() for axis in (0, 1)) < 0.1 * contrast


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ((0, 0, 0, 0), "extend: must be four numbers"),
        ((-1, 0, 0, 9), "extend: must be four numbers"),
        ((9000, 0, 0, 0), "extend: sides must be"),
    ],
)
def test_extend_refuses_nothing_negative_and_too_much(
    amounts: tuple[int, int, int, int], message: str
) -> None:
    """The request is refused before memory is taken for it."""
    with pytest.raises(RequestError, match=message):
        extend(Image.new("RGB", (40, 40)), None, *amounts)


def test_extend_refuses_a_mask_of_another_size() -> None:
    """The error names both sizes."""
    with pytest.raises(RequestError, match="40×30, but is 30×40"):
        extend(Image.new("RGB", (40, 30)), Image.new("L", (30, 40)), 1, 1, 1, 1)


def test_results_carry_the_callers_info_and_nothing_of_the_model() -> None:
    """A Python caller's ICC profile still sits in ``info`` when the result is saved."""
    image = texture("RGB", (64, 64))
    image.info["icc_profile"] = b"profile"
    canvas = cut(request(image, blob((64, 64), kind=0)), 64)
    assert paste(canvas, noise(canvas)).info == {"icc_profile": b"profile"}
    assert Picture(image, "PNG").exif is None
