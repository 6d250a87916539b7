"""Refining: the pictures of a request at the pace ``near`` are painted again exactly, as a new request.

The new request gets copies of the old one's files, so that each lives and expires for itself.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from PIL import Image

from inpaint.canvas.difference import distance_db
from inpaint.canvas.mask import Box, fitted, strength_of
from inpaint.errors import RequestError
from inpaint.pace import UNCHANGED
from inpaint.request import InpaintRequest
from server.errors import NotFoundError
from server.service.accounting import model_of, pixels_of, settings_of, warnings_of
from server.service.caller import Caller
from server.service.order import Order
from server.service.parts import Parts
from server.service.patches import Written, keeps_patch, patch_name, wants_boxes
from server.service.pictures import IMAGE, MASK, Prepared
from server.service.pixel_budget import decoded_pixels
from server.service.service import Service
from server.storage.requests import Record

_EXPIRED = "the pictures of this request have expired; send it again with pace exact"


async def prepare_again(
    service: Service, caller: Caller, draft: Record, seed: int | None
) -> tuple[Record, Mapping[str, bytes]]:
    """Return the record and the files of the request that repaints a draft exactly.

    Args:
        service: of this process.
        caller: who pays.
        draft: a request of this caller.
        seed: of the one picture to repaint; None repaints all.

    Raises:
        RequestError: the draft is not painted, is exact already, or has no picture with this seed.
        ModelError: the model that painted it is not served any more.
        NotFoundError: its pictures have expired.
        BusyError: the requests under way hold too many pixels.
    """
    settings, model = exact_settings(draft, seed), model_of(draft, service.parts.settings.models)
    image, mask = [await _input(service.parts, draft, name) for name in (IMAGE, MASK)]
    fields = draft.fields
    order = Order(
        image=image,
        mask=mask,
        settings=settings,
        output_format=fields["output_format"],  # type: ignore[arg-type]
        quality=int(str(fields["quality"])),
        size=tuple(fields["size"]) if "size" in fields else None,  # type: ignore[arg-type]
        answer="boxes" if keeps_patch(draft.outputs[0]) else "files",
        model=model,
        metadata=bool(fields.get("metadata")),
    )
    async with service.preparation.again(image, mask, settings, pixels_of(draft), model) as prepared:
        record = service.accounting.new_record(caller, "v2", prepared, order)
        more = {"refines": _pictures(draft, record.seeds), "pixels": pixels_of(record) + _compared(prepared)}
        return replace(record, fields=record.fields | more), {IMAGE: image, MASK: mask}


def exact_settings(draft: Record, seed: int | None) -> dict[str, object]:
    """Return the settings that repaint a draft, or its picture with this seed, exactly.

    Raises:
        RequestError: the draft is not painted, is exact already, or has no picture with this seed.
    """
    if draft.state in ("QUEUED", "PROCESSING"):
        raise RequestError("request_id", "is not painted yet; refine it when its status is COMPLETED")
    if draft.state != "COMPLETED" or not draft.outputs:
        raise RequestError("request_id", "has no pictures to refine; send it again with pace exact")
    _check_is_a_draft(draft)
    settings, seeds = settings_of(draft), draft.seeds
    if seed is not None and seed not in seeds:
        raise RequestError("seed", f"must be one of {', '.join(map(str, seeds))}, not {seed}")
    if seed is None:
        return settings | {"pace": "exact"}
    return settings | {"pace": "exact", "seed": seed, "samples": 1}


def _check_is_a_draft(draft: Record) -> None:
    if settings_of(draft).get("pace", "exact") == "exact":
        raise RequestError("pace", "was exact already, so there is nothing to refine")
    # Not from the plan of its calls: that does not say whether the engine has caches for them.
    for warning in [text for output in draft.outputs for text in warnings_of(output)]:
        if warning.startswith(UNCHANGED):
            why = warning.removeprefix(UNCHANGED)
            raise RequestError("pace", f"was near, but the pictures are exact already: {why}")


async def _input(parts: Parts, draft: Record, name: str) -> bytes:
    try:
        return await parts.threads.blobs(parts.blobs.get, draft.id, name)
    except NotFoundError:
        raise NotFoundError(_EXPIRED) from None


def _pictures(draft: Record, seeds: Sequence[int]) -> dict[str, object]:
    """Return where the draft's pictures with these seeds, or their patches, are in the picture store."""
    numbers = [draft.seeds.index(seed) for seed in seeds]
    if keeps_patch(draft.outputs[0]):
        names, box = [patch_name(number) for number in numbers], draft.outputs[0]["box"]
        return {"request_id": draft.id, "files": names, "box": box}
    return {"request_id": draft.id, "files": [str(draft.outputs[n]["file_name"]) for n in numbers]}


def _compared(prepared: Prepared) -> int:
    """Return what the comparison with the draft takes of the budget of pixels: two pictures."""
    return decoded_pixels(*prepared.request.image.size, 0)


async def distances(parts: Parts, record: Record, prepared: Prepared, written: Written) -> list[float | None]:
    """Return the distance of each painted picture from its draft; an empty list if there is none to compare.

    Args:
        parts: of this process.
        record: of the request that was painted.
        prepared: the request as it was painted.
        written: its pictures as they are kept; patches are compared with patches.

    Raises:
        BusyError: the picture store is unreachable.
    """
    refines = record.fields.get("refines")
    if not isinstance(refines, dict):
        return []
    box = written.box if wants_boxes(record) else None
    if box is not None and refines["box"] != list(box):  # another model has been loaded meanwhile
        return []
    found = []
    for name, (_, data) in zip(refines["files"], written.files, strict=True):
        try:
            draft = await parts.threads.blobs(parts.blobs.get, refines["request_id"], name)
        except NotFoundError:  # it expired meanwhile
            return []
        found.append(await parts.threads.pixels(_distance, draft, data, prepared.request, box))
    return found


def _distance(draft: bytes, exact: bytes, request: InpaintRequest, box: Box | None) -> float | None:
    # Both files are our own; no limit for callers' files applies.
    with Image.open(io.BytesIO(draft)) as before, Image.open(io.BytesIO(exact)) as after:
        mask = fitted(strength_of(request), before.size if box is None else request.image.size)
        mask = mask if box is None else mask.crop(box)
        return distance_db(before, after, mask, soft=request.soft)
