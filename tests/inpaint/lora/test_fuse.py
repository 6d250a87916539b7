"""Permanent merging of LoRA files, exact and for every naming scheme."""

import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inpaint.errors import ModelError, RequestError
from inpaint.lora.fuse import Fused, fuse
from inpaint.lora.layers import original_name as ours_in_original_code
from inpaint.lora.layers import plain, unet_layers
from inpaint.lora.names import bare
from inpaint.model.load import Model
from tests.support.single_file import _unet_name as original_name
from tools.full_size.make import UNET

Tensors = dict[str, torch.Tensor]
Save = Callable[..., Path]
Encoders = tuple[Any, Any]
RANK = 4
CHOSEN = (  # a layer of every kind that LoRAs are trained on
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_k",
    "down_blocks.2.attentions.0.transformer_blocks.1.ff.net.0.proj",
    "mid_block.attentions.0.proj_in",
    "mid_block.resnets.1.conv2",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.1.resnets.0.conv_shortcut",
    "up_blocks.1.resnets.1.time_emb_proj",
    "down_blocks.0.downsamplers.0.conv",
    "conv_in",
    "time_embedding.linear_2",
)


@pytest.fixture
def unet(model: Model) -> Any:
    """Copy the UNet, to be changed."""
    return copy.deepcopy(model.unet)


@pytest.fixture
def encoders(model: Model) -> Encoders:
    """Copy both text encoders, to be changed."""
    return copy.deepcopy(model.text_encoders)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that saves tensors to a file."""

    def write(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
        path = tmp_path / "style.safetensors"
        save_file(
            {k: v.clone() for k, v in tensors.items()}, path, metadata=dict(metadata) if metadata else None
        )
        return path

    return write


def matrices(unet: Any, name: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random (down, up) in the shapes of a layer's LoRA."""
    weight = unet.get_submodule(name).weight
    random = torch.Generator().manual_seed(seed)
    ones = (1,) * (weight.ndim - 2)
    down = torch.randn(RANK, *weight.shape[1:], generator=random) / weight[0].numel() ** 0.5
    return down, torch.randn(weight.shape[0], RANK, *ones, generator=random) / RANK**0.5


def kohya(name: str) -> tuple[str, str, str]:
    """Return the keys of down, up and alpha."""
    return f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"


def dotted(name: str) -> tuple[str, str, str]:
    """Return the keys of down, up and alpha, as PEFT calls them."""
    return f"{name}.lora_A.weight", f"{name}.lora_B.weight", f"{name}.alpha"


def adapter(layer: str, name: str) -> tuple[str, str, str]:
    """Return the keys of a PEFT adapter of that name."""
    layer, name = f"base_model.model.{layer}", f".{name}" if name else ""
    return f"{layer}.lora_A{name}.weight", f"{layer}.lora_B{name}.weight", f"{layer}.alpha"


def original(unet: Any, name: str) -> str:
    """Return a layer's name in the original code, by the tables of the single-file tests."""
    return original_name(f"{name}.weight", dict(unet.named_parameters()), 1).removesuffix(".weight")


SPELLINGS: dict[str, Callable[[Any, str], tuple[str, str, str]]] = {
    "peft": lambda _, n: (f"unet.{n}.lora_A.weight", f"unet.{n}.lora_B.weight", f"unet.{n}.alpha"),
    "peft adapter": lambda _, n: adapter(n, "default"),
    "peft adapter of another name": lambda _, n: adapter(n, "default_0"),
    "peft adapter with spaces": lambda _, n: adapter(n, "my style (1)"),
    "peft without a name": lambda _, n: adapter(n, ""),
    "diffusers": lambda _, n: (
        f"unet.{n}.lora.down.weight",
        f"unet.{n}.lora.up.weight",
        f"unet.{n}.alpha",
    ),
    "kohya": lambda _, n: kohya("lora_unet_" + n.replace(".", "_")),
    "kohya, original names": lambda unet, n: kohya("lora_unet_" + original(unet, n).replace(".", "_")),
    "ComfyUI": lambda unet, n: kohya("diffusion_model." + original(unet, n)),
    "ComfyUI, lora_A": lambda unet, n: dotted("diffusion_model." + original(unet, n)),
    "ComfyUI, as in checkpoints": lambda unet, n: kohya("model.diffusion_model." + original(unet, n)),
    "ComfyUI, diffusers' names": lambda _, n: kohya("diffusion_model." + n),
    "LyCORIS' wrapper": lambda _, n: kohya("lycoris_" + n.replace(".", "_")),
    "OMI": lambda unet, n: kohya("unet." + original(unet, n)),
    "original names alone": lambda unet, n: dotted(original(unet, n)),
    "diffusers' names alone": lambda _, n: dotted(n),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_changes_the_same_weights(
    spelling: str, unet: Any, encoders: Encoders, model: Model, save: Save
) -> None:
    """Every trainer's file gives W + scale · alpha/rank · up · down, for matrices and kernels."""
    tensors: Tensors = {}
    for i, name in enumerate(CHOSEN):
        down, up, alpha = SPELLINGS[spelling](unet, name)
        tensors[down], tensors[up] = matrices(unet, name, i)
        tensors[alpha] = torch.tensor(2.0)
    assert fuse(unet, encoders, save(tensors), scale=0.5) == Fused(layers=len(CHOSEN), text_layers=0)
    before = dict(model.unet.named_parameters())
    for name, after in unet.named_parameters():
        layer, _, kind = name.rpartition(".")
        expected = before[name]
        if kind == "weight" and layer in CHOSEN:
            down, up = matrices(unet, layer, CHOSEN.index(layer))
            change = torch.einsum("or,r...->o...", up.flatten(1), down)
            expected = expected + 0.5 * 2.0 / RANK * change
            assert not torch.equal(after, before[name])
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)


def test_every_layer_is_found_by_its_original_name(unet: Any, encoders: Encoders, save: Save) -> None:
    """kohya's files for SDXL use these names; a missed layer would be refused or, worse, mixed up."""
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    tensors: Tensors = {}
    for i, name in enumerate(layers):
        down, up, _ = SPELLINGS["kohya, original names"](unet, name)
        tensors[down], tensors[up] = matrices(unet, name, i)
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    assert fuse(unet, encoders, save(tensors)).layers == len(layers)
    for i, (name, layer) in enumerate(layers.items()):
        down, up = matrices(unet, name, i)
        change = (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
        torch.testing.assert_close(layer.weight, before[name] + change, rtol=1e-5, atol=1e-6)


def test_sdxls_names_are_those_that_diffusers_reads() -> None:
    """At full size, with two layers a block and ten transformers, every name equals the oracle's."""
    from diffusers import StableDiffusionXLInpaintPipeline, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=9, **UNET)
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    tensors: Tensors = {}
    for i, name in enumerate(layers):
        down, up, _ = kohya("lora_unet_" + ours_in_original_code(unet, name).replace(".", "_"))
        tensors |= {down: torch.tensor([i]), up: torch.tensor([i])}  # recognised by its number
    assert len(tensors) == 2 * len(layers) == 2 * 794
    read, _ = StableDiffusionXLInpaintPipeline.lora_state_dict(tensors, unet_config=unet.config)
    found, numbered = unet_layers(unet), list(layers.values())
    for key, number in read.items():
        layer = re.fullmatch(r"unet\.(.*?)[._]lora\.(down|up)\.weight", key)[1]
        assert found[plain(bare(layer)[1])].module is numbered[number], key


def test_a_fused_unet_predicts_the_same_as_one_with_the_lora_in_hooks(
    unet: Any, encoders: Encoders, model: Model, save: Save
) -> None:
    """In training, a LoRA adds up(down(input)) to each layer's output."""
    tensors: Tensors = {}
    other = copy.deepcopy(model.unet)
    for i, name in enumerate(CHOSEN):
        layer = other.get_submodule(name)
        down, up = matrices(unet, name, i)
        tensors[f"unet.{name}.lora_A.weight"], tensors[f"unet.{name}.lora_B.weight"] = down, up
        layer.register_forward_hook(
            lambda layer, given, out, down=down, up=up: out + lora_output(layer, given[0], down, up)
        )
    fuse(unet, encoders, save(tensors))
    random = torch.Generator().manual_seed(1)
    inputs = {
        "sample": torch.randn(2, 9, 16, 16, generator=random),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(2, 7, 80, generator=random),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(2, 48, generator=random),
            "time_ids": torch.ones(2, 6),
        },
    }
    with torch.inference_mode():
        fused, hooked, plain = (net(**inputs).sample for net in (unet, other, model.unet))
    torch.testing.assert_close(fused, hooked, rtol=1e-4, atol=1e-4)
    assert (fused - plain).norm() > 0.1 * plain.norm(), "and the LoRA did something"


def lora_output(layer: nn.Module, given: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return what a LoRA adds to a layer's output."""
    if isinstance(layer, nn.Linear):
        return given @ down.T @ up.T
    hidden = nn.functional.conv2d(given, down, stride=layer.stride, padding=layer.padding)
    return nn.functional.conv2d(hidden, up)


LAYER = CHOSEN[0]
A, B = f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({}, 1),
        ({"unet.lora_alpha": 8}, 2),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_q": 2}}, 2),
    ],
)
def test_alpha_may_be_in_the_header(
    config: dict[str, Any], factor: float, unet: Any, encoders: Encoders, save: Save
) -> None:
    """diffusers now writes alpha there; without any alpha the factor is 1."""
    down, up = matrices(unet, LAYER)
    before = unet.get_submodule(LAYER).weight.detach().clone()
    fuse(unet, encoders, save({A: down, B: up}, {"lora_adapter_metadata": json.dumps(config)}))
    after = unet.get_submodule(LAYER).weight
    torch.testing.assert_close(after - before, factor * up @ down, rtol=1e-4, atol=1e-6)


def test_a_half_precision_unet_keeps_its_dtype(unet: Any, encoders: Encoders, save: Save) -> None:
    """The weights are merged in fp32 and rounded once."""
    down, up = matrices(unet, LAYER)
    before = unet.get_submodule(LAYER).weight.detach().clone()
    unet.to(torch.float16)
    fuse(unet, encoders, save({A: down.half(), B: up.half()}))
    after = unet.get_submodule(LAYER).weight
    expected = before.half().float() + up.half().float() @ down.half().float()
    assert torch.equal(after, expected.half())
    assert not after.requires_grad


# {0}: the layer; {n}: 1 or 2; {_n}: nothing or _2; {c}: l or g; how down and up are called
TEXT_SPELLINGS = {
    "peft": ("text_encoder{_n}.text_model.{0}.{x}.weight", "lora_A", "lora_B"),
    "diffusers": ("text_encoder{_n}.text_model.{0}.lora_linear_layer.{x}.weight", "down", "up"),
    "without text_model": ("text_encoder{_n}.{0}.lora.{x}.weight", "down", "up"),
    "kohya": ("lora_te{n}_text_model_{0}.lora_{x}.weight", "down", "up"),
    "ComfyUI": ("text_encoders.clip_{c}.transformer.text_model.{0}.lora_{x}.weight", "down", "up"),
    "ComfyUI, lora_A": ("text_encoders.clip_{c}.transformer.text_model.{0}.lora_{x}.weight", "A", "B"),
    "OMI": ("clip_{c}.text_model.{0}.lora_{x}.weight", "down", "up"),
    "peft adapter": ("text_encoder{_n}.base_model.model.text_model.{0}.lora_{x}.default_0.weight", "A", "B"),
}
TEXT_CHOSEN = ("layers.0.self_attn.q_proj", "layers.0.self_attn.out_proj", "layers.2.mlp.fc1")


@pytest.mark.parametrize("spelling", TEXT_SPELLINGS)
def test_the_text_encoders_part_changes_both(
    spelling: str, unet: Any, encoders: Encoders, model: Model, save: Save
) -> None:
    """A style's words are trained into the text encoders; without them it would paint something else."""
    key, down_name, up_name = TEXT_SPELLINGS[spelling]
    tensors, expected = {}, []
    for n, encoder in enumerate(model.text_encoders, 1):
        for i, layer in enumerate(TEXT_CHOSEN):
            name = f"encoder.{layer}" if n == 1 else f"text_model.encoder.{layer}"
            spelt = f"encoder.{layer}".replace(".", "_" if spelling == "kohya" else ".")
            down, up = matrices(encoder, name, 10 * n + i)
            for x, matrix in ((down_name, down), (up_name, up)):
                tensors[key.format(spelt, n=n, _n="" if n == 1 else "_2", c=" lg"[n], x=x)] = matrix
            expected.append((n - 1, name, encoder.get_submodule(name).weight + 0.5 * up @ down))
    assert fuse(unet, encoders, save(tensors), scale=0.5) == Fused(layers=0, text_layers=6)
    for side, name, weight in expected:
        torch.testing.assert_close(encoders[side].get_submodule(name).weight, weight, rtol=1e-5, atol=1e-6)


def test_diffusers_first_names_for_text_encoders_are_known() -> None:
    """Files from before peft use them, and diffusers converts kohya's to them."""
    for part, layer in (("q", "to_q"), ("out", "to_out")):
        key = f"text_encoder.text_model.encoder.layers.0.self_attn.{layer}"
        assert bare(key) == ("text_encoder", f"text_model.encoder.layers.0.self_attn.{part}_proj")


def test_a_lora_of_sdxl_itself_fits_the_inpainting_unet(
    unet: Any, encoders: Encoders, model: Model, save: Save
) -> None:
    """Its first layer was trained on four channels; ours has five more for the mask, which stay."""
    down, up = torch.randn(RANK, 4, 3, 3), torch.randn(32, RANK, 1, 1)
    fuse(unet, encoders, save({"unet.conv_in.lora_A.weight": down, "unet.conv_in.lora_B.weight": up}))
    before, after = model.unet.conv_in.weight, unet.conv_in.weight
    change = torch.einsum("or,rikl->oikl", up.flatten(1), down)
    torch.testing.assert_close(after[:, :4], before[:, :4] + change, rtol=1e-5, atol=1e-5)
    assert torch.equal(after[:, 4:], before[:, 4:])


Change = Callable[[Tensors], object]
WRONG: dict[str, tuple[Change, str]] = {
    "another model's width": (
        lambda t: t.update({A: torch.ones(4, 320)}),
        r"not a LoRA for this model: .*attn1",
    ),
    "another model's height": (lambda t: t.update({B: torch.ones(320, 4)}), "not a LoRA for this model"),
    "ranks that differ": (
        lambda t: t.update({B: torch.ones(32, 8)}),
        r"the file has \(32, 8\) times \(4, 32\)",
    ),
    "a kernel for a matrix": (lambda t: t.update({A: torch.ones(4, 32, 3, 3)}), "not a LoRA for this model"),
    "one number": (lambda t: t.update({A: torch.ones(())}), "not a LoRA for this model"),
    "an unknown layer": (
        lambda t: t.update({"unet.mid.x.lora_A.weight": t[A]}),
        "the model has no layer mid.x",
    ),
    "half of a pair": (lambda t: t.pop(B), r"lacks lora_up \(or lora_B\)"),
    "an alpha alone": (
        lambda t: t.update({"unet.conv_out.alpha": torch.ones(())}),
        "conv_out lacks its matrices",
    ),
    "NaN": (lambda t: t[A].fill_(float("nan")), "NaN or infinite values"),
    "two formats": (
        lambda t: t.update({f"unet.{LAYER}.hada_w1_a": t[A]}),
        "has tensors of LoRA and of LoHa",
    ),
    "half of a LoHa": (
        lambda t: t.update(
            {f"unet.conv_out.hada_w1_{x}": torch.ones(4, size) for x, size in (("a", 4), ("b", 288))}
        ),
        "conv_out lacks hada_w2_a",
    ),
    "another model's DoRA": (
        lambda t: t.update({f"unet.{LAYER}.dora_scale": torch.ones(320, 1)}),
        "not a LoRA for this model: .*attn1",
    ),
    "another model's Tucker core": (
        lambda t: t.update({f"unet.{LAYER}.lora_mid.weight": torch.ones(8, 8, 3, 3)}),
        "not a LoRA for this model: .*attn1",
    ),
    "an alpha that is NaN": (
        lambda t: t.update({f"unet.{LAYER}.alpha": torch.tensor(float("nan"))}),
        r"NaN or infinite values \(alpha\)",
    ),
    "an infinite alpha": (
        lambda t: t.update({f"unet.{LAYER}.alpha": torch.tensor(float("inf"))}),
        r"NaN or infinite values \(alpha\)",
    ),
    "an alpha of four numbers": (
        lambda t: t.update({f"unet.{LAYER}.alpha": torch.ones(4)}),
        "alpha holds 4 numbers instead of one",
    ),
    "an alpha of no number": (
        lambda t: t.update({f"unet.{LAYER}.alpha": torch.ones(0)}),
        "alpha holds 0 numbers instead of one",
    ),
    "whole numbers": (lambda t: t.update({A: t[A].to(torch.int8)}), "stored in a packed form .* int8"),
    "a bias of the other matrix": (
        lambda t: t.update({"unet.conv_out.lora_A.bias": torch.ones(4)}),
        "lora_A.bias', of an unknown format",
    ),
    "an unknown format": (
        lambda t: t.update({"unet.conv_out.vera_lambda_b": t[A]}),
        "vera_lambda_b.*, of an unknown format",
    ),
    "nothing": (
        lambda t: t.clear() or t.update({"x.weight": torch.ones(())}),
        "holds no LoRA, and nothing else",
    ),
    "an unknown text layer": (
        lambda t: t.update({"lora_te2_x.lora_up.weight": t[B]}),
        "the model has no layer x in its text_encoder_2",
    ),
    "another text encoder": (
        lambda t: t.update(
            {f"text_encoder.encoder.layers.0.mlp.fc1.lora_{x}.weight": torch.ones(4, 4) for x in "AB"}
        ),
        "not a LoRA for this model: encoder.layers.0.mlp.fc1 has",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(
    what: str, unet: Any, encoders: Encoders, model: Model, save: Save
) -> None:
    """Half a LoRA, or one for SD 1.5, would silently paint badly."""
    change, says = WRONG[what]
    tensors: Tensors = {}
    for i, name in enumerate((CHOSEN[4], LAYER)):  # a good one goes first
        down, up = matrices(unet, name, i)
        tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    change(tensors)
    with pytest.raises(ModelError, match=says):
        fuse(unet, encoders, save(tensors))
    before = dict(model.unet.named_parameters())
    assert all(torch.equal(after, before[name]) for name, after in unet.named_parameters())


@pytest.mark.parametrize("content", [b"", b"no safetensors file", None])
def test_a_file_that_cannot_be_read_is_named(
    content: bytes | None, unet: Any, encoders: Encoders, tmp_path: Path
) -> None:
    """The path may have a typo, or the file be an interrupted download or a pickle."""
    path = tmp_path / "gone.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"gone\.safetensors cannot be read"):
        fuse(unet, encoders, path)


def test_a_merge_out_of_the_weights_range_is_refused(unet: Any, encoders: Encoders, save: Save) -> None:
    """Infinite weights would paint NaN, and the request would be blamed."""
    down, up = matrices(unet, LAYER)
    unet.to(torch.float16)
    with pytest.raises(ModelError, match="too strong"):
        fuse(unet, encoders, save({A: down, B: up}), scale=1e6)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_is_a_number(scale: float, unet: Any, encoders: Encoders, save: Save) -> None:
    """The scale is checked before the file is read."""
    with pytest.raises(RequestError, match="lora_scale"):
        fuse(unet, encoders, Path("unread.safetensors"), scale=scale)


def test_a_scale_of_minus_one_takes_it_out_again(
    unet: Any, encoders: Encoders, model: Model, save: Save
) -> None:
    """A merge can be undone to fp32's rounding."""
    down, up = matrices(unet, LAYER)
    file = save({A: down, B: up})
    fuse(unet, encoders, file)
    fuse(unet, encoders, file, scale=-1)
    torch.testing.assert_close(
        unet.get_submodule(LAYER).weight, model.unet.get_submodule(LAYER).weight, rtol=0, atol=1e-5
    )
