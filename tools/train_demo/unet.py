"""The demo model's UNet and both text encoders: untrained, or as a model has them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.train_demo.backdrop import SIZE

WIDTHS = (64, 80)  # of the two text encoders: different, so that single-file loaders can distinguish them
_LATENT = SIZE // 8
CONFIG: dict[str, Any] = {
    "sample_size": _LATENT,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (48, 96, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (2, 3, 4),
    "norm_num_groups": 16,
    "cross_attention_dim": sum(WIDTHS),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 6 * 16 + WIDTHS[1],
}


@dataclass(slots=True)
class Networks:
    """The networks that are trained together."""

    unet: UNet2DConditionModel
    encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection]

    @classmethod
    def fresh(cls, tokenizer: CLIPTokenizer) -> "Networks":
        """Make untrained networks, from the torch seed."""
        first, second = (_text_config(tokenizer, side) for side in (0, 1))
        return cls(
            UNet2DConditionModel(**CONFIG), (CLIPTextModel(first), CLIPTextModelWithProjection(second))
        )

    @classmethod
    def of_model(cls, folder: Path, tokenizer: CLIPTokenizer) -> "Networks":
        """Load a model's networks; words that only ``tokenizer`` knows get untrained embeddings.

        Args:
            folder: of the model, in the diffusers layout.
            tokenizer: with the merges of the model's own, and others behind them.
        """
        known = CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
        encoders = (
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
            CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", dtype=torch.float32),
        )
        grown = tuple(
            _grown(encoder, _text_config(tokenizer, side), known, tokenizer.get_vocab())
            for side, encoder in enumerate(encoders)
        )
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
        return cls(unet, grown)

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the modules by the names of a diffusers folder."""
        return {"unet": self.unet, "text_encoder": self.encoders[0], "text_encoder_2": self.encoders[1]}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters of all modules."""
        return [p for module in self.modules().values() for p in module.parameters()]

    def state(self) -> dict[str, dict[str, Any]]:
        """Return the weights by module."""
        return {name: module.state_dict() for name, module in self.modules().items()}

    def load(self, state: dict[str, dict[str, Any]]) -> None:
        """Take the weights of a :meth:`state`."""
        for name, module in self.modules().items():
            module.load_state_dict(state[name])

    def embed(self, ids: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed token ids (n, 77) of both tokenizers, as SDXL does: hidden (n, 77, 144), pooled (n, 80)."""
        outs = [encoder(i, output_hidden_states=True) for encoder, i in zip(self.encoders, ids, strict=True)]
        return torch.cat([out.hidden_states[-2] for out in outs], dim=-1), outs[1].text_embeds


def _text_config(tokenizer: CLIPTokenizer, side: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTHS[side],
        intermediate_size=2 * WIDTHS[side],
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTHS[1],
        hidden_act="gelu" if side else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=0 if side else tokenizer.eos_token_id,
    )


def _grown(encoder: Any, config: CLIPTextConfig, known: dict[str, int], vocabulary: dict[str, int]) -> Any:
    """Return an encoder of ``config`` with the weights of another one, whose tokens may have other ids."""
    grown = type(encoder)(config)
    weights = encoder.state_dict()
    (name,) = (key for key in weights if key.endswith("token_embedding.weight"))
    trained = weights[name]
    embeddings = torch.randn(len(vocabulary), trained.shape[1]) * trained.std()
    for token, i in known.items():
        embeddings[vocabulary[token]] = trained[i]
    grown.load_state_dict({**weights, name: embeddings})
    return grown
