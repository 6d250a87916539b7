"""The mask that belongs to each picture, as ``--mask`` says."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

from inpaint.cli.run.inputs import FORMATS, Found, exists, is_folder, refuse_url
from inpaint.cli.run.template import fill_in, fixed_folder, placeholders, plain_path, read_template
from inpaint.errors import RequestError

ALPHA = "alpha"
_ENDINGS = tuple(ending for lower in FORMATS for ending in (lower, lower.upper()))


@dataclass(frozen=True, slots=True)
class MaskChoice:
    """The value of ``--mask``: a file, a folder, a template or ``alpha``; None for ``{stem}_mask`` files."""

    text: str | None

    def __post_init__(self) -> None:
        if self.text == "":
            raise RequestError("mask", "the path is empty; name a mask, or leave --mask out")
        if self.text is not None:
            refuse_url("mask", self.text)
            object.__setattr__(self, "text", read_template(self.text, "mask", ("stem", "parent")))

    @property
    def is_alpha(self) -> bool:
        """True if the transparent part of the picture is its mask."""
        return self.text == ALPHA

    @property
    def path(self) -> Path | None:
        """The file or folder that was named; None for a template, the alpha, or no mask."""
        if self.text is None or self.is_alpha or placeholders(self.text):
            return None
        return plain_path(self.text)

    @property
    def home(self) -> Path | None:
        """The folder that all masks lie in; None if there is none, or each lies next to its picture."""
        if self.text is None or self.is_alpha:
            return None
        if self.path is not None:
            return self.path if is_folder(self.path) else None
        return fixed_folder(self.text) if len(Path(self.text).parts) > 1 else None

    def of(self, picture: Found) -> Path | None:
        """Return the file of a picture's mask; None for its alpha, or if none was named and none exists.

        Raises:
            RequestError: a folder or a template was named, and it has no mask for the picture.
        """
        if self.text is None:
            return _first(picture.path.with_name(f"{picture.path.stem}_mask{e}") for e in _ENDINGS)
        if self.is_alpha:
            return None
        if (named := self.path) is None:
            return self._from_template(self.text, picture.path)
        return _in_folder(named, picture) if is_folder(named) else named

    def _from_template(self, template: str, image: Path) -> Path:
        values = {"stem": image.stem, "parent": image.absolute().parent.name}
        path = Path(fill_in(template, values, "mask"))
        if len(Path(template).parts) == 1:  # a name without a folder is next to the picture
            path = image.with_name(path.name)
        if path.suffix.lower() in FORMATS:
            return path
        found = _first(path.with_name(f"{path.name}{ending}") for ending in _ENDINGS)
        if found is None:
            raise RequestError("mask", f"there is no mask {path}.png for {image.name}")
        return found


def _in_folder(folder: Path, picture: Found) -> Path:
    """Return the mask named like the picture, from the same subfolder of ``folder``, else from ``folder``."""
    stem = picture.path.stem
    places = dict.fromkeys((folder / picture.below, folder))
    names = [f"{stem}{end}{ending}" for end in ("", "_mask") for ending in _ENDINGS]
    there = (place / name for place in places for name in names)
    found = _first(path for path in there if not _same(path, picture.path))
    if found is None:
        raise RequestError("mask", f"the folder {folder} has no mask {stem}.png for {picture.path.name}")
    return found


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if exists(path)), None)


def _same(one: Path, other: Path) -> bool:
    return exists(one) and exists(other) and one.samefile(other)


def from_alpha(image: Image.Image) -> Image.Image:
    """Return a mask (``L``) that is white where ``image`` is transparent, and grey where it is partly so.

    Raises:
        RequestError: nothing in ``image`` is transparent.
    """
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is None or alpha.getextrema()[0] == 255:
        raise RequestError("mask", "nothing in the picture is transparent; erase the parts to repaint")
    return ImageChops.invert(alpha)
