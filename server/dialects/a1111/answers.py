"""The answers to img2img, txt2img and png-info; sd-backend-client checks every type in ``info``."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import inpaint
from inpaint.images.infotext import pairs_of
from inpaint.images.metadata import PNG_TEXT, texts_of
from server.dialects.a1111.fields import Reading
from server.dialects.a1111.lists import Model
from server.dialects.a1111.models import Pictures, PngInfo
from server.dialects.a1111.request import Asked
from server.service.accounting import settings_of
from server.service.order import decode_source
from server.service.pictures import MAX_KEPT_BYTES, check_file_size
from server.service.service import Painted
from server.storage.requests import Record

VERSION = f"sdxl-inpaint {inpaint.__version__}"
# What is the same for every request: there are no subseeds, face models, VAEs to choose, or styles.
_SAME: Mapping[str, object] = {
    "subseed": -1,
    "subseed_strength": 0,
    "restore_faces": False,
    "face_restoration_model": None,
    "sd_model_hash": "",
    "sd_vae_name": None,
    "sd_vae_hash": None,
    "seed_resize_from_w": -1,
    "seed_resize_from_h": -1,
    "index_of_first_image": 0,
    "styles": (),
    "clip_skip": 1,
    "version": VERSION,
}
_PICTURES = ("init_images", "mask")
_MAX_ITEM = 100_000  # characters of a text in a strange file


def pictures(asked: Asked, record: Record, model: Model, painted: Painted | None) -> Pictures:
    """Return the answer to a request.

    Args:
        asked: the request as it was read.
        record: of the request.
        model: that was to paint it.
        painted: None if the request was interrupted, which answers no pictures.
    """
    files = painted.files if painted else []
    texts = [texts_of(file).get(PNG_TEXT, "") for file in files]
    info = _info(asked, record, painted.size if painted else asked.size)
    info |= {"sd_model_name": model.name, "infotexts": texts}
    info["is_using_inpainting_conditioning"] = model.in_channels != 4
    info["extra_generation_params"] = _extra(asked, painted.warnings if painted else ())
    return Pictures(
        images=[base64.b64encode(file).decode() for file in files] if asked.send_images else [],
        parameters=_parameters(asked),
        info=json.dumps(info),
    )


def _info(asked: Asked, record: Record, size: tuple[int, int]) -> dict[str, Any]:
    settings, seeds, reading = settings_of(record), list(record.seeds), Reading(asked.fields)
    prompt, negative = reading.text("prompt"), reading.text("negative_prompt")
    return {
        **_SAME,
        "prompt": prompt,
        "all_prompts": [prompt] * len(seeds),
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(seeds),
        "seed": seeds[0],
        "all_seeds": seeds,
        "all_subseeds": [-1] * len(seeds),
        "width": size[0],
        "height": size[1],
        "sampler_name": asked.sampler.name,
        "cfg_scale": settings["guidance_scale"],
        "steps": settings["num_inference_steps"],
        "batch_size": asked.batch_size,
        "denoising_strength": settings["strength"],
        "job_timestamp": timestamp(record.created_at),
    }


def _extra(asked: Asked, warnings: tuple[str, ...]) -> dict[str, str]:
    """Return what a client may show: the schedule, the sampler that was replaced, the fields ignored."""
    found = {
        "Schedule type": asked.sampler.schedule,
        "Instead of": asked.sampler.instead_of,
        "Ignored": ", ".join(asked.ignored),
        "Warnings": "; ".join(warnings),
    }
    return {name: text for name, text in found.items() if text}


def _parameters(asked: Asked) -> dict[str, Any]:
    """Return the request without its pictures, and without what JSON cannot hold, such as 1e999."""
    left_out = () if asked.include_init_images else _PICTURES
    return {name: value for name, value in asked.fields.items() if name not in left_out and _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def timestamp(seconds: float) -> str:
    """Return a time as A1111 writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%S")


def png_info(data: bytes) -> PngInfo:
    """Return what a picture says about itself, from base64 or a data: URI.

    Raises:
        RequestError: it is no picture, or no base64.
        TooLargeError: the file is larger than our own of the largest picture.
    """
    file = decode_source("image", data)
    check_file_size("image", file, MAX_KEPT_BYTES)
    texts: Mapping[str, str] = texts_of(file)
    info = texts.get(PNG_TEXT, "")
    items = {name: text for name, text in texts.items() if name != PNG_TEXT and len(text) <= _MAX_ITEM}
    return PngInfo(info=info, items=items, parameters=pairs_of(info))
