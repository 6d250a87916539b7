"""Generation parameters in picture files: written with a painted picture, read back from it.

They are written twice: as our own JSON, exact, and as A1111's ``parameters`` text (``infotext``), which other
programs read. A PNG has both as text chunks (``inpaint``, ``parameters``); the other formats have them in
EXIF (``exif``). The caller's own EXIF, ICC, alpha and resolution stay; so do EXIF comments of other programs.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import PurePath
from typing import Any

from PIL import Image

from inpaint._version import __version__
from inpaint.errors import InpaintError
from inpaint.images import infotext
from inpaint.images.codec import Picture, exif_of, open_checked
from inpaint.images.encoding import MAX_JPEG_EXIF_BYTES, encode, name_of
from inpaint.images.exif import Comments, comments, with_comments
from inpaint.images.foreign_metadata import comfyui, flat
from inpaint.images.foreign_metadata.exif_texts import exif_texts
from inpaint.images.foreign_metadata.found import json_object
from inpaint.images.made import SOFTWARE, Made, clean, from_found, from_own
from inpaint.lora.spec import combine
from inpaint.request import DEFAULTS, RANGES, SETTINGS, InpaintRequest, InpaintResult
from inpaint.schedulers import canonical_name

FORMAT = 1
PNG_JSON, PNG_TEXT = "inpaint", "parameters"

_MAX_BYTES = 250_000_000  # of a PNG of the largest picture that we paint; reading decodes no pixels
_UNSET = object()  # equals no value


def made_by(
    request: InpaintRequest, result: InpaintResult, model: str, settings_hash: str | None = None
) -> list[Made]:
    """Return the parameters of each picture of ``result``; of a model's path only the file name is kept."""
    settings = {name: getattr(request, name) for name in SETTINGS if name != "samples"}
    name = PurePath(model).name or model
    how = (name, result.box, settings_hash, result.warnings, __version__, max(1, len(result.boxes)))
    return [Made(settings | {"seed": seed}, *how) for seed in result.seeds]


def settings_hash(settings: Mapping[str, object], model: str, files: Iterable[bytes]) -> str:
    """Hash everything that decides what is painted; 64 hex digits.

    Fields at their default do not count, so that a later version's new fields change no hash.

    Args:
        settings: fields of a request and anything else that matters, such as ``extend``. A ``seed`` of -1
            counts as any seed (it is the default), ``samples`` not at all: each sample is its own picture.
        model: its name or path, as given.
        files: the bytes of the picture and of the mask, if there is one.

    Raises:
        RequestError: the scheduler is unknown, or the LoRAs cannot be read.
    """
    prompt, loras = combine(str(settings.get("prompt", "")), settings.get("loras"))
    given = {**settings, "prompt": prompt, "loras": loras}
    given = {name: _canonical(name, value) for name, value in given.items() if name != "samples"}
    parts = {
        "settings": {name: value for name, value in given.items() if value != DEFAULTS.get(name, _UNSET)},
        "model": model,
        "files": [hashlib.sha256(data).hexdigest() for data in files],
    }
    found = _to_json(parts, sort_keys=True).encode("utf-8", "surrogatepass")
    return hashlib.sha256(found).hexdigest()


def _canonical(name: str, value: object) -> object:
    """Return one spelling for values that paint the same: 7 and 7.0, ``ddim`` and ``DDIM``."""
    if name == "scheduler":
        return canonical_name(str(value))
    if name in RANGES and RANGES[name].kind is float and isinstance(value, int):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def write(
    image: Image.Image,
    like: Picture,
    made: Made | None,
    format: str | None = None,  # noqa: A002 — as in ``codec.encode``
    quality: int = 95,
) -> bytes:
    """Encode ``image`` as ``codec.encode`` does, together with its generation parameters.

    A JPEG holds 64 kB of EXIF: what does not fit is left out, first the JSON, then the text.

    Args:
        image: the painted picture.
        like: the picture whose metadata and, unless ``format`` is given, format the file gets.
        made: its parameters; None writes none, and leaves out those of an earlier painting too.
        format: as in ``codec.encode``.
        quality: 1 to 100, of JPEG, WebP and AVIF.

    Raises:
        RequestError: ``format`` or ``quality`` is unknown.
    """
    own = _without_ours(like.exif)
    if made is None:
        return encode(image, replace(like, exif=own), format, quality)
    settings = {name: clean(value) for name, value in made.settings.items()}
    text = infotext.write(settings, image.size, made.model and clean(made.model), made.version or __version__)
    own_json = _to_json(_as_dict(replace(made, settings=settings)))
    name = name_of(format, like)
    if name == "PNG":
        return encode(
            image, replace(like, exif=own), format, quality, text={PNG_TEXT: text, PNG_JSON: own_json}
        )
    limit = MAX_JPEG_EXIF_BYTES if name == "JPEG" else None
    return encode(image, replace(like, exif=_exif_with(own, text, own_json, limit)), format, quality)


def _exif_with(own: bytes | None, text: str, own_json: str, limit: int | None) -> bytes | None:
    """Return ``own`` with both texts, with the shorter one alone, or unchanged: whichever fits ``limit``."""
    theirs = comments(own)  # of another program, and not ours to replace
    for new in (Comments(text, own_json), Comments(text, None)):
        exif = with_comments(own, Comments(theirs.user or new.user, theirs.xp or new.xp))
        if limit is None or exif is None or len(exif) <= limit:
            return exif
    return own


def _without_ours(exif: bytes | None) -> bytes | None:
    """Return the caller's EXIF without the comments that an earlier painting wrote."""
    if exif is None:
        return None
    found = comments(exif)
    keep = Comments(
        None if found.user and infotext.read(found.user) else found.user,
        None if found.xp and _own(found.xp) else found.xp,
    )
    return exif if keep == found else with_comments(exif, keep)


def _as_dict(made: Made) -> dict[str, object]:
    return {
        "software": SOFTWARE,
        "format": FORMAT,
        "version": made.version or __version__,
        "model": made.model,
        "settings": dict(made.settings),
        "box": made.box,
        **({"boxes": made.boxes} if made.boxes > 1 else {}),
        "settings_hash": made.settings_hash,
        "warnings": list(made.warnings),
    }


def _to_json(value: object, *, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"), default=asdict)


def read(data: bytes) -> Made | None:
    """Read the generation parameters from a picture file's bytes; None if it holds none or is no picture.

    Our own, A1111's text and what its relatives make of it, InvokeAI's, ComfyUI's, Fooocus', SwarmUI's or
    NovelAI's. Never raises. Values are checked as a request's fields are, since the file may be a stranger's;
    ``left_out`` says which were wrong.
    """
    try:
        opened = open_checked(data, max_bytes=_MAX_BYTES)
    except InpaintError:
        return None
    texts = _texts(opened)
    own = _own(texts.get(PNG_JSON))
    if own is not None:
        return from_own(own)
    found = infotext.read(texts.get(PNG_TEXT, "")) or flat.read(texts) or comfyui.read(texts)
    return from_found(found) if found else None


def texts_of(data: bytes) -> dict[str, str]:
    """Return the texts of a picture file by the names that they have in a PNG, unread and unchecked.

    Raises:
        RequestError: it is no picture, damaged or too large; it names the field ``image``.
    """
    return _texts(open_checked(data, max_bytes=_MAX_BYTES))


def _texts(opened: Image.Image) -> dict[str, str]:
    """Return the texts of a file by the names that they have in a PNG."""
    if opened.format == "PNG":
        return {str(name): text for name, text in opened.info.items() if isinstance(text, str)}
    exif = opened.info.get("exif") or exif_of(opened)
    found = comments(exif)
    named = {PNG_JSON: found.xp, PNG_TEXT: found.user}
    return exif_texts(exif) | {name: text for name, text in named.items() if text}


def _own(text: str | None) -> dict[str, Any] | None:
    """Return our own JSON; None if ``text`` is something else."""
    value = json_object(text)
    return value if value is not None and value.get("software") == SOFTWARE else None
