"""Milliseconds of a selection in a picture of 24 megapixels: by snap, and by SAM with random weights.

``wall`` is what a person waits, ``cpu`` what all threads of the process took of the processors. SAM looks at
a picture once (``picture, once``); each click then takes ``click`` or ``corrected``, and ``edge``.

    python -m bench.selecting [--rounds 5] [--threads N] [--device cpu] [--skip sam] [--json FILE]
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.lib.contenders import conditions, finish, parser
from bench.lib.device import synchronize
from inpaint.cpu import bf16_units
from inpaint.model.load import pick_device
from inpaint.selection.hints import Hints, Point
from inpaint.selection.sam import Prompt, Sam, selection_of, square_of
from inpaint.selection.snap import snap
from tests.support.hints import box_of, point_of_truth, stroke_over
from tests.support.scenes import overlap, scene

WIDTH, HEIGHT = 6000, 4000
_DRAWN = 1500  # pixels of width in which the scene is drawn, at most
Pixels = NDArray[np.uint8]
Truth = NDArray[np.bool_]


def picture(width: int, height: int) -> tuple[Pixels, Truth]:
    """Return a picture (H, W, 3) of a disc on grass, and which of its pixels (H, W) the disc has."""
    small = min(width, _DRAWN)
    drawn = scene("red disc on grass", (small, small * height // width))
    large = Image.fromarray(drawn.picture).resize((width, height), Image.Resampling.BICUBIC)
    truth = Image.fromarray(drawn.truth.astype(np.uint8) * 255).resize((width, height))
    return np.asarray(large), np.asarray(truth) >= 128


def timed(action: Callable[[], object], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the medians of a number of rounds, after one that is not timed."""
    wall, cpu = [], []
    for number in range(-1, rounds):
        started = time.perf_counter(), time.process_time()
        action()
        synchronize(device)
        if number >= 0:
            wall.append(1000 * (time.perf_counter() - started[0]))
            cpu.append(1000 * (time.process_time() - started[1]))
    figures = {"wall": statistics.median(wall), "least": min(wall), "most": max(wall)}
    return {name: round(ms, 1) for name, ms in (figures | {"cpu": statistics.median(cpu)}).items()}


def snap_hints(truth: Truth) -> dict[str, Hints]:
    """Return the hints that are timed."""
    return {
        "point": point_of_truth(truth),
        "box": box_of(truth),
        "stroke": stroke_over(truth),
        "subject": Hints(what="subject"),
    }


def random_sam(device: torch.device) -> Sam:
    """Return SAM 2.1 tiny's network with random weights, in the precision that it has here."""
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cpu" and bf16_units() else torch.float32
    return Sam(Sam2Model(Sam2Config()).to(device, dtype).eval())


def sam_actions(sam: Sam, pixels: Pixels, truth: Truth) -> dict[str, Callable[[], object]]:
    """Return SAM's work: for each click, and once a picture."""
    keys = map(str, itertools.count())
    one = ((0.5, 0.5, True),)
    two = (*one, (0.05, 0.05, False))
    sam.embed("held", square_of(pixels, sam.side))
    # The network's own answer with random weights has edges everywhere.
    logits = cv2.resize(truth.astype(np.float32), (256, 256), interpolation=cv2.INTER_AREA) - 0.5

    def held(prompt: Prompt) -> Callable[[], object]:
        return lambda: sam.decide("held", prompt)

    return {
        "click": held(Prompt(one)),
        "corrected": held(Prompt(two)),
        "edge": lambda: selection_of(pixels, Hints((Point(0, 0),)), logits, 0.9),
        # The last one: it makes room for its embeddings.
        "picture, once": lambda: sam.embed(next(keys), square_of(pixels, sam.side)),
    }


def show(figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table."""
    for name, ms in figures.items():
        range_ = f"({ms['least']:.0f} to {ms['most']:.0f})"
        print(f"  {name:<22} wall {ms['wall']:9.1f} {range_:<18} cpu {ms['cpu']:9.1f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    options.add_argument("--threads", type=int, help="of torch and OpenCV")
    options.add_argument("--width", type=int, default=WIDTH, help=f"of the picture (default {WIDTH})")
    options.add_argument("--skip", action="append", choices=("snap", "sam"), default=[])
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        device = pick_device(chosen.device)
        if chosen.threads:
            torch.set_num_threads(chosen.threads)
            cv2.setNumThreads(chosen.threads)
        pixels, truth = picture(chosen.width, chosen.width * HEIGHT // WIDTH)
        print(f"milliseconds at {pixels.shape[1]}×{pixels.shape[0]}: median (range)")
        figures: dict[str, Any] = {}
        if "snap" not in chosen.skip:
            snapped = {}
            for name, hints in snap_hints(truth).items():
                found = np.asarray(snap(pixels, hints).image())
                ms = timed(lambda hints=hints: snap(pixels, hints), chosen.rounds, device)
                snapped[name] = ms | {"overlap": round(overlap(found, truth), 3)}
                show({f"snap, {name}": ms})
            figures["snap"] = snapped
        if "sam" not in chosen.skip:
            sam = random_sam(device)
            actions = sam_actions(sam, pixels, truth)
            figures["sam"] = {name: timed(action, chosen.rounds, device) for name, action in actions.items()}
            show({f"sam, {name}": ms for name, ms in figures["sam"].items()})
        return conditions(
            "selecting", device, side=[*pixels.shape[1::-1]], threads=torch.get_num_threads(), ms=figures
        )

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
