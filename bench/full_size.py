"""SDXL at its real size with random weights, made on the device from config dicts.

Speed and memory do not depend on the weights' values as long as results are finite and not constant (zeros
and NaN run faster), which :func:`check_lively` checks. It says nothing about quality. Nothing is read from a
disk but a tokenizer of CLIP's size, written into a temporary folder.

Run as a program, it times the parts of a job: prompts, VAE encode and decode, UNet calls of 1, 2, 4, … slots.

    python -m bench.full_size [--device cuda] [--side 1024] [--slots 1 2 4 8 16] [--rounds 10] [--json FILE]
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.lib.contenders import conditions, finish, interleave, parser, row
from bench.lib.device import counted_tflop, matmul_tflops
from inpaint.errors import PaintError
from inpaint.memory import PLANS, choose_plan, free_bytes, place
from inpaint.model.denoise import step
from inpaint.model.load import DTYPES, Model, pick_device, pick_dtype
from inpaint.model.prompt import PromptEncoder
from inpaint.model.row import Conditioning, Row, start_row
from inpaint.model.vae import decode, encode
from inpaint.schedulers import SDXL_SCHEDULE
from tools.checkpoint_layout import write_tokenizer
from tools.full_size.make import build, merges_of

SLOTS = (1, 2, 4, 8, 16)
Parts = Mapping[str, Any]  # the four components by folder name, on the meta device


def build_model(
    device: torch.device,
    dtype: torch.dtype,
    parts: Parts | None = None,
    *,
    memory: str = "auto",
    seed: int = 0,
) -> Model:
    """Build a model with random weights for ``device``: SDXL's inpainting model unless ``parts`` are others.

    Raises:
        RequestError: there is no memory plan called ``memory``.
    """
    plan = choose_plan(free_bytes(device), memory)
    # A plan for little memory must not need much of it even briefly: its parts start in main memory.
    home = device if plan == PLANS[0] else torch.device("cpu")
    parts = parts or build(in_channels=9)
    generator = torch.Generator(device).manual_seed(seed)
    made = {name: _materialised(part, home, dtype, generator) for name, part in parts.items()}
    text, text_2 = made["text_encoder"], made["text_encoder_2"]
    place(plan, device, dtype, made["unet"], made["vae"], [text, text_2])
    return Model(
        name="full-size",
        unet=made["unet"],
        vae=made["vae"],
        text_encoders=(text, text_2),
        tokenizers=(_tokenizer(text, "<|endoftext|>"), _tokenizer(text_2, "!")),
        scheduler_config=SDXL_SCHEDULE,
        force_zeros_for_empty_prompt=True,
        requires_aesthetics_score=False,
        device=device,
        dtype=dtype,
        plan=plan,
    )


def _materialised(part: Any, home: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Any:
    # torch's .to(): diffusers' own warns that one should cast while loading, and there is nothing to load.
    module = torch.nn.Module.to(part, dtype).to_empty(device=home).eval().requires_grad_(False)
    for name, tensor in module.named_parameters():
        _fill(name, tensor, generator)
    for name, tensor in module.named_buffers():  # allocated, but without values
        assert name.endswith("position_ids"), name
        tensor.copy_(torch.arange(tensor.shape[-1], device=home).expand(tensor.shape))
    return module


def _fill(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Fill as the modules' own initialisation does, so that activations stay finite in half precision."""
    if tensor.ndim == 1:  # a bias, or a norm's gain
        tensor.fill_(float(name.endswith("weight")))
    else:
        std = 0.02 if "embeddings." in name else 1 / math.sqrt(3 * math.prod(tensor.shape[1:]))
        values = torch.empty(tensor.shape, device=generator.device, dtype=tensor.dtype)
        tensor.copy_(values.normal_(0, std, generator=generator))


def _tokenizer(encoder: Any, pad_token: str) -> Any:
    from transformers import CLIPTokenizer

    merges = merges_of(encoder.config.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), pad_token=pad_token, merges=merges)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def check_lively(what: str, tensor: torch.Tensor) -> None:
    """Refuse a timing whose values made the work faster than real ones would.

    Raises:
        PaintError: ``tensor`` is not finite, or constant.
    """
    values = tensor.float()
    if not torch.isfinite(values).all() or values.std() == 0:
        raise PaintError(f"the {what} is not finite or is constant, so its timing says nothing")


def start_rows(model: Model, side: int, number: int, *, guidance_scale: float) -> list[Row]:
    """Return rows of one request at ``side`` pixels, before their first step."""
    latent_side = side // model.vae_factor
    mask = torch.zeros(1, 1, latent_side, latent_side, device=model.device)
    mask[..., latent_side // 4 : latent_side // 2, latent_side // 4 : -latent_side // 4] = 1
    prompt, negative = PromptEncoder(model).pair("a man with black sun glasses", "bad quality, blur")
    posterior = encode(model, _noise_picture(model, side))
    shared = Conditioning(prompt, negative, posterior, posterior, mask)
    settings: dict[str, Any] = {"scheduler": "DDIM", "num_inference_steps": 25, "strength": 0.9}
    return [
        start_row(model, shared, **settings, guidance_scale=guidance_scale, seed=seed)
        for seed in range(number)
    ]


def _noise_picture(model: Model, side: int) -> torch.Tensor:
    """Return random pixels (1, 3, H, W) in -1 … 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, side, side, generator=generator).to(model.device) * 2 - 1


def parts_of(model: Model, side: int, slots: Sequence[int]) -> dict[str, Callable[[int], torch.Tensor]]:
    """Return the timed parts by name: round → a tensor of the result, to be checked."""
    encoder, pixels = PromptEncoder(model), _noise_picture(model, side)
    latents = encode(model, pixels).mean

    def unet(number: int) -> Callable[[int], torch.Tensor]:
        # Rows without guidance take one slot each; a guided one takes two, with the same work.
        rows = start_rows(model, side, number, guidance_scale=1.0)

        def call(i: int) -> torch.Tensor:
            if rows[0].done:
                rows[:] = start_rows(model, side, number, guidance_scale=1.0)
            step(model, rows)
            return rows[0].latents

        return call

    return {
        "prompts": lambda i: encoder.pair(f"a prompt of round {i}", f"not {i}")[0].hidden,
        "encode": lambda i: encode(model, pixels).mean,
        "decode": lambda i: decode(model, latents),
        **{f"step {number}": unet(number) for number in slots},
    }


def measure(
    device: torch.device,
    dtype: torch.dtype,
    side: int,
    slots: Sequence[int],
    rounds: int,
    parts: Parts | None,
) -> dict[str, Any]:
    """Time each part alone; return the figures as they go into the JSON line."""
    model = build_model(device, dtype, parts)
    figures: dict[str, Any] = {}
    print(f"{device}, {dtype}, {side}²: milliseconds, median (range)")
    for name, work in parts_of(model, side, slots).items():
        check_lively(name, work(-9))
        timing = interleave({name: work}, lambda i, place: i, warmups=3, rounds=rounds, device=device)[name]
        tflop = counted_tflop(lambda work=work: work(-8), device)  # type: ignore[misc]
        effective = tflop / timing.median
        row(name, timing, note=f"{tflop:.3g} TFLOP, {effective:.3g} TFLOP/s")
        rates = {"tflop": float(f"{tflop:.4g}"), "effective_tflops": float(f"{effective:.4g}")}
        figures[name] = {"ms": timing.to_json(), **rates}
    modules = {"unet": model.unet, "vae": model.vae, "text": model.text_encoders[0]}
    return conditions(
        "full_size",
        device,
        dtype=str(dtype),
        size=[side, side],
        parameters={name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()},
        matmul_tflops=round(matmul_tflops(device, dtype), 2),
        rounds=rounds,
        parts=figures,
    )


def main(arguments: Sequence[str] | None = None, parts: Parts | None = None) -> None:
    """Run the bench; tests pass ``parts`` that are smaller than SDXL's."""
    options = parser(__doc__, model=False)
    options.add_argument("--dtype", choices=("auto", *DTYPES), default="auto")
    options.add_argument("--side", type=int, default=1024, help="of the picture, in pixels (default 1024)")
    options.add_argument(
        "--slots", type=int, nargs="+", default=SLOTS, help="of the UNet calls that are timed"
    )
    options.add_argument("--rounds", type=int, default=10, help="timed rounds of each part (default 10)")
    chosen = options.parse_args(arguments)

    def run() -> dict[str, Any]:
        device = pick_device(chosen.device)
        dtype = pick_dtype(chosen.dtype, device)
        return measure(device, dtype, chosen.side, chosen.slots, chosen.rounds, parts)

    finish(run, chosen.json)


if __name__ == "__main__":
    main()
