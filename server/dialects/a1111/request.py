"""Requests to paint: from the fields of img2img and txt2img to an ``Order``, with the API's defaults.

A field that is null, unknown, or means nothing here is no error; what would change the picture and is
ignored is named in the answer. Upstream takes ``int(strength × steps) + 1`` steps, and we ``int(strength ×
steps)``, at least one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from inpaint.errors import RequestError
from inpaint.request import MAX_SIDE, MIN_SIDE, RANGES, Range, check_size
from server.dialects.a1111.fields import Reading, is_on
from server.dialects.a1111.pictures import Adaptation
from server.dialects.a1111.samplers import Chosen, chosen
from server.dialects.a1111.scripts import soft_inpainting
from server.dialects.pictures import Resize, generation
from server.errors import NotFoundError
from server.service.order import Order, source

T = TypeVar("T")

_MAX_SAMPLES = 16
_MOST = 0.99  # of strength: an inpainting model paints noisy pictures at 1
_FILLS = ("blur", "original", "noise", "neutral")
_RESIZES: tuple[Resize, ...] = ("stretch", "cover", "contain", "stretch")
_SIDE, _COUNT = Range(int, MIN_SIDE, MAX_SIDE), Range(int, 1, _MAX_SAMPLES)
_BLUR = Range(float, 0, 100)  # sigma in pixels; upstream's page ends at 64
_CUT_OFF = 2.5  # sigmas at which upstream ends its Gaussian
_IGNORED = ("subseed_strength", "tiling", "restore_faces", "enable_hr", "styles", "refiner_checkpoint")
_GRID = 8  # pixels; upstream paints pictures whose sides are multiples of it


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was read: what to paint, and what its answer repeats."""

    order: Order
    fields: Mapping[str, object]
    sampler: Chosen
    size: tuple[int, int]  # width and height as they were sent, which may mean nothing
    ignored: tuple[str, ...]
    send_images: bool
    include_init_images: bool

    @property
    def batch_size(self) -> int:
        """Pictures in a batch, of which there may be several."""
        return Reading(self.fields).whole("batch_size", 1, _COUNT)


def txt2img(fields: Mapping[str, object], in_channels: int | None) -> Asked:
    """Read a request for pictures from a prompt alone.

    Args:
        fields: of the body.
        in_channels: of the model's UNet, if it is known.

    Raises:
        RequestError: names the wrong field.
    """
    reading = Reading(fields)
    soft_inpainting(reading, offered=False)
    sampler, size = chosen(reading), _size(reading)
    width, height = (-(-side // _GRID) * _GRID for side in size)
    order = generation((width, height), _settings(reading, sampler), in_channels)
    return _asked(replace(order, output_format="png", metadata=True), reading, sampler, size)


def img2img(fields: Mapping[str, object], in_channels: int | None) -> Asked:
    """Read a request to paint a picture again, as a whole or inside a mask.

    Args:
        fields: as for :func:`txt2img`.
        in_channels: as for :func:`txt2img`.

    Raises:
        NotFoundError: it has no picture.
        RequestError: names the wrong field.
    """
    reading = Reading(fields)
    soft, sampler = soft_inpainting(reading, offered=True), chosen(reading)
    image, mask = _init_image(reading), _first(reading, "mask")
    masked_only = mask is not None and reading.flag("inpaint_full_res", default=True)
    size = None if masked_only else _size(reading)
    blur, most = _blur(reading), 1.0 if in_channels == 4 else _MOST
    settings = _settings(reading, sampler) | _mask_settings(reading, blur, soft=soft)
    settings |= {"strength": _strength(reading, most), "area": "auto" if masked_only else "whole"}
    order = Order(
        image=source("init_images", image),
        mask=None if mask is None else source("mask", mask),
        settings=settings,
        output_format="png",
        adapt=_adaptation(reading, size, blur if soft else None),
        size=size,
        metadata=True,
    )
    return _asked(order, reading, sampler, size or _ignored_size(reading))


def _asked(order: Order, reading: Reading, sampler: Chosen, size: tuple[int, int]) -> Asked:
    named = ((name, reading.get(name)) for name in _IGNORED)
    return Asked(
        order=order,
        fields=reading.fields,
        sampler=sampler,
        size=size,
        ignored=tuple(name for name, value in named if value and is_on(value) is not False),
        send_images=reading.flag("send_images", default=True),
        include_init_images=reading.flag("include_init_images", default=False),
    )


def _settings(reading: Reading, sampler: Chosen) -> dict[str, object]:
    """Return the settings that both requests have."""
    samples = reading.whole("n_iter", 1, _COUNT) * reading.whole("batch_size", 1, _COUNT)
    if samples > _MAX_SAMPLES:
        raise RequestError("batch_size", f"n_iter × batch_size must be at most {_MAX_SAMPLES}, not {samples}")
    return {
        "prompt": reading.text("prompt"),
        # Upstream has zeros for an empty one, as SDXL was trained; so has None here.
        "negative_prompt": reading.text("negative_prompt") or None,
        "samples": samples,
        "scheduler": sampler.scheduler,
        "num_inference_steps": reading.whole("steps", 50, RANGES["num_inference_steps"]),
        "guidance_scale": reading.number("cfg_scale", 7.0, RANGES["guidance_scale"]),
        "seed": reading.whole("seed", -1, RANGES["seed"]),
    }


def _mask_settings(reading: Reading, blur: tuple[float, float], *, soft: bool) -> dict[str, object]:
    """Return the settings that concern the mask; a soft one has its blur in itself."""
    return {
        "padding": reading.whole("inpaint_full_res_padding", 0, RANGES["padding"]),
        "grow": 0,
        "feather": 0 if soft else int(_CUT_OFF * max(blur) + 0.5),
        "lengths": "picture",
        "soft": soft,
        "fill": _choice(reading, "inpainting_fill", _FILLS),
    }


def _adaptation(
    reading: Reading, size: tuple[int, int] | None, blur: tuple[float, float] | None
) -> Adaptation:
    return Adaptation(
        size=size,
        how=_choice(reading, "resize_mode", _RESIZES),
        invert=reading.flag("inpainting_mask_invert", default=False),
        blur=blur,
    )


def _strength(reading: Reading, most: float) -> float:
    """Return the strength: that of one step at least, and ``most`` unless that is less than a step."""
    steps = reading.whole("steps", 50, RANGES["num_inference_steps"])
    given = reading.number("denoising_strength", 0.75, Range(float, 0, 1))
    one_step = (1 + 1e-9) / steps  # 49 × (1 / 49) is below 1
    found = min(max(given, one_step), most)
    return found if int(steps * found) else 1.0


def _blur(reading: Reading) -> tuple[float, float]:
    """Return the sigmas of the mask's blur in x and y; ``mask_blur`` sets both."""
    if reading.get("mask_blur") is not None:
        both = reading.number("mask_blur", 4, _BLUR)
        return both, both
    return reading.number("mask_blur_x", 4, _BLUR), reading.number("mask_blur_y", 4, _BLUR)


def _size(reading: Reading) -> tuple[int, int]:
    size = reading.whole("width", 512, _SIDE), reading.whole("height", 512, _SIDE)
    check_size("width", size)
    return size


def _ignored_size(reading: Reading) -> tuple[int, int]:
    """Return width and height where they mean nothing, so that no value of theirs is wrong."""
    try:
        return _size(reading)
    except RequestError:
        return 512, 512


def _choice(reading: Reading, name: str, choices: tuple[T, ...]) -> T:
    return choices[reading.whole(name, 0, Range(int, 0, len(choices) - 1))]


def _init_image(reading: Reading) -> object:
    if (image := _first(reading, "init_images")) is None:
        raise NotFoundError("Init image not found")
    return image


def _first(reading: Reading, name: str) -> object:
    """Return a picture, from a list of one or on its own; None if there is none."""
    given = reading.get(name)
    pictures = [each for each in (given if isinstance(given, list) else [given]) if each not in (None, "")]
    if len(pictures) > 1:
        raise RequestError(name, f"must hold one picture, not {len(pictures)}; send a request for each")
    return pictures[0] if pictures else None
