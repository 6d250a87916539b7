"""Loading: folders, single files, precision, devices, and every way a checkpoint can be broken."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inpaint import Engine, InpaintRequest, RequestError
from inpaint.cpu import FULL_SIZE
from inpaint.errors import DeviceError, ModelError
from inpaint.fast import channels_last
from inpaint.model import load as loading
from inpaint.model.load import Model, load_model, pick_device, pick_dtype
from inpaint.weights import Checkpoint, unet_parameters
from tests.support.single_file import write_single_file

CPU = torch.device("cpu")
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
Make = Callable[..., InpaintRequest]


@pytest.fixture
def folder(checkpoint: Callable[[int], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own, to break."""
    return Path(shutil.copytree(checkpoint(9), tmp_path / "model"))


def load(path: Path, dtype: torch.dtype = torch.float32, **options: object) -> Model:
    return load_model(path, "test", CPU, dtype, **options)


def test_loading_uses_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Offline" means that no connection is even tried, not that a failed one is survived."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    model = load(folder)
    assert (model.in_channels, model.native_size, model.vae_factor) == (9, 128, 8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_paints(dtype: str, folder: Path, request_for: Make) -> None:
    """What a GPU runs in, end to end, and the same picture as fp32 but for rounding."""
    pictures = []
    for name in ("float32", dtype):
        with Engine.load(folder, device="cpu", dtype=name) as engine:
            assert engine.model.unet.dtype == getattr(torch, name)
            pictures.append(np.asarray(engine.paint(request_for()).images[0], dtype=int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2


def test_a_vae_that_overflows_stays_in_fp32(folder: Path) -> None:
    """SDXL base's own VAE says force_upcast: in fp16 it paints black."""
    config = json.loads((folder / "vae" / "config.json").read_text())
    assert load(folder, torch.float16).vae.dtype == torch.float16
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"force_upcast": True}))
    assert load(folder, torch.float16).vae.dtype == torch.float32


def test_the_fp16_variant_of_files_is_found(folder: Path) -> None:
    """The pinned checkpoint has only *.fp16.safetensors."""
    expected = load_file(folder / UNET)
    for path in list(folder.rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    state = load(folder).unet.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("in_channels", [9, 4])
def test_a_single_file_paints_what_its_folder_paints(
    in_channels: int, checkpoint: Callable[[int], Path], tmp_path: Path, request_for: Make
) -> None:
    """Checkpoints from community sites come as one file in the original layout."""
    path = write_single_file(checkpoint(in_channels), tmp_path / "style.safetensors")
    pictures = []
    for source, options in ((checkpoint(in_channels), {}), (path, {"configs": checkpoint(9)})):
        with Engine(load(source, **options)) as engine:
            assert engine.model.in_channels == in_channels
            pictures.append(np.asarray(engine.paint(request_for()).images[0], dtype=int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_a_single_file_keeps_its_unknown_vae_in_fp32(
    checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """It may hold the VAE that overflows, and does not say."""
    path = write_single_file(checkpoint(4), tmp_path / "style.safetensors")
    model = load(path, torch.float16, configs=checkpoint(9))
    assert (model.unet.dtype, model.vae.dtype) == (torch.float16, torch.float32)


def test_a_single_file_without_configs_names_the_command(
    checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """diffusers would fetch them from the hub."""
    path = write_single_file(checkpoint(9), tmp_path / "style.safetensors")
    with pytest.raises(ModelError, match="inpaint models fetch sdxl-configs"):
        load(path)


def test_another_kind_of_single_file_is_refused(tmp_path: Path, checkpoint: Callable[[int], Path]) -> None:
    """A LoRA is no checkpoint."""
    path = tmp_path / "lora.safetensors"
    save_file({"lora.down.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="not an SDXL checkpoint"):
        load(path, configs=checkpoint(9))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


def reshape_a_tensor(path: Path) -> None:
    save_file({name: tensor[:1] for name, tensor in load_file(path).items()}, path)


def garbage(path: Path) -> None:
    path.write_bytes(b"not safetensors at all")


@pytest.mark.parametrize("breakage", [truncate, drop_a_tensor, reshape_a_tensor, garbage, Path.unlink])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_damaged_part_stops_the_load(breakage: Callable[[Path], None], part: str, folder: Path) -> None:
    """The loaders would put random numbers where weights are missing, and log a line."""
    (weights,) = (folder / part).glob("*.safetensors")
    breakage(weights)
    with pytest.raises(ModelError, match=r"missing a part or damaged|lacks|truncated|there is no"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/vocab.json",
    ],
)
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_damaged_config_stops_the_load(name: str, content: str | None, folder: Path) -> None:
    """One sentence that says where to look, never a traceback."""
    path = folder / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_unet_of_another_family_is_refused(folder: Path) -> None:
    """SD 1.5 has no text-time conditioning and would fail in the middle of the first step."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    tensors = {k: v for k, v in load_file(folder / UNET).items() if not k.startswith("add_embedding")}
    save_file(tensors, folder / UNET)
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"addition_embed_type": None}))
    with pytest.raises(ModelError, match="text_time"):
        load(folder)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "cuda:", ""])
def test_a_device_that_is_no_device_is_refused(name: str) -> None:
    """A typo must not fall back to a CPU that takes an hour."""
    if name == "cuda:" and torch.cuda.is_available():
        return
    with pytest.raises(DeviceError, match="device:"):
        pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_without_cuda_says_so(name: str) -> None:
    """And what to use instead."""
    with pytest.raises(DeviceError, match="no CUDA GPU here; use --device cpu"):
        pick_device(name)


@pytest.mark.parametrize(
    ("dtype", "parameters", "units", "expected"),
    [
        ("auto", FULL_SIZE, "AMX", torch.bfloat16),
        ("auto", FULL_SIZE, "", torch.float32),
        ("auto", FULL_SIZE - 1, "AMX", torch.float32),
        ("float32", FULL_SIZE, "AMX", torch.float32),
        ("bfloat16", 0, "", torch.bfloat16),
    ],
)
def test_a_cpu_computes_large_models_in_bf16_if_it_multiplies_in_it(
    dtype: str, parameters: int, units: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of the time and half the memory where it can; the demo's pictures, and --dtype, stay."""
    monkeypatch.setattr(loading, "bf16_units", lambda: units)
    assert pick_dtype(dtype, CPU, parameters) == expected
    if dtype == "auto":
        assert pick_dtype("auto", torch.device("cuda", 0), parameters) == torch.float16


def test_an_engine_picks_the_dtype_by_the_size_of_the_checkpoint(
    folder: Path, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of a full-size model on such a CPU, with a small one that passes for large."""
    for module in (loading, channels_last):
        monkeypatch.setattr(module, "bf16_units", lambda: "AMX")
    pictures = []
    for full_size, dtype in ((FULL_SIZE, torch.float32), (unet_parameters(_of(folder)), torch.bfloat16)):
        monkeypatch.setattr(loading, "FULL_SIZE", full_size)
        with Engine.load(folder, device="cpu") as engine:
            assert engine.model.dtype == dtype
            assert ("channels-last" in engine._fast.optimizations) == (dtype == torch.bfloat16)
            pictures.append(np.asarray(engine.paint(request_for()).images[0], dtype=int))
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 2


def test_a_checkpoint_is_measured_without_loading_it(folder: Path, tmp_path: Path) -> None:
    """Its size decides the dtype that it is loaded in; a folder may hold its weights twice, in fp16 too."""
    expected = sum(parameter.numel() for parameter in load(folder).unet.parameters())
    single = write_single_file(folder, tmp_path / "single.safetensors")
    shutil.copy(folder / UNET, (folder / UNET).with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert unet_parameters(_of(folder)) == expected
    assert unet_parameters(Checkpoint("test", single, "file")) == expected


def _of(folder: Path) -> Checkpoint:
    return Checkpoint("test", folder, "folder")


def test_an_unknown_dtype_or_plan_is_refused(folder: Path) -> None:
    """Both list what there is."""
    with pytest.raises(RequestError, match="auto or one of float32, float16, bfloat16"):
        pick_dtype("int8", CPU)
    with pytest.raises(
        RequestError, match="auto or one of resident, resident-8, offload-text, tiled, fp8, streamed"
    ):
        load(folder, memory="tiny")
