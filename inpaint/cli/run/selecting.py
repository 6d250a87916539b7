"""The mask that ``--select`` and its companions make of each picture."""

import io
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from inpaint.cli.run.outputs import Claims, write_whole
from inpaint.cli.terminal import say
from inpaint.errors import RequestError, shown
from inpaint.selection.hints import MAX_POINTS, Box, Hints, Point

if TYPE_CHECKING:
    from inpaint.selection.selector import Selector

SELECTION = "selection"  # what a report says in place of a mask's file
_NUMBER = re.compile(r"\d{1,6}(\.\d{1,3})?")


@dataclass(frozen=True, slots=True, eq=False)
class Selecting:
    """What is selected in each picture, how, and where the mask is kept."""

    hints: Hints
    flag: str  # the parameter of the first option that says what is meant
    selector: "Selector"
    save: Path | None = None
    writes: bool = True  # false with --dry-run

    @property
    def facts(self) -> dict[str, Any]:
        """What the mask depends on besides the picture, for the settings' hash."""
        hints = self.hints
        found = {"points": [list(point) for point in hints.points], "box": hints.box, "what": hints.what}
        return found | {"by": self.selector.name}

    @property
    def mask_name(self) -> str:
        """What a report calls the mask."""
        return str(self.save) if self.save else SELECTION

    def mask(self, image: Image.Image, picture: Path, outputs: Sequence[Path], claims: Claims) -> Image.Image:
        """Return the mask of a picture, and keep it if that was asked for.

        Raises:
            RequestError: a hint is outside the picture, nothing is found, or the mask's file exists.
            OutputError: the mask cannot be written.
        """
        self._check(image.size)
        started = time.monotonic()
        found = self.selector.select(image, self.hints)
        if found.box is None:
            raise RequestError(self.flag, f"nothing was found in {picture}; try another place, or a box")
        left, top, right, bottom = found.box
        took = f"{self.selector.name}, {time.monotonic() - started:.1f} s"
        say(f"{picture}: selected the box {left},{top} to {right},{bottom} ({took})")
        mask = found.image()
        if self.save is not None:
            self._keep(self.save, mask, picture, outputs, claims)
        return mask

    def _check(self, size: tuple[int, int]) -> None:
        """Check each hint alone, so that an error names its option."""
        points = [("select" if one.inside else "select_not", Hints((one,))) for one in self.hints.points]
        for field, hints in [*points, ("select_box", Hints(box=self.hints.box))]:
            try:
                replace(hints, what="subject").checked(size)
            except RequestError as error:
                raise RequestError(field, error.problem) from None

    def _keep(
        self, path: Path, mask: Image.Image, picture: Path, outputs: Sequence[Path], claims: Claims
    ) -> None:
        if path.absolute() in {output.absolute() for output in outputs}:
            raise RequestError("save_mask", f"{path} is the name of the result; choose another one")
        file = io.BytesIO()
        mask.save(file, "PNG")
        data = file.getvalue()
        with suppress(OSError):  # said below, if it cannot be written either
            if path.is_file() and path.read_bytes() == data:
                return  # the same command again, perhaps with another seed
        claims.claim_extra(path, "save_mask")
        if self.writes:
            write_whole(path, data)


def selecting_from(options: Mapping[str, Any], *, alone: bool, device: str = "auto") -> Selecting | None:
    """Return what the options of a command select; None if they select nothing.

    Args:
        options: the command's parameters by name.
        alone: one picture is named.
        device: where SAM runs.

    Raises:
        RequestError: an option is wrong, or contradicts another one.
        ModelError: SAM's weights are damaged.
    """
    points = [_point(text, "select", inside=True) for text in options["select"] or ()]
    points += [_point(text, "select_not", inside=False) for text in options["select_not"] or ()]
    box = None if options["select_box"] is None else _box(options["select_box"])
    flag = _flag(options)
    if flag is None:
        _refuse_alone(options)
        return None
    _check_together(options, flag, alone=alone)
    if len(points) > MAX_POINTS:
        raise RequestError(flag, f"takes at most {MAX_POINTS} points, together with --select-not")
    save: Path | None = options["save_mask"]
    if save is not None and save.suffix.lower() != ".png":
        raise RequestError("save_mask", f"must end with .png, not {save.name!r}")
    what = {"select_subject": "subject", "select_background": "background"}.get(flag, "object")
    # OpenCV and the digests of weights are for those who select.
    from inpaint.selection.selector import Selector

    selector = Selector.of(options["select_with"], device, field="select_with")
    hints = Hints(tuple(points), box, what=what)  # type: ignore[arg-type]
    return Selecting(hints, flag, selector, save, writes=not options.get("dry_run", False))


def _flag(options: Mapping[str, Any]) -> str | None:
    """Return the parameter that says what is meant; None if none was given."""
    names = ("select_subject", "select_background", "select", "select_box")
    return next((name for name in names if options[name]), None)


def _refuse_alone(options: Mapping[str, Any]) -> None:
    if options["select_not"]:
        raise RequestError("select_not", "takes away from --select X,Y or --select-box L,T,R,B; add one")
    if options["save_mask"] is not None or options["select_with"] != "auto":
        field = "select_with" if options["save_mask"] is None else "save_mask"
        what = "--select X,Y, --select-box, --select-subject or --select-background"
        raise RequestError(field, f"add what to select: {what}")


def _check_together(options: Mapping[str, Any], flag: str, *, alone: bool) -> None:
    """Refuse what contradicts the option ``flag``."""
    spelled = f"--{flag.replace('_', '-')}"
    if options["mask"] is not None:
        raise RequestError("mask", f"give either --mask or {spelled}, not both")
    if options.get("jobs") is not None:
        raise RequestError("jobs", f"its lines name their own masks; leave {spelled} out")
    if flag in ("select_subject", "select_background"):
        others = ("select_background", "select", "select_not", "select_box")
        other = next((name for name in others if name != flag and options[name]), None)
        if other is not None:
            raise RequestError(flag, f"give either {spelled} or --{other.replace('_', '-')}, not both")
    elif not alone:
        raise RequestError(flag, "means a place in one picture; for several, use --select-subject")
    if options["save_mask"] is not None and not alone:
        raise RequestError("save_mask", "is one file, so name one picture")


def _numbers(text: str, count: int) -> list[float] | None:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(map(_NUMBER.fullmatch, parts)):
        return None
    return [float(part) for part in parts]


def _point(text: str, field: str, *, inside: bool) -> Point:
    numbers = _numbers(text, 2)
    if numbers is None:
        raise RequestError(
            field, f"must be X,Y in pixels from the upper left corner, such as 320,240, not {shown(text)}"
        )
    return Point(numbers[0], numbers[1], inside)


def _box(text: str) -> Box:
    numbers = _numbers(text, 4)
    if numbers is None:
        raise RequestError(
            "select_box", f"must be L,T,R,B in pixels, such as 100,80,400,360, not {shown(text)}"
        )
    left, top, right, bottom = map(int, numbers)
    return left, top, right, bottom
