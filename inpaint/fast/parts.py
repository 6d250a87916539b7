"""The parts of a model around its UNet that are compiled, and the calls that they are compiled for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from inpaint.batching.work import Bucket
from inpaint.model.load import Model
from inpaint.model.prompt import CHUNK_TOKENS
from inpaint.model.vae import DECODED_TOGETHER


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a model, what is compiled of it, and the calls that it is compiled for."""

    name: str
    root: Any  # a module
    blocks: Callable[[Any], list[Any]]  # a root → the modules in it that are compiled
    run: Callable[[Any, torch.Tensor], torch.Tensor]  # a root and its input → its result
    inputs: Callable[[Bucket], Iterator[torch.Tensor]]  # random ones, for pictures of this size


def parts_of(model: Model) -> list[Part]:
    """Return the parts that stay on the device, where compiled code finds their weights."""
    vae = _vae(model) if model.plan.vae_resident else []
    return vae + (_text(model) if model.plan.text_encoders_resident else [])


def _vae(model: Model) -> list[Part]:
    def latents(bucket: Bucket) -> Iterator[torch.Tensor]:
        for n in range(1, DECODED_TOGETHER + 1):
            yield _normal(n, 4, bucket.h, bucket.w).to(model.device, model.vae.dtype)

    def pixels(bucket: Bucket) -> Iterator[torch.Tensor]:
        # A picture and the masked picture share a call; the picture may be in the cache, or not be needed.
        side = model.vae_factor
        for n in (2, 1) if model.in_channels == 9 else (1,):
            found = _normal(n, 3, bucket.h * side, bucket.w * side).clamp(-1, 1)
            yield found.to(model.device, model.vae.dtype)

    return [
        Part("the VAE's decoder", model.vae, lambda vae: [vae.decoder], _decoded, latents),
        Part("the VAE's encoder", model.vae, lambda vae: [vae.encoder], _encoded, pixels),
    ]


def _decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def _encoded(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    mean: torch.Tensor = vae.encode(pixels).latent_dist.mean
    return mean


def _text(model: Model) -> list[Part]:
    tokens = partial(_tokens, model.text_encoders, model.device)
    return [
        Part(f"text encoder {number}", encoder, _layers, _hidden, tokens)
        for number, encoder in enumerate(model.text_encoders, 1)
    ]


def _tokens(encoders: Sequence[Any], device: torch.device, _: Bucket) -> Iterator[torch.Tensor]:
    """Yield a prompt of one chunk with its negative, and one alone; the picture's size does not matter."""
    words = min(int(encoder.config.vocab_size) for encoder in encoders)
    for n in (2, 1):
        ids = torch.randint(0, words, (n, CHUNK_TOKENS + 2), generator=torch.Generator().manual_seed(0))
        yield ids.to(device)


def _layers(encoder: Any) -> list[Any]:
    """Return a text encoder's layers; transformers puts them into one more module in the second encoder."""
    return list(getattr(encoder, "text_model", encoder).encoder.layers)


def _hidden(encoder: Any, ids: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = encoder(ids, output_hidden_states=True).hidden_states[-2]
    return hidden


def _normal(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))
