"""Shared by the tests of ``inpaint.fast``: models of their own, rows of every kind, and a way to run them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from inpaint.demo import demo_checkpoint
from inpaint.model.denoise import step
from inpaint.model.load import Model, load_model
from inpaint.model.prompt import PromptEncoder
from inpaint.model.row import Conditioning, Row, start_row
from inpaint.model.unet import Forward, UNetBatch
from inpaint.model.vae import Posterior
from inpaint.schedulers import SCHEDULERS

CPU = torch.device("cpu")
MODELS = ("tiny", "demo")


def own_model(name: str, checkpoint: Callable[[int], Path], dtype: torch.dtype = torch.float32) -> Model:
    """A model that a test may rewrite, unlike the session's."""
    path = demo_checkpoint().path if name == "demo" else checkpoint(9)
    return load_model(path, name, CPU, dtype)


def mixed_rows(model: Model) -> list[Row]:
    """A row of each scheduler: unlike steps, strengths, guidance (with and without), prompts and lengths.

    They end at different calls, so the batch is another one in nearly every call; two prompts are of two
    chunks, so that while those rows run the others are padded and masked. Pictures are random latents.
    """
    prompts = PromptEncoder(model)
    rows = []
    for i, scheduler in enumerate(SCHEDULERS):
        text = "word " * (100 if i % 6 == 2 else i + 1)
        prompt, negative = prompts.pair(text, (None, "", "blur")[i % 3])
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 4:12, 5:13] = 1
        rows.append(
            start_row(
                model,
                Conditioning(prompt, negative, _picture(2 * i), _picture(2 * i + 1), mask),
                scheduler=scheduler,
                num_inference_steps=2 + i % 4,
                strength=(0.6, 0.9, 1.0)[i % 3],
                guidance_scale=(7.5, 1.0, 3.0)[i % 3],
                seed=i,
            )
        )
    return rows


def _picture(seed: int) -> Posterior:
    return Posterior(_normal(1, 4, 16, 16, seed=seed), torch.full((1, 4, 16, 16), 0.1))


def run(model: Model, rows: Sequence[Row], forward: Forward | None = None) -> list[torch.Tensor]:
    """Step rows together, each leaving when it is done; their latents (1, 4, h, w)."""
    while waiting := [row for row in rows if not row.done]:
        step(model, waiting, forward)
    return [row.latents for row in rows]


def random_batch(model: Model, prompts: Sequence[object], *, tokens: int = 77, seed: int = 0) -> UNetBatch:
    """A UNet's inputs at random; the text of equal prompts is equal, as the contract has it."""
    config = model.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    texts = [
        _normal(tokens, config.cross_attention_dim, seed=sum(map(ord, str(prompt)))) for prompt in prompts
    ]
    n = len(prompts)
    return UNetBatch(
        sample=_normal(n, 9, 8, 8, seed=seed).to(model.dtype),
        timesteps=torch.linspace(900, 100, n),
        hidden=torch.stack(texts).to(model.dtype),
        keep=None,
        pooled=_normal(n, pooled, seed=seed).to(model.dtype),
        time_ids=torch.full((n, 6), 64.0).to(model.dtype),
        prompts=tuple(prompts),
    )


def _normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apart(ours: Any, theirs: Any) -> float:
    """The relative distance of two tensors, or the largest of two lists'."""
    if isinstance(ours, torch.Tensor):
        return float((ours.float() - theirs.float()).norm() / theirs.float().norm())
    return max(apart(one, other) for one, other in zip(ours, theirs, strict=True))
