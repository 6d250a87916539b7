"""What erasing looks like and costs: OpenCV's two fills and the patches, without a model and as a prefill.

- *look*: holes in photographs and in the demo model's drawn scenes. ``texture``: the spread of the Laplacian
  inside the hole for the original's, 1 is as much; ``gradients``: the mean distance of their cumulative
  histograms; ``error``: the mean ΔE to the original, which is fair where what was there can be inferred.
- *time*: a hole of 300×300 in 2 megapixels and a wire 20 pixels wide across 24, in CPU seconds of the thread.
- *prefill*: what the page's "Remove" leaves of the object: the demo model paints drawn scenes with their
  objects masked, the hole filled in each way before; the mean ΔE to the background behind them.

    python -m bench.erase [--scenes 24] [--rounds 5] [--skip look|time|prefill] [--sheet FILE.jpg]
        [--device cpu] [--json FILE]

What FILE has of a part that is left out stays there.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from bench.lib.blending import error_inside
from bench.lib.contenders import Timing, conditions, finish, parser, row
from bench.lib.erasing import Cutout, Marks, Pixels, drawn, drawn_scenes, figures, large, photographs, sheet
from bench.lib.ours import load
from inpaint import Engine
from inpaint.canvas.patch_fill import fill_by_patches
from inpaint.model.load import pick_device
from tools.train_demo.paint import requests_for, run

METHODS: Mapping[str, Callable[[Pixels, Marks], Pixels]] = {
    "telea": lambda image, hole: _opencv(image, hole, cv2.INPAINT_TELEA),
    "navier-stokes": lambda image, hole: _opencv(image, hole, cv2.INPAINT_NS),
    "patch": fill_by_patches,
}
PARTS = ("look", "time", "prefill")
REMOVE = {"strength": 0.99, "prompt": ""}  # as in server/web/js/presets.js
_SHOWN = 6  # drawn scenes in the sheet


def _opencv(image: Pixels, hole: Marks, method: int) -> Pixels:
    return np.asarray(cv2.inpaint(image, hole.astype(np.uint8) * 255, 5, method), np.uint8)


def look(number: int, keep: Path | None) -> dict[str, Any]:
    """Compare the methods on cut-outs; write the contact sheet to ``keep``."""
    groups = {"photographs": list(photographs()), "drawn": list(drawn(number))}
    found: dict[str, Any] = {}
    shown: list[tuple[Cutout, list[Pixels]]] = []
    for group, cutouts in groups.items():
        fills = {name: [_timed(fill, one) for one in cutouts] for name, fill in METHODS.items()}
        found[group] = {"holes": len(cutouts)}
        for name, made in fills.items():
            found[group][name] = _summary(cutouts, made)
            print(f"  {group:<12} {name:<14} {found[group][name]}", flush=True)
        pictures = [[fills[name][i][0] for name in METHODS] for i in range(len(cutouts))]
        shown += list(zip(cutouts, pictures, strict=True))[: None if group == "photographs" else _SHOWN]
    if keep:
        sheet(shown, list(METHODS)).save(keep, quality=80, optimize=True)
    return found


def _timed(fill: Callable[[Pixels, Marks], Pixels], cutout: Cutout) -> tuple[Pixels, float]:
    """Return a fill and the CPU seconds of this thread."""
    started = time.thread_time()
    return fill(cutout.image, cutout.hole), time.thread_time() - started


def _summary(cutouts: Sequence[Cutout], made: Sequence[tuple[Pixels, float]]) -> dict[str, float]:
    """Return the means over all holes; of the textures, over those that had any."""
    each = [figures(cutout, filled) for cutout, (filled, _) in zip(cutouts, made, strict=True)]
    means = {
        name: round(fmean(value for one in each if (value := one[name]) is not None), 3) for name in each[0]
    }
    return means | {"cpu_s": round(median(seconds for _, seconds in made), 4)}


def time_holes(rounds: int) -> dict[str, Any]:
    """Time a common hole and a long thin one."""
    hole, wire = np.zeros((1250, 1600), bool), np.zeros((4000, 6000), np.uint8)
    hole[400:700, 500:800] = True
    cv2.line(wire, (50, 50), (5950, 3950), 1, 20)
    found: dict[str, Any] = {}
    for name, marks in (("300x300 in 2 MP", hole), ("wire in 24 MP", wire > 0)):
        cutout = Cutout(name, large(*marks.shape), np.asarray(marks))
        timing = Timing(tuple(_timed(fill_by_patches, cutout)[1] for _ in range(rounds)))
        row(name, timing)
        found[name] = {"pixels": int(cutout.hole.sum()), "ms": timing.to_json()}
    return found


def prefill(device: torch.device, number: int) -> dict[str, Any]:
    """Paint drawn scenes with the object masked, by the preset Remove, after each fill."""
    scenes = drawn_scenes(number)
    asked = [
        replace(request, image=scene.target)
        for scene, request in zip(scenes, requests_for(scenes, **REMOVE), strict=True)
    ]
    found: dict[str, Any] = {"scenes": len(scenes)}
    errors: dict[str, list[float]] = {}
    with Engine(load("demo", device)) as engine:
        for fill in ("original", "telea", "patch"):
            pictures = run(engine, [replace(request, fill=fill) for request in asked])
            errors[fill] = [_left(picture, one) for one, picture in zip(scenes, pictures, strict=True)]
            found[fill] = {"mean": round(fmean(errors[fill]), 2), "median": round(median(errors[fill]), 2)}
            print(f"  prefill {fill:<10} ΔE to the background {found[fill]}", flush=True)
    pairs = list(zip(errors["patch"], errors["telea"], strict=True))
    found["patch_better"] = sum(patch < telea for patch, telea in pairs)
    return found


def _left(picture: Image.Image, scene: Any) -> float:
    return error_inside(picture, scene.clean, scene.mask)


def _kept(file: Path | None) -> dict[str, Any]:
    """Return the parts that an earlier run left in the file; those that this run measures replace them."""
    if file is None or not file.exists():
        return {}
    found = json.loads(file.read_text("utf-8"))
    return {part: found[part] for part in PARTS if part in found}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--scenes", type=int, default=24, help="drawn scenes (default 24)")
    options.add_argument("--rounds", type=int, default=5, help="of each timed hole (default 5)")
    options.add_argument("--skip", action="append", choices=PARTS, default=[], help="may be repeated")
    options.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet to this file")
    chosen = options.parse_args(arguments)

    def measure() -> dict[str, Any]:
        device = pick_device(chosen.device)
        cv2.setNumThreads(1)  # the thread's CPU seconds are then all there are
        parts: Mapping[str, Callable[[], dict[str, Any]]] = {
            "look": lambda: look(chosen.scenes, chosen.sheet),
            "time": lambda: time_holes(chosen.rounds),
            "prefill": lambda: prefill(device, chosen.scenes),
        }
        measured = {part: made() for part, made in parts.items() if part not in chosen.skip}
        return conditions("erase", device, **(_kept(chosen.json) | measured))

    finish(measure, chosen.json)


if __name__ == "__main__":
    main()
