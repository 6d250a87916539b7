"""The facts about a picture file that ``inpaint info`` prints."""

from dataclasses import asdict
from pathlib import Path

from inpaint.images.codec import decode, read_file
from inpaint.images.metadata import read


def describe(path: Path) -> dict[str, object]:
    """Return the facts about a picture file by name; ``made`` is how it was painted, None if it is unknown.

    Width and height are those of the picture turned upright by its EXIF orientation.

    Raises:
        RequestError: missing, damaged, too large, or not a picture.
    """
    data = read_file(path)
    picture, made = decode(data, path=path), read(data)
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
        "made": asdict(made) if made else None,
    }


def lines(facts: dict[str, object]) -> list[str]:
    """Return the facts as text, one per line; a prompt of several lines is indented below its name."""
    rows = {name: value for name, value in facts.items() if name != "made"}
    made = facts["made"]
    if isinstance(made, dict):
        rows |= {"made by": _maker(made), **made["settings"]}
        rows |= {name: made[name] for name in ("box", "warnings") if made[name]}
        if made["left_out"]:
            rows["left out"] = "\n".join(each["problem"] for each in made["left_out"])
    width = max(map(len, rows)) + 1
    return [
        f"{name:<{width}} " + _shown(value).replace("\n", "\n" + " " * (width + 1))
        for name, value in rows.items()
    ]


def _maker(made: dict[str, object]) -> str:
    tool = f"inpaint {made['version']}" if made["version"] else str(made["tool"] or "another program")
    return f"{tool}, model {made['model']}" if made["model"] else tool


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
