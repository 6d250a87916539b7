"""The texts of other programs in the EXIF of JPEG and WebP files, by the names that they have in a PNG."""

import re

from PIL import Image

from inpaint.images.exif import BROKEN, USER_COMMENT

# ComfyUI's saving nodes write "prompt:{…}" and "workflow:{…}" into fields such as the camera's model.
_NAMED = re.compile(r"(prompt|workflow|parameters)\s?:\s?(?=\{)", re.IGNORECASE)


def exif_texts(exif: bytes | None) -> dict[str, str]:
    """Return the texts of the first directory: named ones, and Fooocus' comment, which belongs elsewhere."""
    if not exif:
        return {}
    found: dict[str, str] = {}
    try:
        tags = Image.Exif()
        tags.load(exif)
        values = dict(tags)
    except BROKEN:
        return {}
    for tag, value in values.items():
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if not isinstance(text, str):
            continue
        if name := _NAMED.match(text):
            found[name[1].casefold()] = text[name.end() :]
        elif tag == USER_COMMENT:
            found.setdefault("parameters", text)
    return found
