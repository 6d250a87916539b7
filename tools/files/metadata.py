"""Rows about metadata: pictures of other programs read by ours and by two other readers, and ours by them.

The samples are those of ``metadata_samples``: written by hand, in the published formats.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inpaint._version import __version__
from inpaint.images.codec import Picture
from inpaint.images.made import Made
from inpaint.images.metadata import read, write
from inpaint.schedulers import SCHEDULERS
from tools.files.metadata_samples import Sample, samples
from tools.files.row import Row

Fields = Mapping[str, object]
FIELDS = ("prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale")
_BLANK = Image.new("RGB", (64, 64), "teal")
_PROMPTS = (
    "a red circle", "", "a, b: c", 'she said "hi"', "two\nlines", "猫 🐈", "(a:1.2), [b]", "back\\slash",
    "Steps: 3, Seed: 4", "x" * 4000,
)  # fmt: skip


def rows() -> list[Row]:
    """Return a row for each sample, and one for each format of our own pictures."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        return [
            *(_sample(path, each) for each in samples()),
            *(_own(path, each) for each in ("PNG", "JPEG", "WEBP")),
        ]


def _sample(path: Path, sample: Sample) -> Row:
    texts = PngInfo()
    for name, text in sample.texts.items():
        texts.add_text(name, text)
    file = io.BytesIO()
    _BLANK.save(file, "PNG", pnginfo=texts)
    path.write_bytes(file.getvalue())
    found = read(file.getvalue())
    assert found is not None, sample.kind
    assert found.settings == sample.says, sample.kind
    problems = "; ".join(each.problem for each in found.left_out)
    # A field that we could not take over is not compared: that is said in "read".
    ours = {name: found.settings[name] for name in FIELDS if name in found.settings}
    alike = {name: _alike(reader(path), ours) for name, reader in _READERS.items()}
    alike = {name: fields for name, fields in alike.items() if fields}
    wrong = max((fields.count(False) / len(fields) for fields in alike.values()), default=None)
    return Row(
        sample.kind,
        "by hand, after its source",
        f"in part: {problems}" if problems else "yes",
        wrong,
        ", ".join(f"{name} ({len(fields)} fields)" for name, fields in alike.items()),
    )


def _alike(theirs: Fields, ours: Fields) -> list[bool]:
    """Return for each field that another reader finds whether it is as ours."""
    return [_same(theirs[name], value) for name, value in ours.items() if theirs.get(name) not in (None, "")]


def _own(path: Path, format_: str) -> Row:
    varied = [*((each, "Euler a") for each in _PROMPTS), *(("a red circle", each) for each in SCHEDULERS)]
    made = [
        Made({"prompt": prompt, "negative_prompt": "bad, ugly", "seed": 7, "scheduler": scheduler,
              "num_inference_steps": 25, "guidance_scale": 6.5, "strength": 0.9})
        for prompt, scheduler in varied
    ]  # fmt: skip
    alike = dict.fromkeys(_READERS, 0)
    back = 0
    for each in made:
        data = write(_BLANK, Picture(_BLANK, format_), each)
        path.write_bytes(data)
        found = read(data)
        back += found is not None and found.settings == each.settings
        for name, reader in _READERS.items():
            theirs = reader(path)
            alike[name] += all(_same(theirs.get(field), each.settings[field]) for field in FIELDS)
    return Row(
        f"our own, in {format_}",
        f"sdxl-inpaint {__version__}",
        f"yes: {back} of {len(made)}",
        max(1 - n / len(made) for n in alike.values()),
        ", ".join(f"{name} ({n} of {len(made)} pictures alike)" for name, n in alike.items()),
    )


def _same(theirs: object, ours: object) -> bool:
    if isinstance(ours, int | float):
        try:
            return float(str(theirs)) == ours
        except ValueError:
            return False
    return str(theirs or "").strip() == str(ours or "").strip()


def _sd_parsers(path: Path) -> Fields:
    from sd_parsers import ParserManager

    try:
        found = ParserManager().parse(path)
    except Exception:  # noqa: BLE001 — it raises errors of many kinds for what it does not expect
        return {}
    if found is None or not found.samplers:
        return {}
    sampler = found.samplers[0]
    return {
        "prompt": ", ".join(str(prompt.value) for prompt in sampler.prompts),
        "negative_prompt": ", ".join(str(prompt.value) for prompt in sampler.negative_prompts),
        "seed": sampler.parameters.get("seed"),
        "num_inference_steps": sampler.parameters.get("steps"),
        "guidance_scale": sampler.parameters.get("cfg_scale"),
    }


def _sd_prompt_reader(path: Path) -> Fields:
    from sd_prompt_reader.image_data_reader import ImageDataReader

    try:
        found = ImageDataReader(path)
    except Exception:  # noqa: BLE001 — as above
        return {}
    if not found.tool or found.positive.startswith("{"):  # it takes JSON that it does not know for a prompt
        return {}
    # Of several samplers it gives all values, as "(12345, 0)".
    numbers = {name: str(value).strip("()").partition(",")[0] for name, value in found.parameter.items()}
    return {
        "prompt": found.positive,
        "negative_prompt": found.negative,
        "seed": numbers.get("seed"),
        "num_inference_steps": numbers.get("steps"),
        "guidance_scale": numbers.get("cfg"),
    }


_READERS: Mapping[str, Callable[[Path], Fields]] = {
    "sd-parsers 0.6": _sd_parsers,
    "sd-prompt-reader 1.3.5": _sd_prompt_reader,
}
