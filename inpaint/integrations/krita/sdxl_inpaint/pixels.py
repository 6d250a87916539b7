"""The part of a picture that is sent, and the pixels of an answer that become a layer."""

from __future__ import annotations

from typing import NamedTuple

from .client import Problem

_CONTEXT = 1024  # pixels on each side: the server's own box reaches less far
_NONZERO = bytes([0]) + bytes([255]) * 255


class Area(NamedTuple):
    """A rectangle of a picture, in pixels."""

    x: int
    y: int
    width: int
    height: int


def surroundings(selected: Area, canvas: Area) -> Area:
    """Return the part of the canvas that is sent: all that the server looks at around the selection.

    Of a large picture this is a small part, and the server paints the same as if it had all of it.

    Raises:
        Problem: the selection is empty, or all of it lies outside the canvas.
    """
    inside = _common(selected, canvas)
    if inside is None:
        raise Problem("Select what to repaint: the selection is the mask.")
    margin = max(_CONTEXT, inside.width, inside.height)
    x, y = inside.x - margin, inside.y - margin
    found = _common(Area(x, y, inside.width + 2 * margin, inside.height + 2 * margin), canvas)
    assert found is not None
    return found


def _common(one: Area, other: Area) -> Area | None:
    left, top = max(one.x, other.x), max(one.y, other.y)
    right = min(one.x + one.width, other.x + other.width)
    bottom = min(one.y + one.height, other.y + other.height)
    return Area(left, top, right - left, bottom - top) if left < right and top < bottom else None


def patch(before: bytes, after: bytes, selected: bytes) -> bytes:
    """Return the pixels of ``after`` that are selected or changed; all others are transparent.

    The server also blends a rim around the selection, which the layer must cover as well.

    Args:
        before: the picture as it was sent, four bytes a pixel, alpha last.
        after: the painted picture, the same.
        selected: one byte a pixel, 0 where it is not selected.
    """
    # Krita's Python has no numpy. Whole pictures as integers take milliseconds, loops over pixels seconds.
    found = _number(selected)
    for channel in range(4):
        found |= _number(before[channel::4]) ^ _number(after[channel::4])
    kept = found.to_bytes(len(selected), "little").translate(_NONZERO)
    layer = bytearray(after)
    layer[3::4] = (_number(after[3::4]) & _number(kept)).to_bytes(len(selected), "little")
    return bytes(layer)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
