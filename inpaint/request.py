"""What a caller wants and what a caller gets: two frozen values and one table of ranges."""

import math
import secrets
import struct
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from PIL import Image

from inpaint.errors import RequestError
from inpaint.lora.spec import LoraUse, combine
from inpaint.schedulers import canonical_name

Area = Literal["auto", "whole"]
Fill = Literal["original", "telea", "blur", "neutral", "noise"]
AREAS: tuple[str, ...] = get_args(Area)
FILLS: tuple[str, ...] = get_args(Fill)

EXIF_ORIENTATION = 0x0112
MIN_SIDE, MAX_SIDE, MAX_PIXELS, MAX_ASPECT = 16, 8192, 25_000_000, 16


@dataclass(frozen=True, slots=True)
class Range:
    """The values a numeric field may take; ``above`` excludes ``low`` itself."""

    kind: type[int] | type[float]
    low: float
    high: float
    above: bool = False

    def __str__(self) -> str:
        what = "a whole number" if self.kind is int else "a number"
        low, high = f"{self.low:.15g}", f"{self.high:.15g}"
        return f"{what} above {low}, at most {high}" if self.above else f"{what} from {low} to {high}"

    def check(self, name: str, value: object) -> None:
        """Raise a ``RequestError`` naming the field unless ``value`` is of the kind and inside."""
        right_kind = isinstance(value, int) if self.kind is int else isinstance(value, int | float)
        if isinstance(value, bool) or not right_kind or not self._holds(value):  # type: ignore[arg-type]
            raise RequestError(name, f"must be {self}, not {value!r}")

    def _holds(self, value: float) -> bool:
        # NaN is not inside; and a number of 400 digits is no float, but compares like any other.
        return self.low <= value <= self.high and not (self.above and value == self.low)


# The one table of ranges: the command line prints it, the HTTP dialects narrow it.
RANGES: Mapping[str, Range] = {
    "samples": Range(int, 1, 64),
    "num_inference_steps": Range(int, 1, 150),
    "guidance_scale": Range(float, 0, 50),
    "seed": Range(int, -1, 999_999_999_999_999),
    "strength": Range(float, 0, 1, above=True),
    "padding": Range(int, 0, 1024),
    "grow": Range(int, 0, 256),
    "feather": Range(int, 0, 256),
}


@dataclass(frozen=True, slots=True, eq=False)
class InpaintRequest:
    """One picture to repaint where its mask is white.

    The mask is read as luminance: 128 and above is repainted (with ``soft``, grey from 8 on is strength). It
    has the size of the picture. Both are turned upright by their own EXIF orientation first.

    ``seed=-1`` draws a random one. ``padding``, ``grow`` and ``feather`` are pixels at a 1024-pixel working
    size and scale with it. ``guidance_interval`` (from, to) are fractions of the steps taken; outside it the
    UNet sees the prompt alone, which halves a step's cost and changes the picture.

    ``loras`` may be given in any of the notations of :mod:`inpaint.lora.spec`; tags such as
    ``<lora:style:0.8>`` are taken out of ``prompt`` and added to them.

    Raises:
        RequestError: a field is out of its range (see ``RANGES``), or two fields do not fit together.
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
    fill: Fill = "original"
    color_match: bool = True
    soft: bool = False
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    loras: tuple[LoraUse, ...] = ()

    def __post_init__(self) -> None:
        check_settings({name: getattr(self, name) for name in SETTINGS})
        object.__setattr__(self, "scheduler", canonical_name(self.scheduler))
        # A list where the settings came through JSON.
        begin, end = self.guidance_interval
        object.__setattr__(self, "guidance_interval", (float(begin), float(end)))
        prompt, loras = combine(self.prompt, self.loras)
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "loras", loras)
        _check_pictures(self.image, self.mask)

    @property
    def steps_to_run(self) -> int:
        """How many of ``num_inference_steps`` are taken at this ``strength`` (diffusers' rounding)."""
        return int(self.num_inference_steps * self.strength)

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
    """The painted pictures, one per sample, in the size of the request's picture.

    ``box`` is the (left, top, right, bottom) part that was painted, in pixels of the upright picture.
    ``warnings`` say what the caller should know, such as a prompt that was cut.
    ``timings`` are seconds: ``queue_s``, ``encode_s``, ``denoise_s``, ``decode_s``.
    """

    images: list[Image.Image]
    seeds: list[int]
    box: tuple[int, int, int, int]
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)


# Every field but the two pictures, in the order of the class.
SETTINGS: tuple[str, ...] = tuple(f.name for f in fields(InpaintRequest) if f.name not in ("image", "mask"))

# The only table of defaults: the command line, the HTTP API and the pictures' metadata use it.
DEFAULTS: Mapping[str, Any] = {f.name: f.default for f in fields(InpaintRequest) if f.default is not MISSING}


def check_settings(settings: Mapping[str, object]) -> None:
    """Check any of a request's fields other than its pictures, before the pictures are read.

    Raises:
        RequestError: names the field and what would be right.
    """
    for name, value in settings.items():
        _check_setting(name, value)
    combine(str(settings.get("prompt", "")), settings.get("loras"))
    steps, strength = settings.get("num_inference_steps"), settings.get("strength")
    if isinstance(steps, int) and isinstance(strength, int | float) and int(steps * strength) < 1:
        raise RequestError(
            "strength",
            f"{steps} steps × strength {strength:g} leaves less than one step to paint; "
            f"use at least {math.ceil(1 / strength)} steps or a higher strength",
        )


def _check_setting(name: str, value: object) -> None:
    choices = {"area": AREAS, "fill": FILLS}
    if name in RANGES:
        RANGES[name].check(name, value)
    elif name in choices and value not in choices[name]:
        raise RequestError(name, f"must be one of {', '.join(choices[name])}, not {value!r}")
    elif name in ("color_match", "soft") and not isinstance(value, bool):
        raise RequestError(name, f"must be true or false, not {value!r}")
    elif name == "scheduler":
        canonical_name(str(value))
    elif name == "guidance_interval":
        _check_interval(name, value)
    elif name in ("prompt", "negative_prompt"):
        _check_text(name, value)


def _check_interval(name: str, value: object) -> None:
    ends = value if isinstance(value, tuple | list) else ()
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    # NaN fails the comparison, and so does an empty interval: guidance_scale=1 is how to ask for none.
    if len(ends) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise RequestError(
            name, f"must be two rising fractions of the steps from 0 to 1, such as 0.2 and 0.8, not {value!r}"
        )


def _check_text(name: str, value: object) -> None:
    if value is None and name == "negative_prompt":
        return
    if not isinstance(value, str):
        raise RequestError(name, f"must be text, not {type(value).__name__}")


def _check_pictures(image: object, mask: object) -> None:
    for name, picture in (("image", image), ("mask", mask)):
        if not isinstance(picture, Image.Image):
            raise RequestError(name, f"must be a PIL picture, not {type(picture).__name__}")
        check_size(name, picture.size)
    assert isinstance(image, Image.Image)
    assert isinstance(mask, Image.Image)
    if upright_size(image) != upright_size(mask):
        (iw, ih), (mw, mh) = upright_size(image), upright_size(mask)
        raise RequestError("mask", f"must have the picture's size {iw}×{ih}, but is {mw}×{mh}")


def check_size(name: str, size: tuple[int, int]) -> None:
    """Refuse pictures too small, too large or too narrow to paint, from the size alone.

    Raises:
        RequestError: names the field, its size and the limit.
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
    """The picture's EXIF orientation, 1 to 8; 1 where it has none or its EXIF is broken."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, OverflowError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) after the picture's EXIF orientation is applied."""
    width, height = image.size
    return (height, width) if orientation(image) in (5, 6, 7, 8) else (width, height)
