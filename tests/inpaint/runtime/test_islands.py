"""Masks with islands far apart on a real engine: several boxes, one request, one picture for each sample."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inpaint import Engine, InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.canvas.mask import Box
from inpaint.errors import CancelledError, DeadlineError, PaintError
from inpaint.fast.optimizations import ready
from inpaint.model.load import Model
from inpaint.model.row import Row
from inpaint.pace import DEEP_LEVEL
from server.engines.forecast import Engines
from tests.conftest import PORTRAIT
from tests.support.fast_rows import own_model
from tests.support.lora_making import write_lora

Make = Callable[..., InpaintRequest]
WAIT_S = 60
SIDE = 640
SQUARE, STRIP, DISTANT = (20, 20, 60, 60), (380, 500, 620, 530), (560, 30, 610, 80)


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    """An engine with caches, as a loaded one has them."""
    with Engine(model, fast=ready(model, (DEEP_LEVEL,))) as engine:
        yield engine


def mask_of(*islands: Box, grey: int = 255) -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    for island in islands:
        ImageDraw.Draw(mask).ellipse(island, fill=grey)
    return mask


@pytest.fixture
def islands(photo: Image.Image, request_for: Make) -> Make:
    """Islands and settings → a request to paint them in a large picture."""

    def make(*boxes: Box, grey: int = 255, **settings: Any) -> InpaintRequest:
        image = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return request_for(**{"image": image, "mask": mask_of(*boxes, grey=grey), **settings})

    return make


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


class Spoiler:
    """A source of faults in calls that have the rows it waits for."""

    def __init__(self, spoil: Callable[[Sequence[Row]], None]) -> None:
        self.spoil = spoil

    def before_call(self, rows: Sequence[tuple[str, Row]]) -> None:
        self.spoil([row for _, row in rows])


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two samples": {"samples": 2},
    "soft": {"soft": True, "grey": 150},
    "near": {"num_inference_steps": 18, "pace": "near", "scheduler": "DPM2 Karras"},
    "a sampler that draws noise": {"scheduler": "Euler a"},
    "without guidance": {"guidance_scale": 1.0},
    "filled": {"fill": "noise", "strength": 0.5, "num_inference_steps": 6},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_islands_together_are_painted_as_each_would_be_alone(
    name: str, engine: Engine, islands: Make
) -> None:
    """A user who marks both eyes of one face and a logo far away gets what two requests would give."""
    settings = SETTINGS[name]
    together = engine.paint(islands(SQUARE, STRIP, **settings))
    assert len(together.boxes) == 2
    alone = [engine.paint(islands(island, **settings)) for island in (SQUARE, STRIP)]
    own = pixels(islands(SQUARE).image)
    for sample, image in enumerate(together.images):
        expected = own.copy()
        for result in alone:
            left, top, right, bottom = result.box
            assert result.boxes == ()
            assert result.box in together.boxes
            part = pixels(result.images[sample])[top:bottom, left:right]
            assert np.abs(part - own[top:bottom, left:right]).max() > 20, "it is painted at all"
            expected[top:bottom, left:right] = part
        # To within rounding: rows that share a call are summed in another order.
        assert np.abs(pixels(image) - expected).max() <= 1
    assert together.seeds == alone[0].seeds


def test_every_box_is_painted_with_the_loras(
    checkpoint: Callable[[int], Path], model: Model, islands: Make, tmp_path: Path
) -> None:
    """A style is that of the whole request."""
    write_lora(tmp_path, "two", model, ["unet"], seed=2)
    plain, styled = {"scheduler": "Euler a"}, {"scheduler": "Euler a", "loras": "two:4"}
    with Engine(own_model("tiny", checkpoint), loras=tmp_path) as engine:
        together = engine.paint(islands(SQUARE, STRIP, **styled))
        for island in (SQUARE, STRIP):
            alone = engine.paint(islands(island, **styled))
            left, top, right, bottom = alone.box
            part, own = (pixels(result.images[0])[top:bottom, left:right] for result in (together, alone))
            assert np.abs(part - own).max() <= 1
            other = pixels(engine.paint(islands(island, **plain)).images[0])[top:bottom, left:right]
            assert np.abs(part - other).max() > 1


def test_boxes_of_unlike_sizes_and_of_one_size_are_one_request(engine: Engine, islands: Make) -> None:
    """Rows of one size share calls, those of others take turns."""
    request = islands(SQUARE, STRIP, DISTANT)
    canvases = cut(request, 128).canvases
    assert [canvas.size for canvas in canvases].count((128, 128)) == 2
    assert len({canvas.size for canvas in canvases}) == 2
    job = engine.submit(request)
    assert len(job.result(WAIT_S).boxes) == 3
    stats = engine.stats()
    assert stats.images == 1, "boxes are no pictures"
    assert stats.row_steps == 3 * request.call_plan.made
    assert sum(count for _, _, count in engine.profile.usage.to_rows()) == 3


def test_events_count_the_steps_of_all_boxes(engine: Engine, islands: Make) -> None:
    """A progress bar goes once from 0 to the end."""
    events = list(engine.submit(islands(SQUARE, STRIP, num_inference_steps=5, strength=1.0)).events())
    states = [event.state for event in events]
    assert states[:2] == ["queued", "encoding"]
    assert set(states[2:-1]) == {"step"}
    assert states[-1] == "done"
    steps = [event.step for event in events if event.state == "step"]
    assert steps == sorted(set(steps))
    assert (steps[-1], {event.steps for event in events}) == (5, {5})


def test_the_forecast_counts_every_box(engine: Engine, islands: Make) -> None:
    """A server must not promise the time of one box for the work of three."""
    one, three = (
        Engines.of(engine).work(islands(*boxes, samples=2), "")
        for boxes in ([SQUARE], [SQUARE, STRIP, DISTANT])
    )
    assert (one.rows, three.rows) == (2, 6)
    assert {box.bucket for box in one.boxes} < {box.bucket for box in three.boxes}
    job = engine.submit(islands(SQUARE, STRIP, DISTANT, samples=2))
    with engine._loop._wake:
        entries = list(engine._loop._in_flight.tasks)
    assert sum(entry.work.samples for entry in entries) == three.rows
    job.result(WAIT_S)


def test_previews_show_the_part_around_the_whole_mask(engine: Engine, islands: Make) -> None:
    """The page lays a preview over the box around the mask."""
    request = islands(SQUARE, STRIP, num_inference_steps=6, strength=1.0)
    found = cut(request, 128)
    previews = [event.preview for event in engine.submit(request).events(preview=True) if event.preview]
    left, top, right, bottom = found.box
    assert previews
    for preview in previews:
        assert preview.mode == "RGB"
        assert preview.width / preview.height == pytest.approx((right - left) / (bottom - top), rel=0.05)
    scale = previews[-1].width / (right - left)
    own = np.asarray(request.image.crop(found.box).resize(previews[-1].size, Image.Resampling.NEAREST))
    changed = np.abs(np.asarray(previews[-1]).astype(int) - own).max(2) > 0
    for canvas in found.canvases:
        x, y = (
            ((canvas.box[0] + canvas.box[2]) / 2 - left) * scale,
            ((canvas.box[1] + canvas.box[3]) / 2 - top) * scale,
        )
        assert changed[int(y), int(x)]
    assert not changed[len(changed) // 2, 0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_box_that_half_precision_spoils_is_painted_again(
    checkpoint: Callable[[int], Path], islands: Make, which: int
) -> None:
    """In fp32, and nothing else of the request."""
    seen: list[Row] = []  # the row of each box, then those in fp32

    def spoil(rows: Sequence[Row]) -> None:
        seen.extend(row for row in rows if row not in seen)
        for row in rows:
            if seen.index(row) == which and row.position == 1:
                row.latents = torch.full_like(row.latents, torch.nan)

    with Engine.load(checkpoint(9), device="cpu", dtype="bfloat16", faults=Spoiler(spoil)) as engine:  # type: ignore[arg-type]
        result = engine.submit(islands(SQUARE, DISTANT)).result(WAIT_S)
        assert engine.stats().images == 1
    own = pixels(islands(SQUARE).image)
    assert [row.precise for row in seen] == [False, False, True]
    for left, top, right, bottom in result.boxes:
        assert np.abs(pixels(result.images[0]) - own)[top:bottom, left:right].max() > 20


def test_boxes_that_do_not_fit_together_are_painted_one_by_one(model: Model, islands: Make) -> None:
    """An out-of-memory costs no request."""
    failures = []

    def spoil(rows: Sequence[Row]) -> None:
        if len(rows) > 1:
            failures.append(len(rows))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    request = islands(SQUARE, DISTANT, samples=2)
    with Engine(model) as engine:
        expected = engine.paint(request)
    with Engine(model, faults=Spoiler(spoil)) as engine:  # type: ignore[arg-type]
        found = engine.paint(request)
    assert failures
    for one, other in zip(found.images, expected.images, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_a_box_that_fails_alone_ends_the_request_and_no_other(model: Model, islands: Make) -> None:
    """Its caller gets one error; the neighbour its picture."""

    def spoil(rows: Sequence[Row]) -> None:
        if any(row.latents.shape[-1] != row.latents.shape[-2] for row in rows):
            raise ValueError("only the strip is of this shape")

    with Engine(model, faults=Spoiler(spoil)) as engine:  # type: ignore[arg-type]
        failing, other = engine.submit(islands(SQUARE, STRIP)), engine.submit(islands(SQUARE))
        with pytest.raises(PaintError):
            failing.result(WAIT_S)
        assert other.result(WAIT_S).images
        assert (engine.stats().running, engine.stats().waiting, engine.stats().failures) == (0, 0, 1)


def test_cancel_stops_all_boxes(engine: Engine, islands: Make) -> None:
    """Esc on the page frees the device of every box."""
    job = engine.submit(islands(SQUARE, STRIP, DISTANT, num_inference_steps=100))
    for event in job.events():
        if event.state == "step" and not job.cancelled:
            job.cancel()
    with pytest.raises(CancelledError):
        job.result()
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    assert engine.paint(islands(SQUARE)).images


def test_a_deadline_ends_all_boxes(engine: Engine, islands: Make) -> None:
    """A request that is late is dropped whole."""
    request = islands(SQUARE, STRIP, num_inference_steps=150, strength=1.0)
    job = engine.submit(request, deadline_s=0.0, promised=True)
    with pytest.raises(DeadlineError):
        job.result(WAIT_S)
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


def redness(image: Image.Image, box: Box) -> float:
    part = pixels(image)[box[1] : box[3], box[0] : box[2]]
    return float((part[..., 0] - part[..., 2]).mean())


@pytest.mark.slow
def test_two_discs_in_opposite_corners_are_painted_as_well_as_alone() -> None:
    """As one box they had 12 of the demo model's pixels each, and no circle was painted at either."""
    image = Image.open(PORTRAIT).convert("RGB").resize((1024, 1024))
    discs = ((100, 100, 200, 200), (830, 830, 930, 930))

    def request(*boxes: Box) -> InpaintRequest:
        mask = Image.new("L", image.size)
        for box in boxes:
            ImageDraw.Draw(mask).ellipse(box, fill=255)
        return InpaintRequest(
            image=image,
            mask=mask,
            prompt="a red circle",
            seed=3,
            num_inference_steps=20,
            scheduler="Euler",
            strength=0.99,
        )

    with Engine.load("demo") as engine:
        together = engine.paint(request(*discs)).images[0]
        for disc in discs:
            alone = redness(engine.paint(request(disc)).images[0], disc)
            assert alone > 60
            assert redness(together, disc) == pytest.approx(alone, rel=0.1)
