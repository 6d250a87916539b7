"""The step from a task to a request: its picture and mask are read, its outputs are checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from inpaint.canvas.crop import extend
from inpaint.canvas.mask import fitted, strength
from inpaint.cli.run.masks import ALPHA, from_alpha
from inpaint.cli.run.outputs import Claims
from inpaint.cli.run.resume import Existing, ResumeIndex
from inpaint.cli.run.tasks import Refused, Task, pixels
from inpaint.errors import RequestError
from inpaint.images.codec import Picture, decode, read_file
from inpaint.images.metadata import settings_hash
from inpaint.lora.files import find_lora
from inpaint.lora.spec import combine
from inpaint.request import (
    DEFAULTS,
    MASK_WAS_READ,
    InpaintRequest,
    check_same_size,
    check_settings,
    drawn_seed,
    seeds_from,
)
from inpaint.weights.verify import sha256_of

# Formats whose results are PNG unless the user names another, and why.
_BECOMES_PNG = {
    "AVIF": "AVIF would change pixels outside the mask; for AVIF all the same, use -o NAME.avif",
    "HEIF": "HEIC is only read",
}


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A task whose picture passed its checks."""

    task: Task
    picture: Picture
    request: InpaintRequest
    mask: str | None  # the mask's file, "alpha" or "selection"
    outputs: tuple[Path, ...]
    kept: tuple[Path, ...]  # outputs that exist already and stay
    settings_hash: str
    notes: tuple[str, ...] = ()  # what of the picture is not painted or kept


@dataclass(frozen=True, slots=True)
class Skipped:
    """A task whose results exist already."""

    task: Task
    mask: str | None
    outputs: tuple[Path, ...]
    seeds: tuple[int, ...]
    settings_hash: str


@dataclass(frozen=True, slots=True)
class Preparer:
    """The checks on the tasks of one run; ``resume_index`` is None unless it resumes another run."""

    claims: Claims
    model: str  # the model's identity
    resume_index: ResumeIndex | None
    loras: Path | None  # the folder of LoRA files
    lora_digests: dict[str, str] = field(default_factory=dict)  # by name, as they are needed

    def pick(self, task: Task | Refused) -> Prepared | Skipped:
        """Read one picture and its mask, and check that the result can be written.

        Raises:
            RequestError: the picture, the mask or a setting is wrong, or an output exists.
            OutputError: an output cannot be written.
        """
        if isinstance(task, Refused):
            raise task.error
        task_settings = task.settings
        settings = dict(task_settings.request)
        check_settings(settings)
        data = read_file(task.picture.path)
        mask = _mask_of(task)
        mask_data = read_file(mask, "mask") if mask else None
        digest = self._hash(task, data, mask_data)
        source = _source(task, mask)
        existing = self._existing(task, digest)
        # Drawn here, not in the engine, because the output's name may contain it.
        drawn = seeds_from(drawn_seed(settings["seed"]), settings["samples"])
        seeds = existing.seeds or tuple(drawn)
        outputs = tuple(task_settings.output.paths(task.picture, seeds))
        self.claims.claim(task.picture.path, mask, outputs, existing.kept)
        if existing.complete:
            return Skipped(task, source, outputs, seeds, digest)
        picture = decode(data, path=task.picture.path)
        given, channel = self._given(task, picture.image, mask, mask_data, outputs)
        image, white, read = _masked(task, picture.image, given, channel)
        request = InpaintRequest(image=image, mask=white, **{**settings, **read, "seed": seeds[0]})
        notes = _notes(task, picture, outputs)
        return Prepared(task, picture, request, source, outputs, existing.kept, digest, notes)

    def _given(
        self, task: Task, image: Image.Image, path: Path | None, data: bytes | None, outputs: Sequence[Path]
    ) -> tuple[Image.Image | None, Any]:
        """Return a picture's mask and the channel that is read of it; None if only what is added is painted.

        ``path`` and ``data`` are the mask file's, None where there is none.
        """
        settings = task.settings
        if settings.select is not None:
            made = settings.select.mask(image, task.picture.path, outputs, self.claims)
            return made, DEFAULTS["mask_channel"]
        if settings.mask.is_alpha:
            return from_alpha(image), DEFAULTS["mask_channel"]
        given = None if data is None else decode(data, "mask", path=path).image
        return given, settings.request["mask_channel"]

    def _hash(self, task: Task, data: bytes, mask_data: bytes | None) -> str:
        task_settings = task.settings
        settings = dict(task_settings.request) | (
            {"extend": task_settings.extend} if any(task_settings.extend) else {}
        )
        if task_settings.select is not None:
            settings["select"] = task_settings.select.facts
        _, uses = combine(str(settings["prompt"]), settings.get("loras"))
        if uses:  # a name alone would not show that its file was replaced
            settings["lora_files"] = [self._lora_digest(use.name) for use in uses]
        files = [data, ALPHA.encode() if task_settings.mask.is_alpha else mask_data or b""]
        return settings_hash(settings, self.model, files)

    def _lora_digest(self, name: str) -> str:
        if name not in self.lora_digests:
            file = find_lora(name, self.loras)
            try:
                self.lora_digests[name] = file.sha256 if file.state == "pinned" else sha256_of(file.path)
            except OSError as error:
                raise RequestError("loras", f"{file.path} cannot be read: {error.strerror}") from error
        return self.lora_digests[name]

    def _existing(self, task: Task, digest: str) -> Existing:
        if self.resume_index is None:
            return Existing()
        settings = task.settings.request
        return self.resume_index.existing(
            task.picture,
            task.settings.output,
            settings_hash=digest,
            seed=settings["seed"],
            samples=settings["samples"],
        )


def _source(task: Task, mask: Path | None) -> str | None:
    """Return what a report calls a task's mask."""
    if task.settings.select is not None:
        return task.settings.select.mask_name
    return ALPHA if task.settings.mask.is_alpha else str(mask) if mask else None


def _notes(task: Task, picture: Picture, outputs: tuple[Path, ...]) -> tuple[str, ...]:
    """Return sentences on what of the picture is not painted or kept, and why its format changes."""
    notes = tuple(f"image: it {note}" for note in picture.notes)
    chosen = task.settings.output.names_formats or outputs[0].suffix.lower() != ".png"
    if chosen or picture.format not in _BECOMES_PNG:
        return notes
    return (*notes, f"image: it becomes PNG, because {_BECOMES_PNG[picture.format]}")


def _mask_of(task: Task) -> Path | None:
    """Return the mask's file; None if the mask is the picture's alpha, is selected, or none is needed."""
    task_settings, picture = task.settings, task.picture
    if task_settings.select is not None:
        return None
    if any(task_settings.extend) and task_settings.mask.text is None:
        return None  # a mask file next to the picture was not asked for
    mask = task_settings.mask.of(picture)
    if mask is None and not task_settings.mask.is_alpha:
        raise RequestError(
            "mask",
            "give --mask PICTURE (white = repaint), --select X,Y or --extend L,T,R,B, or put "
            f"{picture.path.stem}_mask.png next to the picture",
        )
    return mask


def _masked(
    task: Task, image: Image.Image, given: Image.Image | None, channel: Any
) -> tuple[Image.Image, Image.Image, Mapping[str, Any]]:
    """Return the picture and its mask, both enlarged if the task extends it, and changed settings."""
    settings, extension = task.settings.request, pixels(task.settings.extend, image.size)
    if not any(extension):
        assert given is not None
        return image, given, {"mask_channel": channel}
    if given is not None:
        check_same_size(image.size, given.size, resize=settings["resize_mask"])
        read = strength(given, soft=settings["soft"], channel=channel, invert=settings["invert_mask"])
        given = fitted(read, image.size)
    return *extend(image, given, *extension), MASK_WAS_READ
