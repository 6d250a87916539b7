"""Forms in which checkpoints come: each paints what the same weights paint in a plain folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from inpaint import Engine, InpaintRequest
from inpaint.errors import ModelError
from inpaint.model.load import load_model
from inpaint.weights import import_completed, import_model, resolve
from tests.support.single_file import original_tensors, write_single_file

CPU = torch.device("cpu")
Make = Callable[..., InpaintRequest]
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(checkpoint: Callable[[int], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own, to change."""
    return Path(shutil.copytree(checkpoint(9), tmp_path / "given"))


@pytest.fixture
def paint(request_for: Make) -> Callable[[Path], np.ndarray]:
    """Paint one picture with the checkpoint at a path."""

    def run(path: Path) -> np.ndarray:
        with Engine.load(path, device="cpu", dtype="float32") as engine:
            return np.asarray(engine.paint(request_for(seed=5, scheduler="DDIM")).images[0], dtype=int)

    return run


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def in_variant(folder: Path, dtype: torch.dtype, variant: str, *components: str) -> None:
    for path in list(folder.rglob("*.safetensors")):
        if not components or path.parent.name in components:
            tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
            path.unlink()
            save_file(tensors, path.with_name(path.name.replace(".safetensors", f".{variant}.safetensors")))


def in_shards(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / UNET).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="500KB")
    first = CLIPTextModel.from_pretrained(folder / "text_encoder")
    (folder / "text_encoder" / "model.safetensors").unlink()
    first.save_pretrained(folder / "text_encoder", max_shard_size="40KB")
    for component in ("unet", "text_encoder"):
        assert len(list((folder / component).glob("*-of-*.safetensors"))) > 1


def with_image_encoder(folder: Path) -> None:
    parts = {
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    edit(folder / "model_index.json", **parts)
    (folder / "image_encoder").mkdir()
    (folder / "image_encoder" / "model.safetensors").write_bytes(b"never read")


def with_controlnet(folder: Path) -> None:
    name = "StableDiffusionXLControlNetInpaintPipeline"
    edit(folder / "model_index.json", _class_name=name, controlnet=["diffusers", "ControlNetModel"])


def with_pag(folder: Path) -> None:
    edit(
        folder / "model_index.json",
        _class_name="StableDiffusionXLPAGInpaintPipeline",
        pag_applied_layers=["mid", "up"],
    )


# Changes to a folder, and the mean difference in levels that they may make.
FORMS: dict[str, tuple[Callable[[Path], None], float]] = {
    "fp16 variant": (lambda folder: in_variant(folder, torch.float16, "fp16"), 0.5),
    "bf16 variant": (lambda folder: in_variant(folder, torch.bfloat16, "bf16"), 2),
    "an fp16 UNet alone": (lambda folder: in_variant(folder, torch.float16, "fp16", "unet"), 0.5),
    "a bf16 text encoder": (lambda folder: in_variant(folder, torch.bfloat16, "bf16", "text_encoder"), 2),
    "shards": (in_shards, 0),
    "an image encoder": (with_image_encoder, 0),
    "a ControlNet": (with_controlnet, 0),
    "PAG": (with_pag, 0),
    "a text-to-image pipeline": (
        lambda folder: edit(folder / "model_index.json", _class_name="StableDiffusionXLPipeline"), 0,
    ),
    "a size as a list": (lambda folder: edit(folder / "unet" / "config.json", sample_size=[16, 16]), 0),
}  # fmt: skip


@pytest.mark.parametrize(("change", "tolerance"), FORMS.values(), ids=FORMS)
def test_forms_of_a_folder_paint_what_the_plain_one_paints(
    change: Callable[[Path], None],
    tolerance: float,
    folder: Path,
    checkpoint: Callable[[int], Path],
    paint: Callable[[Path], np.ndarray],
    tmp_path: Path,
) -> None:
    """From their place, and imported; what painting does not use is left out."""
    expected = paint(checkpoint(9))
    change(folder)
    target = import_model(folder, "mine", tmp_path / "models")
    assert not (target / "image_encoder").exists()
    for path in (folder, resolve("mine", tmp_path / "models").path):
        assert np.abs(paint(path) - expected).mean() <= tolerance


@pytest.mark.parametrize("sample_size", [[16, 24], [24, 16], [16, 16]])
def test_a_size_as_a_list_is_an_area(sample_size: list[int], folder: Path, request_for: Make) -> None:
    """It was a TypeError after the model was loaded."""
    edit(folder / "unet" / "config.json", sample_size=sample_size)
    with Engine.load(folder, device="cpu") as engine:
        assert engine.native_size == round((sample_size[0] * sample_size[1]) ** 0.5) * 8
        assert engine.paint(request_for()).images[0].size == (128, 128)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_a_unet_alone_is_completed_in_each_form(
    prefix: str,
    dtype: torch.dtype,
    checkpoint: Callable[[int], Path],
    paint: Callable[[Path], np.ndarray],
    tmp_path: Path,
) -> None:
    """ComfyUI keeps UNets in a folder of their own, under another prefix, or cut out without any."""
    unet = {
        prefix + name.removeprefix("model.diffusion_model."): tensor.to(dtype)
        for name, tensor in original_tensors(checkpoint(9)).items()
        if name.startswith("model.diffusion_model.")
    }
    save_file(unet, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="import it with --parts-from sdxl-inpainting"):
        resolve(tmp_path / "x.safetensors", tmp_path)
    target = import_completed(tmp_path / "x.safetensors", checkpoint(9), "mine", tmp_path / "models")
    limits = {torch.float32: 0, torch.float16: 0.5, torch.float8_e4m3fn: 20}
    assert np.abs(paint(target) - paint(checkpoint(9))).mean() <= limits[dtype]


# What of a UNet's configuration would change the picture without a word, and the words of the error.
OTHER_UNETS: dict[str, tuple[dict[str, object], str]] = {
    "LCM": ({"time_cond_proj_dim": 256}, "time_cond_proj_dim: its UNet takes the guidance scale as an input"),
    "IP-Adapter": ({"encoder_hid_dim_type": "ip_image_proj"}, "its UNet takes pictures as prompts"),
    "classes": ({"class_embed_type": "timestep"}, "its UNet takes a class as an input"),
    "a size of text": (
        {"sample_size": "128"},
        "sample_size must be a whole number or a height and a width, not '128'",
    ),
    "three sizes": ({"sample_size": [16, 16, 16]}, "sample_size must be a whole number"),
    "no size": ({"sample_size": 0}, "sample_size must be a whole number"),
    "a size of one": ({"sample_size": [16, None]}, "sample_size must be a whole number"),
}


@pytest.mark.parametrize(("changes", "words"), OTHER_UNETS.values(), ids=OTHER_UNETS)
def test_a_unet_with_other_inputs_is_refused_by_name(
    changes: dict[str, object], words: str, folder: Path, tmp_path: Path
) -> None:
    """Such a UNet loads, and paints something else: a tenth of the range away from stock's."""
    edit(folder / "unet" / "config.json", **changes)
    for attempt in (lambda: import_model(folder, "mine", tmp_path / "models"), lambda: Engine.load(folder)):
        with pytest.raises(ModelError, match=words):
            attempt()


def test_text_encoders_of_one_width_are_a_sentence(
    folder: Path, checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """It was "AssertionError: " with nothing after the colon."""
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    edit(folder / "text_encoder" / "config.json", hidden_size=48)
    encoder = CLIPTextModel._from_config(CLIPTextModel.config_class(**{**config, "hidden_size": 48}))
    encoder.save_pretrained(folder / "text_encoder")
    path = write_single_file(folder, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"text encoders are 48 wide, so they cannot be told apart"):
        load_model(path, "x", CPU, torch.float32, configs=folder)


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    """A download that stopped half-way is found before the rest is copied."""
    in_shards(folder)
    last = sorted((folder / "unet").glob("*-of-*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(ModelError, match=f"it names {last.name}, which is not there"):
        import_model(folder, "mine", tmp_path / "models")
