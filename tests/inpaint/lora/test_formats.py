"""LoRA files as other tools write them have the effect that the tools give them, in each of our three ways.

``python -m tools.files.loras`` wrote the files in ``foreign``, with what each tool's own forward pass then
computes. LyCORIS' ``merge_to`` is no reference: 4.1.3 applies alpha / rank twice for LoHa and LoKr.
"""

import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from inpaint.lora.fuse import fuse
from inpaint.lora.hooks import LoraHooks
from inpaint.lora.match import LayerIndex, MatchedLora
from inpaint.lora.merge import HotMerge
from tools.files.small_unet import SmallUNet, small_input, small_unet

CPU = torch.device("cpu")
FOREIGN = sorted((Path(__file__).parent / "foreign").glob("*.safetensors"))
NO_ENCODERS = (nn.Module(), nn.Module())
TOLERANCE = 1e-5  # of the largest value
Write = Callable[[Path], tuple[Path, torch.Tensor]]


@pytest.fixture
def unet() -> SmallUNet:
    """Return the network that the files were written for."""
    return small_unet()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that unpacks a kept file; it returns the tool's file and the output to expect."""

    def unpack(kept: Path) -> tuple[Path, torch.Tensor]:
        tensors = load_file(kept)
        with safe_open(kept, framework="pt") as stored:
            about = json.loads(stored.metadata()["about"])
        path = tmp_path / about["name"]
        own = {key.removeprefix("file/"): value for key, value in tensors.items() if key.startswith("file/")}
        save_file(own, path, json.loads(about["header"]))
        if about["config"]:
            (tmp_path / "adapter_config.json").write_text(about["config"], "utf-8")
        return path, tensors["output"]

    return unpack


def apart(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def fitted(unet: SmallUNet, path: Path) -> MatchedLora:
    return LayerIndex.of(unet, NO_ENCODERS).fit(path)


def test_the_files_are_there() -> None:
    """All that follows would pass without them."""
    assert len(FOREIGN) >= 30
    assert sum(path.stat().st_size for path in FOREIGN) < 400_000


@pytest.mark.parametrize("kept", FOREIGN, ids=lambda path: path.stem)
def test_a_file_has_the_effect_of_its_own_tool(kept: Path, unet: SmallUNet, write: Write) -> None:
    """A style must look here as it looked to the one who trained it, however it is put into the model."""
    path, expected = write(kept)
    before = unet(small_input())
    assert apart(before, expected) > 0.01, "the file does something"
    matched = fitted(unet, path)
    assert not matched.warnings

    with LoraHooks(CPU, torch.float32).using([(1.0, matched.unet)]):
        assert apart(unet(small_input()), expected) < TOLERANCE
    assert torch.equal(unet(small_input()), before)

    hot = HotMerge(CPU, threading.Lock())
    hot.use([(1.0, matched.unet)])
    assert apart(unet(small_input()), expected) < TOLERANCE
    hot.use(())
    assert torch.equal(unet(small_input()), before)

    fuse(unet, NO_ENCODERS, path)
    assert apart(unet(small_input()), expected) < TOLERANCE


@pytest.mark.parametrize("kept", FOREIGN, ids=lambda path: path.stem)
def test_a_scale_is_linear_in_every_format(kept: Path, unet: SmallUNet, write: Write) -> None:
    """A slider at 0 paints without the style, and half way is half way, also where a format is no sum."""
    path, _ = write(kept)
    matched, before = fitted(unet, path), copy.deepcopy(dict(unet.named_parameters()))
    hot = HotMerge(CPU, threading.Lock())
    hot.use([(1.0, matched.unet)])
    whole = copy.deepcopy(dict(unet.named_parameters()))
    hot.use([(0.75, matched.unet), (-0.25, matched.unet)])
    for name, half in unet.named_parameters():
        torch.testing.assert_close(half, (before[name] + whole[name]) / 2, rtol=1e-5, atol=1e-5)
    hot.use([(1.0, matched.unet), (-1.0, matched.unet)])
    for name, none in unet.named_parameters():
        torch.testing.assert_close(none, before[name], rtol=0, atol=1e-5)
