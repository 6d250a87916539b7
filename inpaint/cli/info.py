"""What ``inpaint info`` says about a picture."""

from pathlib import Path

from inpaint.image import decode


def describe(path: Path) -> dict[str, object]:
    """Facts about a picture file, upright, in the words of the command line.

    Raises:
        RequestError: missing, damaged, too large, or not a picture.
    """
    picture = decode(path)
    width, height = picture.image.size
    return {
        "file": str(path),
        "format": picture.format,
        "width": width,
        "height": height,
        "mode": picture.image.mode,
        "bytes": path.stat().st_size,
        "icc_profile": f"{len(picture.icc_profile)} bytes" if picture.icc_profile else "none",
        "exif": f"{len(picture.exif)} bytes" if picture.exif else "none",
        "dpi": "×".join(f"{value:.0f}" for value in picture.dpi) if picture.dpi else "none",
    }
