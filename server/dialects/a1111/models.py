"""The bodies of A1111's answers; clients check their types strictly, those of null included."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Pictures(BaseModel):
    """The answer to img2img and txt2img."""

    images: Annotated[list[str], Field(description="PNG files in base64; none if it was interrupted.")]
    parameters: Annotated[dict[str, Any], Field(description="The request without its pictures.")]
    info: Annotated[str, Field(description="JSON text: seeds, sampler, and the text in each picture.")]


class State(BaseModel):
    """The state of a caller's requests; all fields are required by sd-backend-client."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class Progress(BaseModel):
    """The progress of a caller's oldest request; 0 and a ``job_count`` of 0 while there is none."""

    progress: float = 0.0
    eta_relative: Annotated[float, Field(description="Seconds that are left.")] = 0.0
    state: State = State()
    current_image: Annotated[str | None, Field(description="A rough PNG in base64.")] = None
    textinfo: str | None = None


class Options(BaseModel):
    """The settings of a web UI that clients look at; no request changes them."""

    sd_model_checkpoint: Annotated[str, Field(description="A ``title`` of sd-models.")]
    samples_format: str = "png"
    sd_vae: str = "Automatic"
    CLIP_stop_at_last_layers: int = 1
    sd_checkpoint_hash: str = ""


class ModelEntry(BaseModel):
    """A checkpoint."""

    model_config = ConfigDict(protected_namespaces=())

    title: str
    model_name: str
    hash: str | None = None
    sha256: str | None = None
    filename: str
    config: str | None = None


class Sampler(BaseModel):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, str] = {}


class ScheduleType(BaseModel):
    """A spacing of the steps."""

    name: str
    label: str
    aliases: list[str] = []
    default_rho: float = -1.0
    need_inner_model: bool = False


class LoraEntry(BaseModel):
    """A LoRA, for ``<lora:name:1>`` in a prompt."""

    name: str
    alias: str
    path: str
    metadata: dict[str, str] = {}


class Upscaler(BaseModel):
    """A way to enlarge pictures; clients want two, and use none of them here."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float


class UpscaleMode(BaseModel):
    """A way to enlarge latents."""

    name: str


class Embeddings(BaseModel):
    """Textual inversions, of which there are none."""

    loaded: dict[str, Any] = {}
    skipped: dict[str, Any] = {}


class Scripts(BaseModel):
    """The names of the scripts, in lower case."""

    txt2img: list[str] = []
    img2img: list[str]


class ScriptArgument(BaseModel):
    """An argument of a script; the numbers describe its slider."""

    label: str
    value: bool | float
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: list[str] | None = None


class ScriptInfo(BaseModel):
    """A script and its arguments."""

    name: str
    is_alwayson: bool = True
    is_img2img: bool = True
    args: list[ScriptArgument]


class Memory(BaseModel):
    """The memory of this machine, in bytes."""

    ram: dict[str, float | str]
    cuda: dict[str, str]


class PngInfo(BaseModel):
    """The settings of a picture, as its file says them."""

    info: Annotated[str, Field(description="The text ``parameters``; empty if there is none.")]
    items: Annotated[dict[str, str], Field(description="The file's other texts.")]
    parameters: Annotated[dict[str, str], Field(description="The pairs of ``info``.")]
