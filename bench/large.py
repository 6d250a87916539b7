"""Seconds of one small mask in a picture of 1 and of 24 megapixels.

    python -m bench.large [--device cpu|cuda] [--rounds N] [--json FILE]

The time should depend on the mask's box, not on the picture. It is measured from file to file, as the server
does it: the larger picture also has to be read, pasted into and written. The target is 1.3 × with SDXL's own
cost of a picture; with the demo model's cheap steps those 23 megapixels of JPEG weigh most, so their
milliseconds are reported, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.lib.contenders import PORTRAIT, conditions, finish, interleave, parser, row
from bench.lib.jobs import SETTINGS, Upload
from bench.lib.ours import default_model, engine_on, load
from inpaint.model.load import pick_device

TARGET = 1.3
SIZES: Mapping[str, tuple[int, int]] = {"1 MP": (1024, 1024), "24 MP": (6000, 4000)}
_MASK = 256  # pixels a side


def upload(size: tuple[int, int]) -> Upload:
    """Return a photograph of this size with a small mask in its middle."""
    image = Image.open(PORTRAIT).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    mask = np.zeros((size[1], size[0]), np.uint8)
    top, left = (size[1] - _MASK) // 2, (size[0] - _MASK) // 2
    mask[top : top + _MASK, left : left + _MASK] = 255
    blended = (
        "area",
        "grow",
        "feather",
        "color_match",
    )  # left at their defaults, as for callers: the box is cut, and its edge blended
    settings = {name: value for name, value in SETTINGS.items() if name not in blended}
    return Upload.of(image, Image.fromarray(mask), {**settings, "scheduler": "DDIM"})


def measure(device: torch.device, name: str, rounds: int, warmups: int) -> dict[str, Any]:
    """Time both sizes on one engine."""
    uploads = {size: upload(pixels) for size, pixels in SIZES.items()}
    with engine_on(load(name, device)) as ours:
        ours.paint_upload(uploads["1 MP"])
        ours.settle(600)
        contenders = {size: lambda _, u=given: ours.paint_upload(u) for size, given in uploads.items()}
        timings = interleave(
            contenders, lambda i, place: (i, place), warmups=warmups, rounds=rounds, device=device
        )
    for size, timing in timings.items():
        row(size, timing, None if size == "1 MP" else timings["1 MP"])
    ratio = timings["24 MP"].over(timings["1 MP"])
    more_ms = round(1000 * (timings["24 MP"].median - timings["1 MP"].median), 1)
    ms = {size: timing.to_json() for size, timing in timings.items()}
    about = {"model": name, "rounds": rounds, "target": TARGET}
    return conditions("large", device, **about, ms=ms, over=ratio, more_ms=more_ms)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    options.add_argument("--warmups", type=int, default=2, help="rounds before those (default 2)")
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        device = pick_device(chosen.device)
        return measure(device, default_model(device, chosen.model), chosen.rounds, chosen.warmups)

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
