"""Rows of checkpoints: forms in which they are shared, painted here and by diffusers' own pipeline."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from inpaint import InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.errors import InpaintError
from inpaint.job import Job
from inpaint.model.denoise import step
from inpaint.model.load import Model, load_model
from inpaint.model.vae import decode
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.weights import import_completed, import_model, resolve
from tests.support.single_file import original_tensors, with_leftovers
from tests.support.tiny_checkpoint import write_tiny_checkpoint
from tools.files.row import Row

_CPU = torch.device("cpu")
_DIFFUSERS = f"diffusers {diffusers.__version__}"
_STOCK = "diffusers' pipeline on its folder"
_V = {"prediction_type": "v_prediction"}
_V_ZSNR = {**_V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_UNET = "model.diffusion_model."
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Form:
    """A form of checkpoint: how it is written, and the configuration that diffusers needs for it."""

    kind: str
    written_by: str
    write: Callable[[Path, Path], Path]  # (a plain folder, an empty folder) → the checkpoint
    config: dict[str, object] = field(default_factory=dict)
    told: str | None = None
    parts_from: bool = False


def rows() -> list[Row]:
    """Write each form, import it, paint with it, and compare with diffusers."""
    torch.set_num_threads(1)  # the models are tiny
    with tempfile.TemporaryDirectory() as home:
        plain = write_tiny_checkpoint(Path(home) / "plain")
        stock = _Stocks(plain)
        return [_row(form, plain, stock, Path(home) / str(number)) for number, form in enumerate(_forms())]


def _row(form: _Form, plain: Path, stocks: "_Stocks", home: Path) -> Row:
    home.mkdir()
    given = form.write(plain, home)
    try:
        if form.parts_from:
            import_completed(given, plain, "mine", home / "models", predicts=form.told)
        else:
            import_model(given, "mine", home / "models", predicts=form.told)
    except InpaintError as error:
        return Row(
            form.kind, form.written_by, f"no: {str(error).removeprefix(f'{given}').lstrip('/: ')}", None
        )
    found = resolve("mine", home / "models")
    model = load_model(found.path, "mine", _CPU, torch.float32, configs=plain)
    ours, stock = _ours(model), stocks.picture(form.config)
    difference = float((ours - stock).abs().max() / stock.abs().max())
    return Row(form.kind, form.written_by, "yes", difference, _STOCK)


def _request() -> InpaintRequest:
    picture = Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((32, 32, 95, 95), fill=255)
    plain: dict[str, Any] = {"area": "whole", "grow": 0, "feather": 0, "color_match": False}
    return InpaintRequest(
        image=picture,
        mask=mask,
        prompt="a red circle",
        seed=5,
        scheduler="Euler",
        num_inference_steps=6,
        **plain,
    )


def _ours(model: Model) -> torch.Tensor:
    request = _request()
    task = RunningRequest(Job(request, request.seeds), cut(request, model.native_size))
    Stages(model).begin(task)
    (row,) = task.rows
    while not row.done:
        step(model, [row])
    return decode(model, row.latents)[0]


class _Stocks:
    """The pictures of diffusers' own pipeline on a plain folder, one for each scheduler's configuration."""

    def __init__(self, plain: Path) -> None:
        self._pipe = diffusers.StableDiffusionXLInpaintPipeline.from_pretrained(plain, add_watermarker=False)
        self._pipe.set_progress_bar_config(disable=True)
        path = plain / "scheduler" / "scheduler_config.json"
        self._config = json.loads(path.read_text("utf-8"))
        self._painted: dict[str, torch.Tensor] = {}

    def picture(self, config: dict[str, object]) -> torch.Tensor:
        """Return the picture (3, 128, 128) for a configuration that is put over the folder's own."""
        key = json.dumps(config, sort_keys=True)
        if key not in self._painted:
            self._painted[key] = self._paint(config)
        return self._painted[key]

    def _paint(self, config: dict[str, object]) -> torch.Tensor:
        request = _request()
        self._pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config({**self._config, **config})
        pictures: torch.Tensor = self._pipe(
            prompt=request.prompt,
            image=request.image,
            mask_image=request.mask,
            width=128,
            height=128,
            strength=request.strength,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="pt",
        ).images
        return pictures[0]


def _forms() -> Iterator[_Form]:
    yield from _folders()
    yield from _files()
    for kind, prefix in (("UNet alone, diffusion_model.*", "diffusion_model."), ("UNet alone, bare", "")):
        yield _Form(kind, "ComfyUI's layout", _file(lambda t, p=prefix: _cut_out(t, p)), parts_from=True)
    marked = _file(lambda t: {**_cut_out(t, "diffusion_model."), **_marks("v_pred", "ztsnr")})
    yield _Form("UNet alone, v_pred and ztsnr", "ComfyUI's layout", marked, _V_ZSNR, parts_from=True)


def _folders() -> Iterator[_Form]:
    for variant, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        yield _Form(
            f"folder, {variant} variant", _DIFFUSERS, _folder(lambda f, v=variant, d=dtype: _in(f, v, d))
        )
    yield _Form("folder, UNet in shards", _DIFFUSERS, _folder(_in_shards))
    yield _Form("folder in a Hugging Face cache", "huggingface_hub's layout", _in_cache)
    for kind, config in (
        ("v", _V),
        ("v, zero terminal SNR", _V_ZSNR),
        ("trailing", {"timestep_spacing": "trailing"}),
    ):
        yield _Form(f"folder, {kind}", _DIFFUSERS, _configured(**config), config)
    yield _Form("folder without a mark, --predicts v", _DIFFUSERS, _folder(lambda f: None), _V, "v")
    for name in ("EDMEuler", "FlowMatchEulerDiscrete"):
        made = _configured(_class_name=f"{name}Scheduler")
        yield _Form(f"folder, {name}Scheduler", _DIFFUSERS, made)
    encoder = {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    yield _Form(
        "folder with an image encoder",
        _DIFFUSERS,
        _folder(lambda f: _edit(f / "model_index.json", **encoder)),
    )
    lcm = _folder(lambda f: _edit(f / "unet" / "config.json", time_cond_proj_dim=256))
    yield _Form("folder, UNet with time_cond_proj_dim", _DIFFUSERS, lcm)


def _files() -> Iterator[_Form]:
    original = "the original layout"
    yield _Form("single file", original, _file(lambda t: t))
    yield _Form("single file with EMA and buffers", original, _file(with_leftovers))
    yield _Form("single file, fp16", original, _file(lambda t: {k: v.half() for k, v in t.items()}))
    yield _Form(
        "single file, header of 12 MB",
        "kohya's metadata",
        _file(lambda t: t, ss_tag_frequency="x" * 12_000_000),
    )
    yield _Form("v_pred", "NoobAI-XL's marks", _file(lambda t: {**t, **_marks("v_pred")}), _V)
    yield _Form(
        "v_pred and ztsnr", "NoobAI-XL's marks", _file(lambda t: {**t, **_marks("v_pred", "ztsnr")}), _V_ZSNR
    )
    yield _Form("ztsnr alone", "NoobAI-XL's marks", _file(lambda t: {**t, **_marks("ztsnr")}))
    yield _Form(
        "ztsnr alone, --predicts v",
        "NoobAI-XL's marks",
        _file(lambda t: {**t, **_marks("ztsnr")}),
        _V_ZSNR,
        "v",
    )
    for key, value, config in (
        ("modelspec.prediction_type", "v", _V),
        ("modelspec.predict_key", "v", _V),
        ("prediction_type", "v_prediction", _V),
        ("ss_v_parameterization", "True", _V),
    ):
        yield _Form(f"{key}: {value}", "metadata", _file(lambda t: t, **{key: value}), config)
    kohya = {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}
    yield _Form(
        "ss_v_parameterization and ss_zero_terminal_snr", "metadata", _file(lambda t: t, **kohya), _V_ZSNR
    )
    yield _Form(
        "edm_mean, edm_std",
        "Playground v2.5's marks",
        _file(lambda t: {**t, **_marks("edm_mean", "edm_std")}),
    )


def _folder(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    def write(plain: Path, home: Path) -> Path:
        shutil.copytree(plain, home / "given")
        change(home / "given")
        return home / "given"

    return write


def _configured(**config: object) -> Callable[[Path, Path], Path]:
    return _folder(lambda folder: _edit(folder / "scheduler" / "scheduler_config.json", **config))


def _file(change: Callable[[Tensors], Tensors], **metadata: str) -> Callable[[Path, Path], Path]:
    def write(plain: Path, home: Path) -> Path:
        save_file(change(original_tensors(plain)), home / "x.safetensors", metadata)
        return home / "x.safetensors"

    return write


def _marks(*names: str) -> Tensors:
    return {name: torch.zeros(0) for name in names}


def _cut_out(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name.removeprefix(_UNET): t for name, t in tensors.items() if name.startswith(_UNET)}


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), encoding="utf-8")


def _in(folder: Path, variant: str, dtype: torch.dtype) -> None:
    for path in list(folder.rglob("*.safetensors")):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        path.unlink()
        save_file(tensors, path.with_name(f"{path.stem}.{variant}.safetensors"))


def _in_shards(folder: Path) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="500KB")


def _in_cache(plain: Path, home: Path) -> Path:
    """Lay a folder out as a cache does: links to blobs that are named by their digest."""
    cache = home / "models--owner--x"
    snapshot = cache / "snapshots" / ("0" * 40)
    (cache / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        blob, link = cache / "blobs" / f"{number:064x}", snapshot / file.relative_to(plain)
        shutil.copy(file, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot
