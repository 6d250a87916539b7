"""The pixels of decoded pictures: turned upright, and in the forms in which models and masks see them.

Decoded pictures have one of five modes: ``L``, ``LA``, ``RGB``, ``RGBA`` (8 bits) or ``I;16`` (16-bit grey).
Pillow itself reads colours of 16 bits a channel as 8 bits; 16-bit grey is kept.
"""

import io

import numpy as np
from PIL import Image, ImageCms

from inpaint.errors import RequestError
from inpaint.images.container import DAMAGED
from inpaint.request import orientation

MODES = ("L", "LA", "RGB", "RGBA", "I;16")
MASK_THRESHOLD = 128  # luminance from which a mask repaints; diffusers binarises at 0.5 too

_TRANSPARENT = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA", "PA": "RGBA"}
_OPAQUE = {"1": "L", "P": "RGB", "PA": "RGB", "La": "LA", "RGBa": "RGBA"}
_SIXTEEN_BIT = ("I", "I;16B", "I;16L", "I;16N")
_ORIENTED_INFO = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where other readers look
_STRIP = 256  # rows
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, field: str = "image") -> Image.Image:
    """Return ``image`` turned by its EXIF orientation and in one of ``MODES``.

    An image that is both already is returned itself; the caller's picture is never changed. 32-bit ``I`` is
    read as 16-bit grey and clipped to it.

    Raises:
        RequestError: the pixels cannot be read, or their mode says nothing about their range (``F``).
    """
    try:
        image.load()
        turn = _TURNS.get(orientation(image))
        plain = _to_mode(image, field)
    except DAMAGED as error:
        raise RequestError(field, "cannot be decoded: the file behind it is damaged or gone") from error
    if turn is None:
        return plain
    turned = plain.transpose(turn)
    for key in _ORIENTED_INFO:  # else the next reader would turn it again
        turned.info.pop(key, None)
    return turned


def _to_mode(image: Image.Image, field: str) -> Image.Image:
    if image.has_transparency_data and image.mode in _TRANSPARENT:
        return image.convert(_TRANSPARENT[image.mode])
    if image.mode in MODES:
        return image
    if image.mode in _SIXTEEN_BIT:
        return keeping_info(Image.fromarray(np.clip(np.asarray(image), 0, 65_535).astype(np.uint16)), image)
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode == "F":
        raise RequestError(
            field, "must be a picture of whole numbers (mode L, RGB, RGBA or I;16), not of mode F"
        )
    return image.convert(_OPAQUE.get(image.mode, "RGB"))


def keeping_info(image: Image.Image, source: Image.Image) -> Image.Image:
    """Return ``image`` with the ``info`` of ``source``, which it was made of."""
    image.info = dict(source.info)
    return image


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    icc = image.info.get("icc_profile")
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a profile that lcms refuses: convert without it
            converted = None
        if converted is not None:
            return keeping_info(converted, converted)
    converted = image.convert("RGB")
    converted.info.pop("icc_profile", None)  # it describes inks, not these channels
    return converted


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an upright picture to what a model sees: RGB, 8 bits.

    16-bit grey is scaled (65535 becomes 255), where Pillow's own convert clips at 255. Transparency is
    laid over white: that is how browsers and JPEG show it, and the colour under alpha 0 is arbitrary.
    """
    if image.mode == "I;16":
        image = eight_bit(image)
    if image.mode in ("LA", "RGBA"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (`I;16`) to 8 bits: 65535 becomes 255."""
    return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))


def mask_to_grey(mask: Image.Image) -> Image.Image:
    """Return the luminance of a mask, 0 to 255 (``L``), upright; transparent parts count as black.

    Raises:
        RequestError: the mask cannot be read.
    """
    mask = upright(mask, "mask")
    grey = Image.new("L", mask.size)
    for top in range(0, mask.height, _STRIP):  # whole, 25 megapixels with alpha would take 400 MB
        strip = mask.crop((0, top, mask.width, min(top + _STRIP, mask.height)))
        grey.paste(_strip_to_grey(strip), (0, top))
    return grey


def _strip_to_grey(strip: Image.Image) -> Image.Image:
    if strip.mode == "I;16":
        return eight_bit(strip)
    if strip.mode in ("LA", "RGBA"):
        rgba = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", strip.size, "black"), rgba).convert("L")
    return strip.convert("L")


def mask_to_l(mask: Image.Image, threshold: int = MASK_THRESHOLD) -> Image.Image:
    """Return a mask (``L``) of 255 where the luminance of ``mask`` is ``threshold`` or more, else 0."""
    return mask_to_grey(mask).point([0] * threshold + [255] * (256 - threshold))
