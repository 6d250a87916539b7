"""A request, its result, and the ranges of the request's fields."""

import math
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from PIL import Image

from inpaint.errors import RequestError, shown
from inpaint.lora.spec import LoraUse, combine
from inpaint.pace import PACES, CallPlan, Pace, call_plan
from inpaint.prompt_weights import check_prompt
from inpaint.schedulers import canonical_name

Area = Literal["auto", "whole"]
Fill = Literal["original", "patch", "telea", "blur", "neutral", "noise"]
MaskChannel = Literal["luminance", "alpha"]
Lengths = Literal["box", "picture"]
AREAS: tuple[str, ...] = get_args(Area)
FILLS: tuple[str, ...] = get_args(Fill)
MASK_CHANNELS: tuple[str, ...] = get_args(MaskChannel)
LENGTHS: tuple[str, ...] = get_args(Lengths)

EXIF_ORIENTATION = 0x0112
_XMP = ("xmp", "XML:com.adobe.xmp")  # as Pillow calls it
MIN_SIDE, MAX_SIDE, MAX_PIXELS, MAX_ASPECT = 16, 8192, 25_000_000, 16
_SAME_SHAPE, _FEW_PIXELS = (
    0.05,
    8,
)  # by which a mask that is resized may have another shape: a part, or pixels


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a numeric field may have; ``above`` excludes ``low`` itself."""

    kind: type[int] | type[float]
    low: float
    high: float
    above: bool = False

    def __str__(self) -> str:
        what = "a whole number" if self.kind is int else "a number"
        low, high = f"{self.low:.15g}", f"{self.high:.15g}"
        return f"{what} above {low}, at most {high}" if self.above else f"{what} from {low} to {high}"

    def check(self, name: str, value: object) -> None:
        """Check a value of the field ``name``.

        Raises:
            RequestError: the value is of another kind, or out of the range.
        """
        right_kind = isinstance(value, int) if self.kind is int else isinstance(value, int | float)
        if isinstance(value, bool) or not right_kind or not self._holds(value):  # type: ignore[arg-type]
            raise RequestError(name, f"must be {self}, not {shown(value)}")

    def _holds(self, value: float) -> bool:
        # NaN is outside. An int of 400 digits does not fit into a float, but compares like any other.
        return self.low <= value <= self.high and not (self.above and value == self.low)


# The only table of ranges: the command line prints it, the HTTP dialects narrow it.
RANGES: Mapping[str, Range] = {
    "samples": Range(int, 1, 64),
    "num_inference_steps": Range(int, 1, 150),
    "guidance_scale": Range(float, 0, 50),
    "guidance_rescale": Range(float, 0, 1),
    "seed": Range(int, -1, 999_999_999_999_999),
    "strength": Range(float, 0, 1, above=True),
    "padding": Range(int, 0, 1024),
    "grow": Range(int, 0, 256),
    "feather": Range(int, 0, 256),
}
# Pixels by which a mask is widened to erase, which makes no request; its range is that of ``grow``.
ERASE_GROW = 6


@dataclass(frozen=True, slots=True, eq=False)
class InpaintRequest:
    """A picture, a mask of what to repaint in it, and the settings; checked when it is made, then frozen.

    Lengths (``padding``, ``grow``, ``feather``) are in units of 1/1024 of the side of the box that is
    painted, so that one setting fits a thumbnail and a poster: pixels at SDXL's working size of 1024². With
    ``lengths`` "picture" they are pixels of the picture, as in most other programs.

    Attributes:
        image: the picture, in any PIL mode. It is turned upright by its EXIF orientation. Its sides are 16 to
            8192 pixels, its area is at most 25 megapixels, and its shape at most 16:1.
        mask: white (luminance 128 to 255) is repainted, black stays; see ``soft`` for grey, and
            ``mask_channel``, ``invert_mask`` and ``resize_mask`` for masks of other programs. It has the size
            of the picture after both are turned upright. A photograph in its place is refused.
        prompt: a description of what to paint inside the mask. ``(word:1.3)`` gives a word more weight. Tags
            such as ``<lora:style:0.8>`` are taken out and added to ``loras``. ``BREAK`` begins the next chunk
            of 75 tokens; 8 chunks are read at most.
        negative_prompt: a description of what not to paint. None is not the empty text: where the model was
            trained so, its embedding is zeros.
        samples: the number of pictures to paint; a whole number from 1 to 64.
        scheduler: the sampler, a name from ``SCHEDULERS`` in any letter case, or A1111's for it.
        num_inference_steps: denoising steps at strength 1, see ``steps_to_run``; a whole number from 1 to
            150.
        guidance_scale: how closely the picture follows the prompt (classifier-free guidance, see Ho and
            Salimans, 2022); a number from 0 to 50. At 1 or below there is no guidance: steps cost half, and
            ``negative_prompt`` has no effect.
        seed: of the random numbers. A seed paints the same picture again; the samples' seeds count up from
            it, and -1 draws one. A whole number from -1 to 999999999999999.
        strength: how much of the content under the mask is replaced, as the fraction of the steps that is
            taken; a number above 0, at most 1.
        area: ``auto`` paints the box around the mask at the model's native size, and parts of a mask that are
            far apart in up to 8 boxes, each of which costs as much as one; ``whole`` scales the whole
            picture to about that size, and loses detail in a large one.
        padding: context around the mask in the box of ``auto``, in units; a whole number from 0 to 1024.
        grow: widens the mask on all sides, in units; a whole number from 0 to 256.
        feather: the width of the blend from the painted part to the picture, outside the grown mask, in
            units; a whole number from 0 to 256.
        lengths: what ``padding``, ``grow`` and ``feather`` count: ``box`` units, ``picture`` pixels of the
            picture.
        fill: the content under the mask before painting, which shows through at a strength below 1:
            ``original`` (the picture's), ``patch`` (patches of the surroundings, texture included), ``telea``
            (the edges' colours continued inwards), ``blur`` (the surroundings, blurred), ``neutral`` (grey)
            or ``noise`` (the surroundings' pixels, shuffled).
        color_match: fits the colours of the painted part to the picture around it.
        soft: reads the mask's grey as strength, from 8 (barely changed) to 255 (repainted).
        mask_channel: what the mask repaints: ``luminance`` what is white in it, ``alpha`` what is transparent
            in it, as in masks for OpenAI's API.
        invert_mask: repaints what the mask would keep, and keeps what it would repaint.
        resize_mask: takes a mask of the picture's shape in another size, and resizes it; thin strokes
            survive.
        guidance_interval: the fractions of the steps, 0 to 1 and rising, between which guidance is on. A
            step outside it costs half; the picture changes. Source: Kynkäänniemi et al., 2024.
        guidance_rescale: how far guidance is kept from raising the contrast: 0 not at all, 1 to the standard
            deviation of the prediction with the prompt; about 0.7 suits models with zero terminal SNR. A
            number from 0 to 1. Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are
            Flawed", 2024.
        pace: ``exact`` makes every UNet call that the scheduler asks for; ``near`` forecasts about half of
            them, see :mod:`inpaint.pace`. The picture of a seed then differs a little from the exact one.
        loras: names and scales (-4 to 4) of LoRA files, 8 at most; they may be given in any notation of
            :mod:`inpaint.lora.spec`.

    Raises:
        RequestError: a field is out of its range, or two fields do not fit together.
    """

    image: Image.Image
    mask: Image.Image
    prompt: str
    negative_prompt: str | None = None
    samples: int = 1
    scheduler: str = "DPM2 Karras"
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    seed: int = -1
    strength: float = 0.9
    area: Area = "auto"
    padding: int = 32
    grow: int = 8
    feather: int = 16
    lengths: Lengths = "box"
    fill: Fill = "original"
    color_match: bool = True
    soft: bool = False
    mask_channel: MaskChannel = "luminance"
    invert_mask: bool = False
    resize_mask: bool = False
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    pace: Pace = "exact"
    loras: tuple[LoraUse, ...] = ()

    def __post_init__(self) -> None:
        check_settings({name: getattr(self, name) for name in SETTINGS})
        object.__setattr__(self, "scheduler", canonical_name(self.scheduler))
        # JSON gives a list.
        begin, end = self.guidance_interval
        object.__setattr__(self, "guidance_interval", (float(begin), float(end)))
        prompt, loras = combine(self.prompt, self.loras)
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "loras", loras)
        _check_pictures(self.image, self.mask, resize=self.resize_mask)

    @property
    def steps_to_run(self) -> int:
        """The steps taken at this ``strength``: rounded down, as in diffusers."""
        return int(self.num_inference_steps * self.strength)

    @property
    def call_plan(self) -> CallPlan:
        """The UNet calls of each sample: those that are made and those that are forecast."""
        return call_plan(
            self.scheduler, self.num_inference_steps, self.strength, self.pace, self.guidance_interval
        )

    @property
    def seeds(self) -> list[int]:
        """The seed of each sample. Only valid once a seed is drawn, see :meth:`with_seed`."""
        assert self.seed >= 0, "with_seed() draws a seed first"
        return seeds_from(self.seed, self.samples)

    def with_seed(self) -> "InpaintRequest":
        """Return a copy with a drawn seed in place of -1, or the request itself if it has a seed."""
        return replace(self, seed=drawn_seed(self.seed)) if self.seed == -1 else self


def drawn_seed(seed: int) -> int:
    """Return ``seed``, or 32 random bits in place of -1."""
    # Not from the module random: torch.compile in another thread sets its state back to what it was.
    return secrets.randbits(32) if seed == -1 else seed


def seeds_from(first: int, samples: int) -> list[int]:
    """Return the seeds of a request's samples, which count up from the first."""
    return list(range(first, first + samples))


@dataclass(frozen=True, slots=True, eq=False)
class InpaintResult:
    """The painted pictures of one request.

    Attributes:
        images: one for each sample, in the size of the request's upright picture.
        seeds: one for each sample.
        box: the (left, top, right, bottom) part around the whole mask, in pixels of the upright picture; no
            pixel outside it has changed.
        warnings: sentences for the caller, such as that a prompt was cut.
        timings: seconds by stage: ``queue_s``, ``encode_s``, ``denoise_s``, ``decode_s``.
        boxes: the parts that were painted, like ``box``, if they were several, the one with the largest part
            of the mask first; else empty.
    """

    images: Sequence[Image.Image]
    seeds: list[int]
    box: tuple[int, int, int, int]
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    boxes: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def changed(self) -> tuple[int, int, int, int]:
        """The part outside of which no pixel has changed: around all boxes."""
        lefts, tops, rights, bottoms = zip(*(self.boxes or (self.box,)), strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)


# All fields except the two pictures, in the order of the class.
SETTINGS: tuple[str, ...] = tuple(f.name for f in fields(InpaintRequest) if f.name not in ("image", "mask"))

# The only table of defaults: the command line, the HTTP API and the pictures' metadata use it.
DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in fields(InpaintRequest) if f.default is not MISSING}

# The fields that say how a mask is read, with their values for one that was read already.
MASK_WAS_READ: Mapping[str, Any] = {
    name: DEFAULTS[name] for name in ("mask_channel", "invert_mask", "resize_mask")
}


def check_settings(settings: Mapping[str, object]) -> None:
    """Check some of a request's fields other than its pictures, before the pictures are read.

    Raises:
        RequestError: a field has a wrong value.
    """
    for name, value in settings.items():
        _check_setting(name, value)
    combine(str(settings.get("prompt", "")), settings.get("loras"))
    steps, strength = settings.get("num_inference_steps"), settings.get("strength")
    if isinstance(steps, int) and isinstance(strength, int | float) and int(steps * strength) < 1:
        possible = strength * RANGES["num_inference_steps"].high >= 1  # also, 1 / 5e-324 is infinite
        more = f"at least {math.ceil(1 / strength)} steps or " if possible else ""
        raise RequestError(
            "strength",
            f"{steps} steps × strength {strength:g} leaves less than one step to paint; "
            f"use {more}a higher strength",
        )


_BOOLEANS = ("color_match", "soft", "invert_mask", "resize_mask")


def _check_setting(name: str, value: object) -> None:
    choices = {"area": AREAS, "fill": FILLS, "mask_channel": MASK_CHANNELS, "lengths": LENGTHS, "pace": PACES}
    if name in RANGES:
        RANGES[name].check(name, value)
    elif name in choices and value not in choices[name]:
        raise RequestError(name, f"must be one of {', '.join(choices[name])}, not {shown(value)}")
    elif name in _BOOLEANS and not isinstance(value, bool):
        raise RequestError(name, f"must be true or false, not {shown(value)}")
    elif name == "scheduler":
        canonical_name(str(value))
    elif name == "guidance_interval":
        _check_interval(name, value)
    elif name in ("prompt", "negative_prompt"):
        _check_text(name, value)


def _check_interval(name: str, value: object) -> None:
    ends = value if isinstance(value, tuple | list) else ()
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    # NaN fails the comparison. An empty interval is refused, too: guidance_scale=1 turns guidance off.
    if len(ends) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise RequestError(
            name,
            f"must be two rising fractions of the steps from 0 to 1, such as 0.2 and 0.8, not {shown(value)}",
        )


def _check_text(name: str, value: object) -> None:
    if value is None and name == "negative_prompt":
        return
    if not isinstance(value, str):
        raise RequestError(name, f"must be text, not {type(value).__name__}")
    check_prompt(name, value)


def _check_pictures(image: object, mask: object, *, resize: bool) -> None:
    for name, picture in (("image", image), ("mask", mask)):
        if not isinstance(picture, Image.Image):
            raise RequestError(name, f"must be a PIL picture, not {type(picture).__name__}")
        check_size(name, picture.size)
    assert isinstance(image, Image.Image)
    assert isinstance(mask, Image.Image)
    check_same_size(upright_size(image), upright_size(mask), resize=resize)


def check_same_size(image: tuple[int, int], mask: tuple[int, int], *, resize: bool = False) -> None:
    """Check that a mask has its picture's (width, height), both upright; with ``resize``, only its shape.

    Raises:
        RequestError: it has not.
    """
    if image == mask:
        return
    (iw, ih), (mw, mh) = image, mask
    few = max(abs(iw - mw), abs(ih - mh)) <= _FEW_PIXELS
    alike = few or abs(iw * mh - ih * mw) <= _SAME_SHAPE * ih * mw
    if not resize:
        hint = "; with resize_mask (--resize-mask) it is resized" if alike else ""
        raise RequestError("mask", f"must have the picture's size {iw}×{ih}, but is {mw}×{mh}{hint}")
    if not alike:
        raise RequestError(
            "mask", f"must have the shape of the picture, which is {iw}×{ih}, to be resized, but is {mw}×{mh}"
        )


def check_size(name: str, size: tuple[int, int]) -> None:
    """Check a picture's (width, height) in pixels.

    Raises:
        RequestError: it is too small, too large or too narrow to paint.
    """
    width, height = size
    if min(size) < MIN_SIDE or max(size) > MAX_SIDE:
        raise RequestError(name, f"sides must be {MIN_SIDE} to {MAX_SIDE} pixels, but it is {width}×{height}")
    if width * height > MAX_PIXELS:
        raise RequestError(
            name, f"must have at most {MAX_PIXELS // 10**6} megapixels, but it is {width}×{height}"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise RequestError(name, f"must not be narrower than 1:{MAX_ASPECT}, but it is {width}×{height}")


def orientation(image: Image.Image) -> int:
    """Return the picture's EXIF orientation, 1 to 8; 1 if it has none or its EXIF is broken.

    Only EXIF counts, as in browsers; Pillow's ``getexif`` would look into XMP as well. A TIFF is turned by
    Pillow itself, which gives its size upright from the start.
    """
    try:
        if image.format == "PNG" and "exif" not in image.info:
            image.load()  # it may be behind the pixels
        value = _exif(image).get(EXIF_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, OverflowError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def _exif(image: Image.Image) -> Image.Exif:
    if image.format is None and not any(name in image.info for name in _XMP):
        return image.getexif()  # of a picture in memory, whose tags its maker may have set
    tags = Image.Exif()
    tags.load(image.info.get("exif") or b"")
    return tags


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) after the picture's EXIF orientation is applied."""
    width, height = image.size
    return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)
