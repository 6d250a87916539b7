"""The pixels read from a Krita document, and the layers that are put into it."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

from .client import Problem
from .pixels import Area, patch, surroundings
from .qt import QtCore, QtGui

_PROFILE = "sRGB-elle-V2-srgbtrc.icc"  # Krita's sRGB, in which projection() gives every document
_Format = QtGui.QImage.Format


class Cut(NamedTuple):
    """The part of a document that is sent.

    ``pixels`` has four bytes a pixel, alpha last; ``selected`` has one, 0 where it is not selected.
    """

    area: Area
    pixels: bytes
    selected: bytes

    def picture(self) -> bytes:
        """Return the picture as a PNG file."""
        return _png(self.pixels, self.area, 4, _Format.Format_ARGB32)

    def mask(self) -> bytes:
        """Return the selection as a PNG file, white where it is selected."""
        return _png(self.selected, self.area, 1, _Format.Format_Grayscale8)


def cut(document: Any) -> Cut:
    """Read what the server needs of a document: what the painter sees, and the selection.

    Raises:
        Problem: nothing on the canvas is selected.
    """
    selection = document.selection()
    bounds = Area(0, 0, 0, 0)
    if selection is not None:
        bounds = Area(selection.x(), selection.y(), selection.width(), selection.height())
    area = surroundings(bounds, Area(0, 0, document.width(), document.height()))
    document.refreshProjection()
    document.waitForDone()
    seen = document.projection(*area).convertToFormat(_Format.Format_ARGB32)
    return Cut(area, _bytes_of(seen), bytes(selection.pixelData(*area)))


def lay(document: Any, part: Cut, pictures: Sequence[tuple[int, bytes]], prompt: str) -> None:
    """Add painted pictures as layers where they were cut; several are a group with the first one shown.

    One step of undo removes them, since they are complete before they are added.

    Args:
        document: of ``part``.
        part: what was sent.
        pictures: a seed and a PNG file each.
        prompt: the name of the layers.

    Raises:
        Problem: a file is not the picture that was asked for.
    """
    name = " ".join(prompt.split())[:40] or "repainted"
    layers = [_layer(document, part, file, f"{name} · seed {seed}") for seed, file in pictures]
    top = layers[0]
    if len(layers) > 1:
        top = document.createGroupLayer(name)
        for layer in reversed(layers):  # each is put above the ones before
            layer.setVisible(layer is layers[0])
            top.addChildNode(layer, None)
    document.rootNode().addChildNode(top, None)
    document.refreshProjection()
    document.waitForDone()


def _layer(document: Any, part: Cut, file: bytes, name: str) -> Any:
    painted = QtGui.QImage.fromData(file).convertToFormat(_Format.Format_ARGB32)
    if (painted.width(), painted.height()) != (part.area.width, part.area.height):
        raise Problem("The server's picture is damaged or has another size than the one that was sent.")
    layer = document.createNode(name, "paintlayer")
    layer.setColorSpace("RGBA", "U8", _PROFILE)  # the pixels are that, whatever the document is
    layer.setPixelData(QtCore.QByteArray(patch(part.pixels, _bytes_of(painted), part.selected)), *part.area)
    return layer


def _bytes_of(image: Any) -> bytes:
    return bytes(image.constBits().asstring(image.sizeInBytes()))


def _png(data: bytes, area: Area, pixel_bytes: int, kind: Any) -> bytes:
    image = QtGui.QImage(data, area.width, area.height, area.width * pixel_bytes, kind)
    file = QtCore.QBuffer()
    file.open(QtCore.QIODevice.OpenModeFlag.WriteOnly)
    image.save(file, "PNG")
    return bytes(file.data())
