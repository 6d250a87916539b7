"""Objects as agents point at them: points or a box in, a mask file and a picture of what was selected out."""

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image

from inpaint.errors import RequestError, shown
from inpaint.images.pixels import to_rgb
from inpaint.selection.hints import MAX_POINTS, VARIANTS, WHATS, Hints, point_of

if TYPE_CHECKING:
    from inpaint.selection.selector import Selector

_DARK = 0.25  # of the brightness, where nothing is selected
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """A mask as a PNG, what is said of it, and the picture with all the rest dark."""

    file: bytes
    facts: Mapping[str, object]
    shown: Image.Image


def hints_of(points: Sequence[Sequence[float]], box: Sequence[int] | None, what: str, variant: str) -> Hints:
    """Return the hints in a call's arguments.

    Raises:
        RequestError: one of them is none.
    """
    for name, value, known in (("what", what, WHATS), ("variant", variant, VARIANTS)):
        if value not in known:
            raise RequestError(name, f"must be one of {', '.join(known)}, not {shown(value)}")
    if len(points) > MAX_POINTS:
        raise RequestError("points", f"must be at most {MAX_POINTS}")
    if box is not None and len(box) != 4:
        raise RequestError("box", f"must be [left, top, right, bottom], not {shown(list(box))}")
    found = tuple(point_of(list(point)) for point in points)
    return Hints(found, tuple(box) if box else None, what=what, variant=variant)  # type: ignore[arg-type]


def selected(image: Image.Image, hints: Hints) -> Selected:
    """Select, with SAM where it is installed.

    Raises:
        RequestError: the hints do not fit the picture, or nothing is found.
        ModelError: SAM's weights are damaged.
    """
    with _one_at_a_time:
        selector = _selector()
        selection = selector.select(image, hints)
    if selection.box is None:
        raise RequestError("points", "nothing was found there; try another place, or a box")
    mask, file = selection.image(), io.BytesIO()
    mask.save(file, "PNG")
    picture = to_rgb(image)
    facts = {
        "width": image.width,
        "height": image.height,
        "box": list(selection.box),
        "method": selector.name,
        "score": selection.score,
    }
    dark = picture.point(lambda value: int(value * _DARK))
    return Selected(file.getvalue(), facts, Image.composite(picture, dark, mask))


@cache
def _selector() -> "Selector":
    from inpaint.selection.selector import Selector  # OpenCV is for those who select

    return Selector.of()
