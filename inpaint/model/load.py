"""Loading a :class:`Model` from a local diffusers folder or a single .safetensors file.

Where the files come from is up to ``weights``, what is done with the model up to ``engine``. Everything is
loaded by local path; the hub is never asked.
"""

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from inpaint.about import About, about
from inpaint.cpu import FULL_SIZE, bf16_units
from inpaint.drivers import too_old, unused_gpu
from inpaint.errors import DeviceError, ModelError, RequestError
from inpaint.gpu_errors import translated
from inpaint.lora.fuse import fuse
from inpaint.memory import MemoryPlan, choose_plan, free_bytes, place, recast
from inpaint.weights import check_fits
from inpaint.weights.prediction import check_prediction, settings_of_file, settings_of_folder
from inpaint.weights.safety import find_weights, pick_variant, variant_of

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


_SDXL_SIDE = 128  # the UNet's sample_size where its configuration does not say


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded SDXL checkpoint and its device. Its modules belong to one thread at a time."""

    name: str
    unet: Any  # UNet2DConditionModel, 9 or 4 input channels
    vae: Any  # AutoencoderKL
    text_encoders: tuple[Any, Any]  # CLIPTextModel, CLIPTextModelWithProjection
    tokenizers: tuple[Any, Any]
    scheduler_config: Mapping[str, Any]
    force_zeros_for_empty_prompt: bool
    requires_aesthetics_score: bool
    device: torch.device
    dtype: torch.dtype
    plan: MemoryPlan
    about: About = field(default=About("", photographs=True))
    # Held while LoRAs are switched in the UNet's weights, and while two forward passes are compared.
    weights_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def in_channels(self) -> int:
        """The UNet's input channels: 9 with the mask, or 4; then the original is blended back each step."""
        return int(self.unet.config.in_channels)

    @property
    def vae_factor(self) -> int:
        """Picture pixels per latent pixel and side, 8 for SDXL."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def is_large(self) -> bool:
        """True for SDXL's own size, false for the demo model's."""
        return bool(sum(parameter.numel() for parameter in self.unet.parameters()) >= FULL_SIZE)

    @property
    def native_size(self) -> int:
        """Side of the square of the area that the UNet was trained on, in pixels."""
        size = self.unet.config.sample_size or _SDXL_SIDE
        side = size if isinstance(size, int) else round(math.sqrt(size[0] * size[1]))
        return side * self.vae_factor


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; a GPU has an index.

    Raises:
        DeviceError: the device is not on this machine, there is none of that name, or torch cannot use it.
    """
    if name == "cpu":
        return torch.device("cpu")
    kind, colon, index = name.partition(":")
    if name != "auto" and (kind != "cuda" or (bool(colon) and not index.isdecimal())):
        raise DeviceError(f"device: must be auto, cpu, cuda or cuda:N, not {name!r}")
    if not torch.cuda.is_available():
        if problem := unused_gpu():
            raise DeviceError(f"device: {problem}")
        if name == "auto":
            return torch.device("cpu")
        raise DeviceError(f"device: {name} was asked for, but torch sees no CUDA GPU here; use --device cpu")
    # Always with an index: torch.device("cuda") is unequal to the "cuda:0" of the tensors on it.
    device = torch.device("cuda", int(index or 0))
    if device.index >= torch.cuda.device_count():
        raise DeviceError(
            f"device: {name} was asked for, but this machine has {torch.cuda.device_count()} GPU(s)"
        )
    if problem := too_old(device):
        raise DeviceError(f"device: {problem}")
    return device


def pick_dtype(name: str, device: torch.device, parameters: int = 0) -> torch.dtype:
    """Return the dtype called ``name``; ``auto`` is what suits the device.

    That is fp16 on CUDA, as SDXL's files are. On a CPU it is bf16 for a large model if the CPU multiplies in
    it, which takes a third of the time and half the memory; else fp32.

    Args:
        name: ``auto`` or one of :data:`DTYPES`.
        device: the device that it is for.
        parameters: of the model's UNet, as :func:`inpaint.weights.unet_parameters` counts them.

    Raises:
        RequestError: there is no such dtype.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if parameters >= FULL_SIZE and bf16_units() else torch.float32
    if name not in DTYPES:
        raise RequestError("dtype", f"must be auto or one of {', '.join(DTYPES)}, not {name!r}")
    return DTYPES[name]


def load_model(
    path: Path,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    memory: str = "auto",
    configs: Path | None = None,
    few_step_lora: Path | None = None,
    prepare: Callable[[Model], None] = lambda model: None,
    predicts: str | None = None,
) -> Model:
    """Load a checkpoint and place it by its memory plan.

    Args:
        path: a diffusers folder, or a single ``.safetensors`` file in the original SDXL layout.
        name: the model's name in results and messages.
        device: the device that it computes on.
        dtype: the dtype that it computes in; a VAE that overflows in 16 bit stays in fp32.
        memory: a plan's name, or ``auto`` to choose by the free memory.
        configs: for a single file, a local diffusers folder with SDXL's configs and tokenizers.
        few_step_lora: a LoRA file, fused into the UNet and the text encoders; the samplers' timesteps are
            then spaced from the last one down ("trailing"), as such a LoRA is trained.
        prepare: rewrites the model while it is in main memory: what is replaced on a GPU leaves gaps there.
        predicts: what the UNet predicts, ``epsilon``, ``v`` or ``v-zsnr``; None: as the checkpoint says.

    Raises:
        ModelError: a part is missing, damaged, or not SDXL's.
        RequestError: there is no such plan, or no such prediction.
        OutOfMemoryError: it does not fit into main memory.
    """
    choose_plan(None, memory)  # a wrong name is refused before gigabytes are read
    check_prediction(predicts)
    with _quiet(), _explained(path):
        if path.is_file():
            parts = _single_file(path, dtype, configs, predicts)
        else:
            parts = _folder(path, dtype, predicts)
    unet, vae = parts["unet"], parts["vae"]
    _check_unet(path, unet)
    in_fp32 = dtype != torch.float32 and vae.dtype == torch.float32
    plan = choose_plan(free_bytes(device), memory, vae_in_fp32=in_fp32)
    scheduler = parts["scheduler"]
    encoders = (parts["text_encoder"], parts["text_encoder_2"])
    if few_step_lora is not None:
        fuse(unet, encoders, few_step_lora)
        scheduler = {**scheduler, "timestep_spacing": "trailing"}
    model = Model(
        name=name,
        unet=unet.eval().requires_grad_(False),
        vae=vae.eval().requires_grad_(False),
        text_encoders=(encoders[0].eval().requires_grad_(False), encoders[1].eval().requires_grad_(False)),
        tokenizers=(parts["tokenizer"], parts["tokenizer_2"]),
        scheduler_config=scheduler,
        force_zeros_for_empty_prompt=bool(parts["index"].get("force_zeros_for_empty_prompt", True)),
        requires_aesthetics_score=bool(parts["index"].get("requires_aesthetics_score", False)),
        device=device,
        dtype=dtype,
        plan=plan,
        about=about(path),
    )
    prepare(model)
    place(plan, device, dtype, unet, vae, list(encoders))
    return model


def _folder(path: Path, dtype: torch.dtype, predicts: str | None) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    upcast = _read_json(path / "vae" / "config.json").get("force_upcast", True)
    return {
        "index": _read_json(path / "model_index.json"),
        "scheduler": settings_of_folder(path, predicts),
        "unet": _large_part(UNet2DConditionModel, path / "unet", dtype),
        "vae": _part(AutoencoderKL, path / "vae", torch.float32 if upcast else dtype),
        "text_encoder": _part(CLIPTextModel, path / "text_encoder", dtype),
        "text_encoder_2": _part(CLIPTextModelWithProjection, path / "text_encoder_2", dtype),
        **_tokenizers(path),
    }


def _part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load one component; from its files in fp16, if there are some."""
    part, info = cls.from_pretrained(
        folder,
        dtype=dtype,
        variant=pick_variant(find_weights(folder.parent, folder.name)) or None,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"]:  # the loaders only log this, and leave random weights
        raise ModelError(f"{folder} is damaged: it lacks {len(info['missing_keys'])} of its weights")
    return part


def _large_part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Load the UNet, without holding its file twice while it is cast."""
    found = find_weights(folder.parent, folder.name)
    files = [file for file in found if variant_of(file) == pick_variant(found)]
    if len(files) != 1:  # in shards: each is small
        return _part(cls, folder, dtype)
    with safe_open(files[0], framework="pt") as pages:
        stored = pages.get_tensor(next(iter(pages.keys()))).dtype
    part = _part(cls, folder, stored)
    if stored != dtype:
        recast(part, files[0], dtype)
    return part


def _tokenizers(folder: Path) -> dict[str, Any]:
    from transformers import CLIPTokenizer

    return {
        part: CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
        for part in ("tokenizer", "tokenizer_2")
    }


def _single_file(
    path: Path, dtype: torch.dtype, configs: Path | None, predicts: str | None
) -> dict[str, Any]:
    from diffusers import AutoencoderKL, StableDiffusionXLInpaintPipeline, UNet2DConditionModel

    if configs is None:
        raise ModelError(
            f"{path.name} is a single file and needs SDXL's configs and tokenizers as well; "
            "run: inpaint models fetch sdxl-configs"
        )
    with safe_open(path, framework="pt") as file:
        key = "model.diffusion_model.input_blocks.0.0.weight"
        if key not in file.keys():  # noqa: SIM118 - safe_open is no mapping
            raise ModelError(f"{path.name} is not an SDXL checkpoint: it has no {key}")
        in_channels = file.get_slice(key).get_shape()[1]
    local = {"config": str(configs), "local_files_only": True, "torch_dtype": dtype}
    with _missing_named(path, configs):
        unet = UNet2DConditionModel.from_single_file(
            str(path), subfolder="unet", in_channels=in_channels, **local
        )
        # A single file does not say whether its VAE overflows in 16 bit, as SDXL's own does: keep it in fp32.
        vae = AutoencoderKL.from_single_file(
            str(path), subfolder="vae", force_upcast=True, **{**local, "torch_dtype": torch.float32}
        )
        pipe = StableDiffusionXLInpaintPipeline.from_single_file(
            str(path), unet=unet, vae=vae, add_watermarker=False, **_tokenizers(configs), **local
        )
        for encoder in (
            pipe.text_encoder,
            pipe.text_encoder_2,
        ):  # the loader does not report what is missing here
            if any(parameter.is_meta for parameter in encoder.parameters()):
                _refuse_encoders(path, pipe.text_encoder, pipe.text_encoder_2)
    return {
        "index": _read_json(configs / "model_index.json"),
        "scheduler": {
            **_read_json(configs / "scheduler" / "scheduler_config.json"),
            **settings_of_file(path, told=predicts),
        },
        **{part: getattr(pipe, part) for part in _PARTS},
    }


@contextmanager
def _missing_named(path: Path, configs: Path) -> Iterator[None]:
    """Name the tensor that a single file lacks, where its loaders only report meta tensors."""
    try:
        yield
    except Exception:
        check_fits(path, configs)
        raise


def _refuse_encoders(path: Path, first: Any, second: Any) -> None:
    """Say why text encoders were not filled: diffusers' loader knows them apart by their widths."""
    widths = first.config.hidden_size, second.config.hidden_size
    if widths[0] == widths[1]:
        raise ModelError(
            f"{path.name}: both of its text encoders are {widths[0]} wide, so they cannot be told apart in a "
            "single file; bring the model's diffusers folder"
        )
    raise ModelError(f"{path.name}: one of its text encoders lacks weights")


_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def _check_unet(path: Path, unet: Any) -> None:
    if unet.config.in_channels not in (4, 9) or unet.config.addition_embed_type != "text_time":
        raise ModelError(
            f"{path} is not an SDXL model for inpainting: its UNet must have 9 or 4 input channels and "
            f"text_time conditioning, but has {unet.config.in_channels} and {unet.config.addition_embed_type}"
        )


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it should hold a JSON object")
    return content


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the loaders raise on a broken checkpoint into one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the loaders of three libraries raise anything, even a bare Exception
        if about_device := translated(error, "not enough main memory to load the model ({})"):
            raise about_device from None
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the model in {path} is missing a part or damaged ({type(error).__name__}: {reason}); "
            "check it with: inpaint models verify NAME --deep"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loaders' progress bars and advice for the length of the block."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    levels = [(lib, lib.get_verbosity()) for lib in (diffusers_logging, transformers_logging)]
    for lib, _ in levels:
        lib.set_verbosity(logging.CRITICAL)
        lib.disable_progress_bar()
    try:
        yield
    finally:
        for lib, level in levels:
            lib.set_verbosity(level)
            lib.enable_progress_bar()
