"""The bodies of edits and generations, as orders."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from inpaint.errors import RequestError
from inpaint.request import Range, check_settings
from server.dialects.openai.body import Body
from server.dialects.openai.masks import read_mask
from server.dialects.pictures import generation
from server.http.body import Fields
from server.service.order import Format, Order, Source, source

Kind = Literal["image_edit", "image_generation"]

# Steps of the sampler; with the others OpenAI's newer names, with the last two older ones.
QUALITY_STEPS: Mapping[str, int] = {
    "auto": 25,
    "low": 15,
    "medium": 25,
    "high": 40,
    "xhigh": 50,
    "max": 60,
    "standard": 25,
    "hd": 40,
}
FORMATS: tuple[Format, ...] = get_args(Format)
RESPONSE_FORMATS = ("b64_json", "url")
BACKGROUNDS = ("auto", "opaque")
COUNT, PARTIAL, COMPRESSION = Range(int, 1, 10), Range(int, 0, 3), Range(int, 0, 100)
GENERATED = (1024, 1024)  # the size of ``auto``


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request: what to paint, and how to answer."""

    kind: Kind
    order: Order
    quality: str  # as in the answer
    as_url: bool
    stream: bool
    partial_images: int
    notes: tuple[str, ...] = ()  # what of the request has no effect


def read_edit(fields: Fields) -> Wanted:
    """Read the body of an edit.

    Raises:
        RequestError: names the field that is wrong.
    """
    body = Body(fields)
    if "markup" in body:
        raise RequestError("markup", "is not read here; send a mask whose transparent part is edited")
    image, others = _picture("image", body.given("image") or body.given("images"))
    if image is None:
        raise RequestError("image", "is required")
    mask, _ = _picture("mask", body.given("mask") or body.given("mask_image"))
    order = Order(
        image=image,
        mask=mask,
        settings=_settings(body),
        adapt=read_mask,
        size=body.size(),
        keep_shape=True,
    )
    notes = (f"image: only the first of {1 + others} pictures is edited",) if others else ()
    return _wanted("image_edit", body, order, notes)


def read_generation(fields: Fields, in_channels: int | None) -> Wanted:
    """Read the body of a generation, for a model whose UNet has ``in_channels``, if that is known.

    Raises:
        RequestError: names the field that is wrong.
    """
    body = Body(fields)
    order = generation(body.size() or GENERATED, _settings(body), in_channels)
    return _wanted("image_generation", body, order)


def _wanted(kind: Kind, body: Body, order: Order, notes: tuple[str, ...] = ()) -> Wanted:
    formats: dict[str, Format] = {name: name for name in FORMATS}
    output_format = formats[body.choice("output_format", FORMATS, "png")]
    compression = body.whole("output_compression", COMPRESSION, 100)
    if body.given("background") == "transparent":
        raise RequestError("background", "cannot be transparent: painted pictures are opaque")
    body.choice("background", BACKGROUNDS, "auto")
    return Wanted(
        kind=kind,
        order=replace(order, output_format=output_format, quality=max(1, compression)),
        quality=body.choice("quality", tuple(QUALITY_STEPS), "auto"),
        as_url=body.choice("response_format", RESPONSE_FORMATS, "b64_json") == "url",
        stream=body.flag("stream"),
        partial_images=body.whole("partial_images", PARTIAL, 0),
        notes=notes,
    )


def _settings(body: Body) -> dict[str, object]:
    steps = QUALITY_STEPS[body.choice("quality", tuple(QUALITY_STEPS), "auto")]
    prompt, samples = body.prompt(), body.whole("n", COUNT, 1)
    settings = {"num_inference_steps": steps, **body.own_settings()}
    check_settings({"prompt": prompt, **settings})
    return {"prompt": prompt, "samples": samples, **settings}


def _picture(name: str, value: object) -> tuple[Source | None, int]:
    """Return the first picture of a field, and how many follow it; None if there is none.

    Raises:
        RequestError: it is none.
    """
    several = value if isinstance(value, list) else [value]
    first = several[0] if several else None
    if isinstance(first, dict):  # as in OpenAI's JSON bodies
        first = first.get("image_url", first)
    return None if first is None else source(name, first), len(several) - 1
