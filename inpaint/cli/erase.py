"""``inpaint erase``: erase parts of pictures, without a prompt, a model or a GPU."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inpaint.cli.run import options
from inpaint.cli.terminal import say, show
from inpaint.errors import InpaintError, RequestError
from inpaint.request import DEFAULTS, ERASE_GROW, MASK_CHANNELS, RANGES

if TYPE_CHECKING:
    from inpaint.cli.run.inputs import Found
    from inpaint.cli.run.masks import MaskChoice
    from inpaint.cli.run.outputs import Claims, Output
    from inpaint.cli.run.selecting import Selecting

_ADDITION = "_erased"


def erase(
    context: typer.Context,
    images: options.Images = None,
    mask: options.Mask = None,
    grow: Annotated[
        int, typer.Option(help=f"Pixels by which the mask is widened ({RANGES['grow']}).")
    ] = ERASE_GROW,
    mask_channel: Annotated[
        str,
        typer.Option(
            help=f"{' or '.join(MASK_CHANNELS)}: erase what is white in the mask, or transparent in it."
        ),
    ] = DEFAULTS["mask_channel"],
    invert_mask: Annotated[
        bool, typer.Option("--invert-mask", help="Erase what the mask would keep, and keep the rest.")
    ] = False,
    resize_mask: options.ResizeMask = False,
    select: options.Select = None,  # selecting_from reads it and the next six
    select_not: options.SelectNot = None,
    select_box: options.SelectBox = None,
    select_subject: options.SelectSubject = False,
    select_background: options.SelectBackground = False,
    select_with: options.SelectWith = "auto",
    save_mask: options.SaveMask = None,
    recursive: options.Recursive = False,
    by_null: options.ByNull = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File or folder; may hold {stem} and {parent}, the name of the picture's folder. By "
            "default, {stem}_erased next to the picture.",
            show_default=False,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Erase the white part of a mask: fill it from the picture around it, without a prompt, model or GPU.

    Pixels away from the mask stay as they are, bit for bit in PNG, TIFF and lossless WebP, and equal calls
    give equal pictures. To paint something else there, see `inpaint run`.
    """
    from inpaint.cli import SOME_FAILED
    from inpaint.cli.flags import explained, flags_of
    from inpaint.cli.run.inputs import Inputs, names_one
    from inpaint.cli.run.masks import MaskChoice
    from inpaint.cli.run.outputs import Claims, Output
    from inpaint.cli.run.selecting import selecting_from
    from inpaint.request import check_settings

    if not images:
        raise RequestError("image", "name a picture or a folder")
    check_settings({"grow": grow, "mask_channel": mask_channel})
    alone = names_one(images)
    selecting = selecting_from(context.params, alone=alone)
    masks, outputs = MaskChoice(mask), Output(output, several=not alone, addition=_ADDITION)
    excluded = [home for home in (masks.home, outputs.home) if home]
    found = Inputs.named_by(images, recursive=recursive, by_null=by_null, excluded=excluded)
    claims = Claims([picture.path for picture in found.found], overwrite=overwrite)
    reading = {"grow": grow, "invert_mask": invert_mask, "resize_mask": resize_mask}
    settings = {**reading, "mask_channel": mask_channel}
    eraser = _Eraser(masks, selecting, outputs, claims, settings, as_json=as_json)
    failed = 0
    for picture in found.found:
        try:
            eraser.erase(picture)
        except InpaintError as error:
            if alone:
                raise
            failed += 1
            say(f"error: {picture.path}: {explained(error, flags_of(context.command))}")
    if not alone:
        say(f"{len(found.found) - failed} of {len(found.found)} pictures done")
    if failed:
        raise typer.Exit(SOME_FAILED)


@dataclass(frozen=True, slots=True)
class _Eraser:
    """The settings of one ``inpaint erase``."""

    masks: "MaskChoice"
    selecting: "Selecting | None"  # makes the masks
    outputs: "Output"
    claims: "Claims"
    settings: Mapping[str, Any]  # arguments of ``canvas.erase.erase``
    as_json: bool

    def erase(self, picture: "Found") -> None:
        """Erase from one picture, write the result and report it.

        Raises:
            InpaintError: the picture, its mask or an option is wrong, or the result cannot be written.
        """
        from inpaint.canvas.erase import erase as erased_from
        from inpaint.cli.run.masks import from_alpha
        from inpaint.cli.run.outputs import write_whole
        from inpaint.images import metadata
        from inpaint.images.codec import decode
        from inpaint.images.formats import ENDINGS

        mask = self._mask_of(picture)
        (path,) = self.outputs.paths(picture, (0,))
        self.claims.claim(picture.path, mask, (path,), ())
        decoded, started = decode(picture.path), time.monotonic()
        settings = dict(self.settings)
        if self.selecting is not None:
            given = self.selecting.mask(decoded.image, picture.path, (path,), self.claims)
            settings["mask_channel"] = DEFAULTS["mask_channel"]
        elif mask is None:
            given, settings["mask_channel"] = from_alpha(decoded.image), DEFAULTS["mask_channel"]
        else:
            given = decode(mask, "mask").image
        for note in decoded.notes:
            say(f"warning: {picture.path}: it {note}")
        erased = erased_from(decoded.image, given, **settings)
        write_whole(path, metadata.write(erased.image, decoded, None, ENDINGS[path.suffix.lower()]))
        seconds = time.monotonic() - started
        say(f"{path} ({seconds:.1f} s)")
        if self.as_json:
            name = self.selecting.mask_name if self.selecting else str(mask or "alpha")
            facts = {"image": str(picture.path), "mask": name, "output": str(path)}
            show(json.dumps({**facts, "box": list(erased.box), "seconds": round(seconds, 3)}))

    def _mask_of(self, picture: "Found") -> Path | None:
        """Return the mask's file; None if the mask is the picture's alpha, or is selected.

        Raises:
            RequestError: there is none.
        """
        if self.selecting is not None:
            return None
        mask = self.masks.of(picture)
        if mask is None and not self.masks.is_alpha:
            wanted = f"{picture.path.stem}_mask.png"
            given = "give --mask PICTURE (white = erase) or --select X,Y"
            raise RequestError("mask", f"{given}, or put {wanted} next to it")
        return mask
