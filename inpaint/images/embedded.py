"""XMP and IPTC: title, keywords, copyright. Both are kept, without what would show or turn the old picture.

XMP may say how to turn the picture. Browsers look only into EXIF for that, and so do we: what is written is
upright, and its XMP says so. XMP and IPTC may hold previews, which would still show what was painted over.
"""

import re
import struct

from PIL import Image

MAX_XMP_BYTES = 1_000_000
XMP_TAG, IPTC_TAG = 700, 33723  # of TIFF
XMP_KEYWORD = "XML:com.adobe.xmp"  # of PNG's text chunk

_IPTC_RESOURCE = 0x0404  # of Photoshop's block in a JPEG
_ORIENTATION = re.compile(rb"""(tiff:Orientation\s{0,9}(?:=\s{0,9}["']|>\s{0,9}))\d""")
_PREVIEWS = (b"Thumbnails>", b"Thumbnails ", b"GImage:Data", b"GDepth:Data")
_IPTC_PREVIEW = b"\x1c\x02\xca"  # record 2, data set 202
_PHOTOSHOP = b"Photoshop 3.0\0"
_MAX_SEGMENT_BYTES = 65_533


def xmp_of(opened: Image.Image) -> bytes | None:
    """Return a file's XMP, which says that the picture is upright; None if it has none that can be kept."""
    found = opened.info.get("xmp") or opened.info.get(XMP_KEYWORD)
    found = found.encode("utf-8", "replace") if isinstance(found, str) else found
    if isinstance(found, tuple) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in found):
        found = bytes(found)
    if not isinstance(found, bytes) or not found.strip(b"\0 ") or len(found) > MAX_XMP_BYTES:
        return None
    found = _without_thumbnails(found)
    if any(preview in found for preview in _PREVIEWS):
        return None
    return _ORIENTATION.sub(rb"\g<1>1", found)


def _without_thumbnails(xmp: bytes) -> bytes:
    for prefix in (b"xmp", b"xap"):
        start, closing = xmp.find(b"<" + prefix + b":Thumbnails"), b"</" + prefix + b":Thumbnails>"
        end = xmp.rfind(closing)
        if 0 <= start < end:
            xmp = xmp[:start] + xmp[end + len(closing) :]
    return xmp


def iptc_of(opened: Image.Image) -> bytes | None:
    """Return the IPTC of a JPEG or TIFF; None if it has none that can be kept."""
    photoshop = opened.info.get("photoshop")
    found = photoshop.get(_IPTC_RESOURCE) if isinstance(photoshop, dict) else None
    if found is None and hasattr(opened, "tag_v2"):
        found = opened.tag_v2.get(IPTC_TAG)
    return found if isinstance(found, bytes) and found and _IPTC_PREVIEW not in found else None


def jpeg_segment(iptc: bytes) -> bytes:
    """Return the segment of a JPEG that holds IPTC; nothing if it does not fit into one."""
    resource = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = _PHOTOSHOP + resource
    if len(body) > _MAX_SEGMENT_BYTES:
        return b""
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
