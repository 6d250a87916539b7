"""Rows about LoRAs: files written by lycoris-lora, peft and diffusers, and the effect that these give them.

    python -m tools.files.loras --fixtures tests/inpaint/lora/foreign

writes the files that the tests keep: the tools' own, for :mod:`tools.files.small_unet`.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from inpaint import demo
from inpaint.errors import ModelError
from inpaint.lora.fuse import fuse
from tools.files.row import Row
from tools.files.small_unet import small_input, small_unet

LINEAR_AND_CONV = ["Linear", "Conv2d"]
PEFT_TARGETS = r".*(to_q|proj_in|conv1|conv_shortcut)"
RANK, ALPHA = 4, 6.0
NOISE = 0.1  # with 0.2 the demo model's UNet is so far from itself that it multiplies fp32's rounding


@dataclass(frozen=True)
class Kind:
    """One kind of file, and how its tool writes it."""

    name: str
    tool: str
    # Changes a network with the tool and writes the file of it into a folder; returns the file.
    write: Callable[[nn.Module, Path], Path]


def lycoris(
    algo: str, *, norms: bool = False, prefix: str = "lycoris", rank: int = RANK, **options: Any
) -> Callable[[nn.Module, Path], Path]:
    """Return what writes a file of LyCORIS' wrapper."""

    def write(network: nn.Module, folder: Path) -> Path:
        from lycoris import LycorisNetwork

        norm_layers = ["GroupNorm", "LayerNorm"] if norms else []
        LycorisNetwork.apply_preset(
            {"target_module": [*LINEAR_AND_CONV, *norm_layers], "lora_prefix": prefix}
        )
        made = LycorisNetwork(
            network,
            lora_dim=rank,
            conv_lora_dim=rank,
            alpha=ALPHA,
            conv_alpha=ALPHA,
            network_module=algo,
            train_norm=norms,
            **options,
        )
        made.apply_to()
        _disturb(made)
        path = folder / "style.safetensors"
        made.save_weights(str(path), None, {})
        return path

    return write


def peft(config: str, **options: Any) -> Callable[[nn.Module, Path], Path]:
    """Return what writes ``adapter_model.safetensors`` and ``adapter_config.json``."""

    def write(network: nn.Module, folder: Path) -> Path:
        import peft as tool

        made = tool.get_peft_model(
            network, getattr(tool, config)(**{"target_modules": PEFT_TARGETS, **options})
        )
        _disturb(made)
        made.save_pretrained(str(folder))
        return folder / "adapter_model.safetensors"

    return write


def diffusers(**options: Any) -> Callable[[nn.Module, Path], Path]:
    """Return what writes ``pytorch_lora_weights.safetensors``, with the configuration in its header."""

    def write(network: nn.Module, folder: Path) -> Path:
        from diffusers import StableDiffusionXLPipeline
        from peft import LoraConfig, inject_adapter_in_model
        from peft.utils import get_peft_model_state_dict

        config = LoraConfig(target_modules=PEFT_TARGETS, **options)
        inject_adapter_in_model(config, network)
        _disturb(network)
        StableDiffusionXLPipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(network),
            unet_lora_adapter_metadata=config.to_dict(),
        )
        return folder / "pytorch_lora_weights.safetensors"

    return write


def _disturb(network: nn.Module) -> None:
    """Give random values to what is trained, which a tool sets to something without effect."""
    generator = torch.Generator().manual_seed(18)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.dtype) * NOISE)


def kinds() -> list[Kind]:
    """Return every kind of file that the tools write."""
    by_lycoris = {
        "LoRA, LoCon": lycoris("locon"),
        "LoRA with kohya's prefix": lycoris("locon", prefix="lora_unet"),
        "LoRA with a learnt scalar": lycoris("locon", use_scalar=True),
        "LoCon, Tucker": lycoris("locon", use_tucker=True),
        "LoHa": lycoris("loha"),
        "LoHa, Tucker": lycoris("loha", use_tucker=True),
        "LoKr": lycoris("lokr", factor=2),
        "LoKr, Tucker": lycoris("lokr", rank=2, factor=2, use_tucker=True),
        "LoKr, both matrices decomposed": lycoris("lokr", rank=1, factor=4, decompose_both=True),
        "LoKr, full matrices": lycoris("lokr", factor=2, full_matrix=True),
        "DoRA, norms of the outputs": lycoris("locon", weight_decompose=True, wd_on_out=True),
        "DoRA, norms of the inputs": lycoris("locon", weight_decompose=True, wd_on_out=False),
        "DoRA on LoHa": lycoris("loha", weight_decompose=True),
        "DoRA on LoKr": lycoris("lokr", factor=2, weight_decompose=True),
        "GLoRA": lycoris("glora"),
        "IA3": lycoris("ia3"),
        "IA3 on the inputs": lycoris("ia3", train_on_input=True),
        "full differences, with biases": lycoris("full"),
        "norm layers": lycoris("locon", norms=True),
        "diag-OFT": lycoris("diag-oft"),
        "diag-OFT, limited and rescaled": lycoris("diag-oft", constraint=0.01, rescaled=True),
        "BOFT": lycoris("boft", rank=12),
        "BOFT, rescaled": lycoris("boft", rank=12, rescaled=True),
    }
    plain = {"r": RANK, "lora_alpha": ALPHA}
    by_peft = {
        "LoRA, alpha in adapter_config.json": peft("LoraConfig", **plain),
        "rsLoRA": peft("LoraConfig", use_rslora=True, **plain),
        "LoRA, ranks and alphas by layer": peft(
            "LoraConfig",
            rank_pattern={"to_q": 2, "conv1": 3},
            alpha_pattern={"proj_in": 1, "conv1": 5},
            **plain,
        ),
        "LoRA with biases": peft(
            "LoraConfig", lora_bias=True, target_modules=PEFT_TARGETS.replace("to_q|", ""), **plain
        ),
        "DoRA": peft("LoraConfig", use_dora=True, **plain),
        "LoHa": peft("LoHaConfig", r=RANK, alpha=ALPHA),
        "LoHa, Tucker": peft("LoHaConfig", r=RANK, alpha=ALPHA, use_effective_conv2d=True),
        "LoKr": peft("LoKrConfig", r=RANK, alpha=ALPHA),
        "LoKr, Tucker, both decomposed": peft(
            "LoKrConfig", r=1, alpha=ALPHA, use_effective_conv2d=True, decompose_both=True
        ),
    }
    by_diffusers = {
        "LoRA": diffusers(**plain),
        "rsLoRA": diffusers(use_rslora=True, **plain),
        "LoRA, ranks and alphas by layer": diffusers(
            rank_pattern={"to_q": 2}, alpha_pattern={"proj_in": 1}, **plain
        ),
        "DoRA": diffusers(use_dora=True, **plain),
    }
    tables = {"lycoris-lora": by_lycoris, "peft": by_peft, "diffusers": by_diffusers}
    return [
        Kind(name, f"{tool} {version(tool)}", write)
        for tool, table in tables.items()
        for name, write in table.items()
    ]


def rows() -> list[Row]:
    """Return the table's rows: each kind written for the demo model's UNet, and painted with by both."""
    unet = _demo_unet()
    return [_row(kind, unet) for kind in kinds()]


def _row(kind: Kind, unet: nn.Module) -> Row:
    changed, ours = copy.deepcopy(unet), copy.deepcopy(unet)
    torch.manual_seed(20)  # the tools' own initial values
    with tempfile.TemporaryDirectory() as folder:
        path = kind.write(changed, Path(folder))
        with torch.no_grad():
            expected, before = _called(changed), _called(unet)
        try:
            fuse(ours, (nn.Module(), nn.Module()), path)
        except ModelError as error:
            return Row(kind.name, kind.tool, f"no: {error}", None)
    with torch.no_grad():
        got = _called(ours)
    assert (expected - before).abs().max() > 0.01 * before.abs().max(), f"{kind.name} has no effect"
    difference = (got - expected).abs().max() / expected.abs().max()
    return Row(kind.name, kind.tool, "yes", difference.item(), "its own forward pass")


def _demo_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    folder = demo.demo_checkpoint().path / "unet"
    unet: nn.Module = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    return unet.requires_grad_(False).eval()


def _called(unet: Any) -> torch.Tensor:
    """Return the UNet's prediction for inputs that are always the same."""
    unet = getattr(unet, "base_model", unet)  # PEFT's wrapper
    config = getattr(unet, "model", unet).config
    generator = torch.Generator().manual_seed(19)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    found: torch.Tensor = unet(
        torch.randn(1, config.in_channels, 16, 16, generator=generator),
        torch.tensor(500),
        torch.randn(1, 7, config.cross_attention_dim, generator=generator),
        added_cond_kwargs={
            "text_embeds": torch.randn(1, pooled, generator=generator),
            "time_ids": torch.ones(1, 6),
        },
    ).sample
    return found


def write_fixtures(folder: Path) -> None:
    """Write a file for each kind: the tool's own for the small UNet, and what the tool then computes."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds():
        network = small_unet()
        torch.manual_seed(20)  # the tools' own initial values
        with tempfile.TemporaryDirectory() as made:
            path = kind.write(network, Path(made))
            with torch.no_grad():
                tensors = {"output": network(small_input()).contiguous()}
            tensors |= {f"file/{key}": tensor for key, tensor in load_file(path).items()}
            config = path.with_name("adapter_config.json")
            with safe_open(path, framework="pt") as stored:
                about = {
                    "kind": kind.name,
                    "tool": kind.tool,
                    "header": json.dumps(stored.metadata() or {}),
                    "name": path.name,
                    "config": config.read_text("utf-8") if config.exists() else "",
                }
        name = "".join(c if c.isalnum() else "-" for c in f"{kind.tool.split()[0]} {kind.name}").lower()
        save_file(tensors, folder / f"{name.replace('--', '-')}.safetensors", {"about": json.dumps(about)})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.files.loras", description="Write the tests' LoRA files."
    )
    parser.add_argument(
        "--fixtures", type=Path, required=True, metavar="DIR", help="the folder to write them to"
    )
    write_fixtures(parser.parse_args().fixtures)


if __name__ == "__main__":
    main()
