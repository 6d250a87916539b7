"""The steps from a decoded picture and its mask to what A1111 would paint."""

from dataclasses import dataclass, replace

from PIL import Image, ImageChops, ImageFilter

from inpaint.canvas.mask import strength
from inpaint.images.pixels import MASK_THRESHOLD
from server.dialects.pictures import Resize, flattened, resized, transparency
from server.service.order import Given

_ALPHA = 128  # upstream: alpha above it repaints, in a mask with any transparency


@dataclass(frozen=True, slots=True)
class Adaptation:
    """The changes to the pictures of an img2img request before they are painted.

    Attributes:
        size: (width, height) of the picture that is painted; None keeps the picture's.
        how: the way to that size.
        invert: whether black is repainted.
        blur: sigma of the mask's blur in x and y, in pixels, if its greys are strength; else None.
    """

    size: tuple[int, int] | None
    how: Resize
    invert: bool
    blur: tuple[float, float] | None

    def __call__(self, given: Given) -> Given:
        """Return the pictures in their final size, the first without transparency, with a mask (``L``).

        Without a mask, the transparent part is repainted, else the whole picture, which then shows through.

        Raises:
            RequestError: the mask is a photograph.
        """
        mask = _erased(given.image) if given.mask is None else self._repainted(given.mask)
        found = flattened(replace(given, mask=mask))
        found = resized(found, self.size or found.image.size, self.how)
        if found.mask is None:
            white = Image.new("L", found.image.size, 255)
            return replace(found, mask=white, settings={**found.settings, "fill": "original"})
        if self.blur is None:
            return found
        return replace(found, mask=found.mask.filter(ImageFilter.GaussianBlur(self.blur)))

    def _repainted(self, mask: Image.Image) -> Image.Image:
        alpha = mask.getchannel("A") if mask.mode in ("LA", "RGBA") else None
        if alpha is None or alpha.getextrema()[0] == 255:
            return strength(mask, soft=self.blur is not None, invert=self.invert)
        white = alpha.point([255 if level > _ALPHA else 0 for level in range(256)])
        return ImageChops.invert(white) if self.invert else white


def _erased(image: Image.Image) -> Image.Image | None:
    """Return the transparent part of a picture as a mask; None if nothing in it is more than half so."""
    mask = transparency(image)
    return None if mask is None or int(mask.getextrema()[1]) < MASK_THRESHOLD else mask  # type: ignore[arg-type]
