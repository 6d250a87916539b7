"""From a task to a request: read the picture and its mask, and see what is to be written where."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from inpaint.canvas.crop import extend
from inpaint.cli.run.masks import ALPHA, from_alpha
from inpaint.cli.run.outputs import Claims
from inpaint.cli.run.resume import ResumeIndex, Standing
from inpaint.cli.run.tasks import Refused, Task
from inpaint.errors import RequestError
from inpaint.images.codec import Picture, decode, read_file
from inpaint.images.metadata import settings_hash
from inpaint.lora.files import find_lora
from inpaint.lora.spec import combine
from inpaint.request import InpaintRequest, check_settings
from inpaint.weights.verify import sha256_of


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A task whose picture passed its checks."""

    task: Task
    picture: Picture
    request: InpaintRequest
    mask: str | None  # where it came from
    outputs: tuple[Path, ...]
    kept: tuple[Path, ...]  # outputs that are there and stay
    settings_hash: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A task whose results are there already."""

    task: Task
    mask: str | None
    outputs: tuple[Path, ...]
    seeds: tuple[int, ...]
    settings_hash: str


@dataclass(frozen=True, slots=True)
class Preparer:
    """Picks one task after the other; ``resume_index`` is None unless the run resumes another."""

    claims: Claims
    model: str  # its identity
    resume_index: ResumeIndex | None
    loras: Path | None  # the folder
    lora_digests: dict[str, str] = field(default_factory=dict)  # by name, as they are asked for

    def pick(self, task: Task | Refused) -> Prepared | Skipped:
        """Read one picture and its mask, and check that the result can be written.

        Raises:
            RequestError: the picture, the mask or a setting is at fault, or an output exists.
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
        source = ALPHA if task_settings.mask.is_alpha else str(mask) if mask else None
        standing = self._standing(task, digest)
        # Drawn here, not in the engine, because the output's name may hold it.
        first = secrets.randbits(32) if settings["seed"] == -1 else settings["seed"]
        seeds = standing.seeds or tuple(first + n for n in range(settings["samples"]))
        outputs = tuple(task_settings.output.paths(task.picture, seeds))
        self.claims.claim(task.picture.path, mask, outputs, standing.kept)
        if standing.complete:
            return Skipped(task, source, outputs, seeds, digest)
        picture = decode(data)
        image, white = _masked(task, picture.image, mask_data)
        request = InpaintRequest(image=image, mask=white, **{**settings, "seed": seeds[0]})
        return Prepared(task, picture, request, source, outputs, standing.kept, digest)

    def _hash(self, task: Task, data: bytes, mask_data: bytes | None) -> str:
        task_settings = task.settings
        settings = dict(task_settings.request) | (
            {"extend": task_settings.extend} if any(task_settings.extend) else {}
        )
        _, uses = combine(str(settings["prompt"]), settings.get("loras"))
        if uses:  # names alone would not tell a file from the one that took its place
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

    def _standing(self, task: Task, digest: str) -> Standing:
        if self.resume_index is None:
            return Standing()
        settings = task.settings.request
        return self.resume_index.standing(
            task.picture,
            task.settings.output,
            settings_hash=digest,
            seed=settings["seed"],
            samples=settings["samples"],
        )


def _mask_of(task: Task) -> Path | None:
    """The file that the mask is in; None where it is the picture's alpha, or none is needed."""
    task_settings, picture = task.settings, task.picture
    if any(task_settings.extend) and task_settings.mask.text is None:
        return None  # one that lies beside the picture is not asked for
    mask = task_settings.mask.of(picture)
    if mask is None and not task_settings.mask.is_alpha:
        raise RequestError(
            "mask",
            "give --mask PICTURE (white = repaint) or --extend L,T,R,B, or put "
            f"{picture.path.stem}_mask.png next to the picture",
        )
    return mask


def _masked(task: Task, image: Image.Image, mask_data: bytes | None) -> tuple[Image.Image, Image.Image]:
    """The picture and its mask, both larger where the task extends it."""
    task_settings = task.settings
    if task_settings.mask.is_alpha:
        mask: Image.Image | None = from_alpha(image)
    else:
        mask = decode(mask_data, "mask").image if mask_data is not None else None
    if any(task_settings.extend):
        return extend(image, mask, *task_settings.extend)
    assert mask is not None
    return image, mask
