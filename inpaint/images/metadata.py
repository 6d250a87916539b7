"""Generation parameters in picture files: written with a painted picture, read back from it.

They are written twice: as our own JSON, exact, and as A1111's ``parameters`` text (``infotext``), which other
programs read. A PNG has both as text chunks (``inpaint``, ``parameters``); JPEG and WebP have them in EXIF
(``exif``). The caller's own EXIF, ICC, alpha and resolution stay; so do EXIF comments of other programs.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from PIL import Image

from inpaint._version import __version__
from inpaint.errors import InpaintError, RequestError
from inpaint.images import infotext
from inpaint.images.codec import MAX_JPEG_EXIF_BYTES, Picture, encode, open_checked
from inpaint.images.exif import Comments, comments, with_comments
from inpaint.lora.spec import combine, without_tags
from inpaint.request import DEFAULTS, RANGES, SETTINGS, InpaintRequest, InpaintResult, check_settings
from inpaint.schedulers import canonical_name

FORMAT = 1
SOFTWARE = "sdxl-inpaint"
PNG_JSON, PNG_TEXT = "inpaint", "parameters"

_MAX_BYTES = 250_000_000  # of a PNG of the largest picture that we paint; reading decodes no pixels
_UNSET = object()  # equals no value
_MAX_WARNINGS, _MAX_NAME = 20, 500
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # characters that neither files nor JSON over HTTP can hold


@dataclass(frozen=True, slots=True)
class Made:
    """The generation parameters of one picture.

    ``settings`` are fields of ``InpaintRequest`` and make a valid one: all but the pictures and ``samples``,
    with the seed of this one sample, so that they paint it again. ``box`` is (left, top, right, bottom) in
    pixels. Read from another program's text, ``settings`` are those that it holds, and ``box``,
    ``settings_hash`` and ``version`` are None.
    """

    settings: Mapping[str, Any]
    model: str | None = None
    box: tuple[int, int, int, int] | None = None
    settings_hash: str | None = None
    warnings: tuple[str, ...] = ()
    version: str | None = None


def made_by(
    request: InpaintRequest, result: InpaintResult, model: str, settings_hash: str | None = None
) -> list[Made]:
    """Return the parameters of each picture of ``result``; of a model's path only the file name is kept."""
    settings = {name: getattr(request, name) for name in SETTINGS if name != "samples"}
    name = PurePath(model).name or model
    return [
        Made(settings | {"seed": seed}, name, result.box, settings_hash, result.warnings, __version__)
        for seed in result.seeds
    ]


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
        quality: 1 to 100, of JPEG and WebP.

    Raises:
        RequestError: ``format`` or ``quality`` is unknown.
    """
    own = _without_ours(like.exif)
    if made is None:
        return encode(image, replace(like, exif=own), format, quality)
    settings = {name: _clean(value) for name, value in made.settings.items()}
    text = infotext.write(
        settings, image.size, made.model and _clean(made.model), made.version or __version__
    )
    own_json = _to_json(_as_dict(replace(made, settings=settings)))
    name = (format or like.format).upper()
    if name == "PNG":
        return encode(
            image, replace(like, exif=own), format, quality, text={PNG_TEXT: text, PNG_JSON: own_json}
        )
    limit = None if name == "WEBP" else MAX_JPEG_EXIF_BYTES
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
        None if found.xp and _from_json(found.xp) else found.xp,
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
        "settings_hash": made.settings_hash,
        "warnings": list(made.warnings),
    }


def _to_json(value: object, *, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"), default=asdict)


def _clean(value: Any) -> Any:
    return _NO_TEXT.sub("�", value) if isinstance(value, str) else value


def read(data: bytes) -> Made | None:
    """Read the generation parameters from a picture file's bytes; None if it holds none or is no picture.

    Never raises. Values are checked as a request's fields are, since the file may be a stranger's; wrong
    ones are left out.
    """
    try:
        opened = open_checked(data, max_bytes=_MAX_BYTES)
    except InpaintError:
        return None
    if opened.format == "PNG":
        texts = (opened.info.get(PNG_JSON), opened.info.get(PNG_TEXT))
    else:
        found = comments(opened.info.get("exif"))
        texts = (found.xp, found.user)
    own_json, text = (str(each) if each else "" for each in texts)
    return _from_json(own_json) or _from_text(text)


def _from_json(text: str) -> Made | None:
    if len(text) > infotext.MAX_CHARACTERS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("software") != SOFTWARE:
        return None
    settings, warnings = value.get("settings"), value.get("warnings")
    return Made(
        settings=_valid(settings if isinstance(settings, dict) else {}),
        model=_name(value.get("model")),
        box=_box(value.get("box")),
        settings_hash=_digest(value.get("settings_hash")),
        warnings=_texts(warnings if isinstance(warnings, list) else []),
        version=_name(value.get("version")),
    )


def _from_text(text: str) -> Made | None:
    found = infotext.read(text)
    return Made(_valid(found[0]), _name(found[1])) if found else None


def _valid(settings: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings that a request takes, in its own types: lists become tuples again."""
    good = {name: _clean(settings[name]) for name in SETTINGS if name in settings and name != "samples"}
    if isinstance(prompt := good.get("prompt"), str) and not _fits({"prompt": prompt}):
        good["prompt"] = without_tags(prompt)  # of another program, whose tags can say more than ours
    good = {name: value for name, value in good.items() if _fits({name: value})}
    coupled = ("strength", "num_inference_steps")
    # Too few steps for the strength would be refused.
    if not _fits({name: good.get(name, DEFAULTS[name]) for name in coupled}):
        good = {name: value for name, value in good.items() if name not in coupled}
    blank = Image.new("L", (16, 16))
    try:
        request = InpaintRequest(image=blank, mask=blank, **{"prompt": "", **good})
    except (InpaintError, TypeError, ValueError):
        return {}
    names = {*good, "loras"} if request.loras else good  # the prompt may have named LoRAs
    return {name: getattr(request, name) for name in names}


def _fits(settings: Mapping[str, object]) -> bool:
    try:
        check_settings(settings)
    except (RequestError, OverflowError, TypeError, ValueError):
        return False
    return True


def _name(value: object) -> str | None:
    return _clean(value)[:_MAX_NAME] if isinstance(value, str) and value else None


def _box(value: object) -> tuple[int, int, int, int] | None:
    if not (isinstance(value, list) and len(value) == 4 and all(type(side) is int for side in value)):
        return None
    left, top, right, bottom = value
    return (left, top, right, bottom) if 0 <= left < right <= 8192 and 0 <= top < bottom <= 8192 else None


def _digest(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else None


def _texts(values: list[object]) -> tuple[str, ...]:
    return tuple(_clean(v)[:_MAX_NAME] for v in values[:_MAX_WARNINGS] if isinstance(v, str))
