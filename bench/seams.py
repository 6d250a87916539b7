"""Visibility of a repainted patch's edge, with and without each way of blending it in.

Two tables in CIE76 ΔE (see ``bench.lib.blending``), each figure "ring/step": the mean distance to the ideal
over a 16-pixel ring around the edge, and the step across the edge that the ideal does not have.

``painted``: the demo model is asked for "background" on pictures that have nothing else in the hole, so
that the ideal is the picture itself. ``drifted``: the picture is put through the VAE and then shifted as
users report it, so that the ideal is known everywhere; "inside" is then the mean distance within the mask.

    python -m bench.seams [--steps 20] [--seeds 2] [--only flat] [--device cpu] [--json FILE]
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bench.lib.blending import DRIFTS, error_inside, masks, pictures, ring_error, step_at_edge
from bench.lib.contenders import conditions, finish, parser
from inpaint import InpaintRequest
from inpaint.canvas.crop import Canvas, cut, paste
from inpaint.demo import demo_checkpoint
from inpaint.job import Job
from inpaint.model.denoise import step
from inpaint.model.load import DTYPES, Model, load_model, pick_device
from inpaint.model.row import Row
from inpaint.model.vae import decode, encode, to_pixels
from inpaint.runtime.stages import RunningRequest, Stages

Floats = NDArray[np.float32]

STRENGTHS = (0.5, 0.9, 1.0)
# Settings that hide the seam; "soft" paints another picture, the others paste the same one.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "bare": {"feather": 0, "color_match": False},
    "feathered": {"color_match": False},
    "matched": {"feather": 0},
    "both": {},
    "soft": {"soft": True},
}
_TOGETHER = 12  # rows in one UNet call
_SOFTENED = 8  # radius in pixels by which a hard mask becomes a soft one


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """A decoded picture and the request that it belongs to, to be pasted in any way."""

    request: InpaintRequest
    pixels: Floats  # (H, W, 3), 0 … 1
    native: int

    def pasted(self, **settings: Any) -> tuple[Image.Image, Canvas]:
        """Paste it into the caller's picture, as a request with these settings would."""
        (canvas,) = cut(replace(self.request, **settings), self.native).canvases
        return paste(canvas, self.pixels), canvas


def requests_for(
    name: str, mask: Image.Image, strengths: Sequence[float], **settings: Any
) -> list[InpaintRequest]:
    """Return requests to paint the picture's background into the mask, hard and soft, at each strength."""
    picture, softened = pictures()[name], mask.filter(ImageFilter.GaussianBlur(_SOFTENED))
    return [
        InpaintRequest(
            picture,
            softened if soft else mask,
            "background",
            area="whole",
            soft=soft,
            strength=strength,
            **settings,
        )
        for strength in strengths
        for soft in (False, True)
    ]


def paint(model: Model, requests: Sequence[InpaintRequest]) -> list[Painted]:
    """Paint each request's first sample, without pasting it."""
    stages, found = Stages(model), []
    for start in range(0, len(requests), _TOGETHER):
        part = requests[start : start + _TOGETHER]
        rows = [_row(stages, request) for request in part]
        while waiting := [row for row in rows if not row.done]:
            step(model, waiting)
        for request, row in zip(part, rows, strict=True):
            found.append(Painted(request, _pixels(model, row.latents), model.native_size))
    return found


def _row(stages: Stages, request: InpaintRequest) -> Row:
    task = RunningRequest(Job(request, [request.seed]), cut(request, stages.model.native_size))
    stages.begin(task)
    return task.rows[0]


def _pixels(model: Model, latents: torch.Tensor) -> Floats:
    with torch.inference_mode():
        return np.asarray(decode(model, latents)[0].permute(1, 2, 0).cpu().numpy(), np.float32)


def drifted(model: Model, picture: Image.Image, mask: Image.Image, kind: str) -> Painted:
    """Return the picture after the VAE and one kind of drift: a perfect result but for those."""
    latents = encode(model, to_pixels(picture)).mean * float(model.vae.config.scaling_factor)
    pixels = DRIFTS[kind](_pixels(model, latents)).clip(0, 1)
    return Painted(
        InpaintRequest(picture, mask, "", area="whole"), pixels.astype(np.float32), model.native_size
    )


def figures(painted: Painted, **settings: Any) -> dict[str, float]:
    """Return the distances of one picture, pasted in one way, to the caller's own, in ΔE."""
    result, canvas = painted.pasted(**settings)
    # The edge is that of what the model painted, so that all ways are judged at the same place: area="whole"
    # at the native size, so the working mask is the picture's.
    ideal, edge = painted.request.image, canvas.mask
    return {
        "ring": ring_error(result, ideal, edge),
        "step": step_at_edge(result, ideal, edge),
        "inside": error_inside(result, ideal, canvas.paste_mask),
    }


def averaged(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure."""
    return {name: round(mean(one[name] for one in several), 2) for name in several[0]}


def painted_table(
    model: Model, names: Sequence[str], steps: int, seeds: int
) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield (picture, strength, figures by way), averaged over the masks and seeds."""
    for name in names:
        asked = [
            request
            for mask in masks().values()
            for seed in range(seeds)
            for request in requests_for(name, mask, STRENGTHS, num_inference_steps=steps, seed=seed)
        ]
        done = paint(model, asked)
        for strength in STRENGTHS:
            here = [one for one in done if one.request.strength == strength]
            yield (
                name,
                strength,
                {
                    way: averaged(
                        [figures(one, **how) for one in here if one.request.soft is ("soft" in how)]
                    )
                    for way, how in WAYS.items()
                },
            )


def drifted_table(model: Model, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (kind of drift, figures by way), averaged over the pictures and masks."""
    for kind in DRIFTS:
        done = [drifted(model, pictures()[name], m, kind) for name in names for m in masks().values()]
        yield (
            kind,
            {
                way: averaged([figures(one, **how) for one in done])
                for way, how in WAYS.items()
                if way != "soft"
            },
        )


def table_line(name: str, ways: Mapping[str, Mapping[str, float]], *also: str) -> str:
    """Return one line of the printed table."""
    cells = ("/".join(f"{one[what]:.2f}" for what in ("ring", "step", *also)) for one in ways.values())
    return f"  {name:<16}" + "".join(f"{cell:>20}" for cell in cells)


def measure(device: torch.device, names: Sequence[str], steps: int, seeds: int) -> dict[str, Any]:
    """Return both tables, as they go into the JSON line."""
    model = load_model(demo_checkpoint().path, "demo", device, DTYPES["float32"])
    print(f"  {'':<16}" + "".join(f"{way:>20}" for way in WAYS))
    painted: dict[str, Any] = {}
    for name, strength, ways in painted_table(model, names, steps, seeds):
        painted.setdefault(name, {})[str(strength)] = ways
        print(table_line(f"{name} {strength}", ways), flush=True)
    off: dict[str, Any] = {}
    for kind, ways in drifted_table(model, names):
        off[kind] = ways
        print(table_line(kind, ways, "inside"), flush=True)
    return conditions("seams", device, model="demo", steps=steps, seeds=seeds, painted=painted, drifted=off)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--steps", type=int, default=20, help="of every picture (default 20)")
    options.add_argument("--seeds", type=int, default=2, help="of every picture (default 2)")
    options.add_argument("--only", action="append", choices=[*pictures()], help="pictures (default: all)")
    chosen = options.parse_args(arguments)
    names: Sequence[str] = chosen.only or [*pictures()]
    finish(lambda: measure(pick_device(chosen.device), names, chosen.steps, chosen.seeds), chosen.json)


if __name__ == "__main__":
    main()
