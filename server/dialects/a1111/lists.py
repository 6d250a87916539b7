"""The lists that clients fill their menus with: models, LoRAs, upscalers, and what there is none of."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from inpaint.errors import ModelError, RequestError, shown
from inpaint.lora.files import available_loras
from server.dialects.a1111.fields import Reading
from server.dialects.a1111.models import (
    LoraEntry,
    Memory,
    ModelEntry,
    Options,
    Scripts,
    UpscaleMode,
    Upscaler,
)
from server.dialects.a1111.scripts import SOFT
from server.engines.client import Health
from server.settings import Settings

_SUFFIX = ".safetensors"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Model:
    """A model of this server."""

    name: str
    in_channels: int | None  # of its UNet, if it is known

    @property
    def title(self) -> str:
        """The name by which clients choose it: a file's.

        image-generation-mcp takes a model for SDXL by "xl" in its title, and else asks for small pictures.
        """
        return f"{self.name if 'xl' in self.name.lower() else f'{self.name}-sdxl'}{_SUFFIX}"

    def entry(self) -> ModelEntry:
        """Return its line in the list of models."""
        return ModelEntry(title=self.title, model_name=self.title.removesuffix(_SUFFIX), filename=self.title)

    def options(self) -> Options:
        """Return the settings, in which this model is the chosen one."""
        return Options(sd_model_checkpoint=self.title)

    def is_called(self, name: str) -> bool:
        """Return whether a client means this model: by its title with or without a hash, or by its name."""
        plain = name.partition(" [")[0].strip().removesuffix(_SUFFIX).casefold()
        return plain in (self.name.casefold(), self.title.removesuffix(_SUFFIX).casefold())


def models_of(settings: Settings, health: Health) -> list[Model]:
    """Return the models, the first of which paints what names none."""
    return [Model(name, health.of(name).in_channels) for name in settings.models.names]


def chosen(fields: Mapping[str, object], models: Sequence[Model]) -> Model:
    """Return the model that a request's ``override_settings`` name; the only one, whatever they name.

    Raises:
        RequestError: there are several, and none is called so.
    """
    if len(models) == 1:
        return models[0]
    wanted = Reading(fields).table("override_settings").get("sd_model_checkpoint")
    if not wanted:
        return models[0]
    for model in models:
        if model.is_called(str(wanted)):
            return model
    titles = ", ".join(model.title for model in models)
    raise RequestError(
        "override_settings", f"sd_model_checkpoint must be one of {titles}, not {shown(str(wanted))}"
    )


def loras(settings: Settings) -> list[LoraEntry]:
    """Return the LoRAs that a prompt may name; it reads the folder, so call it in a thread."""
    try:
        names = [file.name for file in available_loras(settings.loras)]
    except ModelError as error:  # clients must start without the folder
        log.warning("no LoRAs", error=str(error))
        names = []
    return [LoraEntry(name=name, alias=name, path=name) for name in names]


def upscalers() -> Sequence[Upscaler]:
    """Return two: SillyTavern takes one out by its place, and shows what is left."""
    return [Upscaler(name="None", scale=4.0), Upscaler(name="Lanczos", scale=4.0)]


def upscale_modes() -> Sequence[UpscaleMode]:
    """Return the one that clients expect."""
    return [UpscaleMode(name="Latent")]


def scripts() -> Scripts:
    """Return the names of the scripts: none but ours, since clients switch on what they see."""
    return Scripts(img2img=[SOFT])


def memory() -> Memory:
    """Return the memory of this machine; that of the GPU is another process's."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"} <= names.keys():  # macOS, Windows
        return Memory(ram={"error": "unavailable"}, cuda={"error": "unavailable"})
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    return Memory(
        ram={"free": free, "used": total - free, "total": total},
        cuda={"error": "the GPU belongs to another process"},
    )
