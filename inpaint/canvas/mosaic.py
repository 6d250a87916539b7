"""The preview of a request with several boxes: the part of the picture around its whole mask, in small."""

from collections.abc import Mapping

from PIL import Image

from inpaint.canvas.crop import Cut
from inpaint.canvas.mask import VAE_FACTOR, Box
from inpaint.images.pixels import to_rgb

_MOST_PIXELS = 512  # a side: it is sent to the caller at each step


class Mosaic:
    """A small picture of the part around a request's whole mask, into which its boxes are laid."""

    def __init__(self, cut: Cut) -> None:
        """Scale the caller's picture down, once."""
        self._cut = cut
        left, top, right, bottom = cut.box
        # The box with the most detail keeps one pixel for each latent pixel, if that is not too many.
        scale = max(canvas.size[0] / VAE_FACTOR / (canvas.box[2] - canvas.box[0]) for canvas in cut.canvases)
        self._scale = min(scale, _MOST_PIXELS / max(right - left, bottom - top))
        size = (max(1, round((right - left) * self._scale)), max(1, round((bottom - top) * self._scale)))
        original = cut.canvases[0].original
        self._own = to_rgb(original.resize(size, Image.Resampling.NEAREST, box=cut.box))

    def with_previews(self, previews: Mapping[int, Image.Image]) -> Image.Image:
        """Return the picture with the previews (RGB) of some boxes, by their numbers, in their places."""
        shown = self._own.copy()
        for number, preview in previews.items():
            left, top, right, bottom = self._place(self._cut.canvases[number].box)
            # A box may reach beyond the part that is shown; what is pasted there is cut off.
            size = (max(1, right - left), max(1, bottom - top))
            shown.paste(preview.resize(size, Image.Resampling.BILINEAR), (left, top))
        return shown

    def _place(self, box: Box) -> Box:
        x, y = self._cut.box[:2]
        left, top, right, bottom = (
            round((side - origin) * self._scale) for side, origin in zip(box, (x, y, x, y), strict=True)
        )
        return left, top, right, bottom
