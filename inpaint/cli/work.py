"""What ``inpaint run`` does: check every input, load the model once, paint, write, report."""

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from PIL import Image

from inpaint.canvas import cut, extend
from inpaint.cli.output import FORMATS, Output, write_whole
from inpaint.cli.report import Failures, ProgressBar, note, progress
from inpaint.errors import RequestError
from inpaint.image import Picture, decode, encode
from inpaint.request import InpaintRequest, InpaintResult, check_settings

if TYPE_CHECKING:
    from inpaint.engine import Engine


@dataclass(frozen=True, slots=True)
class Machine:
    """Which model, where, and how."""

    model: str
    device: str
    dtype: str
    memory: str
    precision: str
    without: tuple[str, ...]
    few_step_lora: Path | None

    def load(self) -> "Engine":
        """The engine, with a word about it on stderr."""
        # Read when those libraries are imported: whatever a checkpoint says, the hub is not asked.
        for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
            os.environ[switch] = "1"
        from inpaint.demo import NOTICE
        from inpaint.engine import Engine

        if self.model == "demo":
            note(NOTICE)
        started = time.monotonic()
        engine = Engine.load(**asdict(self))
        model = engine.model
        note(f"loaded {model.name} on {model.device} in {time.monotonic() - started:.1f} s")
        return engine


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """One input picture that passed its checks."""

    path: Path
    picture: Picture
    request: InpaintRequest
    outputs: list[Path]


@dataclass(frozen=True, slots=True)
class Work:
    """One ``inpaint run``, after its options were read."""

    images: tuple[Path, ...]
    mask: Path | None
    settings: Mapping[str, Any]
    extend: tuple[int, int, int, int]
    output: Output
    machine: Machine
    as_json: bool

    def rehearse(self) -> None:
        """Check everything and say what would be painted, without loading a model."""
        with Failures.of(len(self.images), self.as_json) as failures:
            for path in self.images:
                with failures.about(path):
                    picked = self._pick(path)
                    canvas = cut(picked.request)
                    left, top, right, bottom = canvas.box
                    note(
                        f"{path}: would repaint the box {left},{top} to {right},{bottom} at "
                        f"{canvas.size[0]}×{canvas.size[1]} for a 1024-pixel model, and write "
                        f"{', '.join(map(str, picked.outputs))}"
                    )

    def run(self) -> None:
        """Paint everything; a picture that fails does not stop the others.

        Raises:
            InpaintError: the settings, the model or the only picture are at fault.
            typer.Exit: with code 3 where some of several pictures failed.
        """
        check_settings(self.settings)
        if len(self.images) == 1:
            # Before the model is loaded, because that takes long and a typo in a name should not.
            self._paint_all([self._pick(self.images[0])])
        else:
            self._paint_all(None)

    def _paint_all(self, picked: list[Picked] | None) -> None:
        with (
            Failures.of(len(self.images), self.as_json) as failures,
            self.machine.load() as engine,
            progress() as bar,
        ):
            for index, path in enumerate(self.images):
                with failures.about(path):
                    one = picked[index] if picked else self._pick(path)
                    self._paint(engine, one, bar)

    def _pick(self, path: Path) -> Picked:
        """Read one picture and its mask, and check that the result can be written."""
        check_settings(self.settings)
        picture = decode(path)
        image, mask = self._masked(path, picture.image)
        # Drawn here, not in the engine, because the output's name may hold it.
        seed = secrets.randbits(32) if self.settings["seed"] == -1 else self.settings["seed"]
        request = InpaintRequest(image=image, mask=mask, **{**self.settings, "seed": seed})
        outputs = self.output.paths(path, [seed + n for n in range(request.samples)])
        for output in outputs:
            self.output.check(output, (*self.images, *([self.mask] if self.mask else [])))
        return Picked(path, picture, request, outputs)

    def _masked(self, path: Path, image: Image.Image) -> tuple[Image.Image, Image.Image]:
        """The picture and its mask, both larger where --extend asks for it."""
        mask = decode(self._mask_of(path), "mask").image if self.mask else None
        if any(self.extend):
            return extend(image, mask, *self.extend)
        if mask is None:
            raise RequestError("mask", "give --mask PICTURE (white = repaint), or --extend L,T,R,B")
        return image, mask

    def _mask_of(self, path: Path) -> Path:
        assert self.mask is not None
        if not self.mask.is_dir():
            return self.mask
        same_stem = [p for ending in FORMATS if (p := self.mask / f"{path.stem}{ending}").exists()]
        if not same_stem:
            raise RequestError("mask", f"the folder {self.mask} has no {path.stem}.png for {path.name}")
        return same_stem[0]

    def _paint(self, engine: "Engine", picked: Picked, bar: ProgressBar) -> None:
        job = engine.submit(picked.request)
        try:
            for event in job.events():
                bar.show(picked.path.name, event.step, event.steps)
        except KeyboardInterrupt:
            job.cancel()
            raise
        result = job.result()
        for image, output in zip(result.images, picked.outputs, strict=True):
            write_whole(output, encode(image, picked.picture, FORMATS[output.suffix.lower()]))
        self._tell(picked, result)

    def _tell(self, picked: Picked, result: InpaintResult) -> None:
        seconds = sum(result.timings.values())
        for warning in result.warnings:
            note(f"warning: {warning}")
        for output, seed in zip(picked.outputs, result.seeds, strict=True):
            note(f"{output} (seed {seed}, {seconds:.1f} s)")
        if self.as_json:
            width, height = result.images[0].size
            answer = {
                "image": str(picked.path),
                "outputs": [str(output) for output in picked.outputs],
                "seeds": result.seeds,
                "width": width,
                "height": height,
                "box": list(result.box),
                "model": self.machine.model,
                "settings": {
                    **self.settings,
                    "seed": picked.request.seed,
                    "scheduler": picked.request.scheduler,
                },
                "warnings": list(result.warnings),
                "timings": {stage: round(value, 4) for stage, value in result.timings.items()},
            }
            typer.echo(json.dumps(answer, ensure_ascii=False))


def parse_extend(text: str | None) -> tuple[int, int, int, int]:
    """``L,T,R,B`` as four numbers of pixels.

    Raises:
        RequestError: not four whole numbers from 0.
    """
    if text is None:
        return (0, 0, 0, 0)
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise RequestError(
            "extend", f"must be four whole numbers of pixels L,T,R,B such as 0,0,256,0, not {text!r}"
        )
    left, top, right, bottom = map(int, parts)
    return left, top, right, bottom
