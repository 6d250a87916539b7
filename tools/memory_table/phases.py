"""The phases of painting one picture of 1024² with SDXL, each as a trace of its allocations."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch

from inpaint.fast import channels_last, fused_qkv
from inpaint.memory import tiled
from inpaint.model.unet import UNetBatch, plain
from inpaint.runtime.precise import in_fp32
from tools.full_size.make import build
from tools.memory_table.trace import META, Trace, of_sizes, record, times

HALF, FULL = torch.float16, torch.float32
_TOKENS, _TEXT_WIDTH, _POOLED, _SIDE = 77, 2048, 1280, 128


class Phases:
    """Traces at SDXL's full size in fp16; each is recorded when it is first asked for."""

    def __init__(self) -> None:
        """Build the model, with a VAE that does not overflow in fp16."""
        self.vae_dtype = HALF
        self._known: dict[object, Trace] = {}
        self._parts = {name: part.to(HALF).eval() for name, part in build(9).items()}
        unet = self._parts["unet"]
        self.stored_unet = of_sizes([parameter.numel() for parameter in unet.parameters()])  # 8 bit each
        self.streamed_unet = of_sizes(_streamed(unet))
        # Converted on the device, as before, or in main memory and then loaded, as now.
        self.converted_on_device = record(lambda: _converted(unet), counted=[*unet.parameters()])
        self.converted_unet = of_sizes(_sizes(unet))

    def with_vae_in_fp32(self) -> Self:
        """Return the phases of a model whose VAE overflows in fp16: a single file's, or with force_upcast."""
        other = copy.copy(self)
        other.vae_dtype = FULL
        other._parts = {  # noqa: SLF001 - of the same class
            **self._parts,
            "vae": copy.deepcopy(self._parts["vae"]).to(FULL),
        }
        return other

    def weights(self, part: str) -> Trace:
        """Return the trace of the weights of ``vae``, ``text_encoder`` or ``text_encoder_2``."""
        return of_sizes(_sizes(self._parts[part]))

    def text_kv(self, slots: int) -> Trace:
        """Return the trace of the buffers of ``text-kv``."""
        layers = [m for name, m in self._parts["unet"].named_modules() if name.endswith("attn2")]
        return of_sizes([2 * slots * _TOKENS * layer.inner_dim for layer in layers for _ in "kv"])

    def unet(self, slots: int, dtype: torch.dtype = HALF) -> Trace:
        """Return the trace of a UNet call; in fp32 layer by layer, as rows are painted again."""
        unet = self._parts["unet"]
        if dtype == HALF:
            forward = channels_last.wrap(plain(unet))
            return times(self._once("unet", lambda: forward(_batch(1, HALF)), unet), slots)
        precise = in_fp32(unet, META)
        return self._once(("unet", slots), lambda: precise(_batch(slots, dtype)), unet)

    def encode(self, pictures: int) -> Trace:
        """Return the trace of a VAE encode."""
        pixels = torch.empty(pictures, 3, 8 * _SIDE, 8 * _SIDE, device=META, dtype=self.vae_dtype)
        vae = self._parts["vae"]
        return self._once(
            ("encode", self.vae_dtype, pictures), lambda: vae.encode(pixels).latent_dist.mean.float(), vae
        )

    def decode(self, pictures: int, *, in_tiles: bool = False) -> Trace:
        """Return the trace of a VAE decode."""
        latents = torch.empty(pictures, 4, _SIDE, _SIDE, device=META, dtype=self.vae_dtype)
        vae = self._parts["vae"]

        def work() -> object:
            if not in_tiles:
                return vae.decode(latents, return_dict=False)[0].float()
            with tiled(vae):
                return vae.decode(latents, return_dict=False)[0].float()

        return self._once(("decode", self.vae_dtype, pictures, in_tiles), work, vae)

    def prompts(self, part: str) -> Trace:
        """Return the trace of one text encoder's call for two prompts."""
        ids = torch.zeros(2, _TOKENS, dtype=torch.long, device=META)
        encoder = self._parts[part]
        return self._once(part, lambda: encoder(ids, output_hidden_states=True), encoder)

    def _once(self, key: object, work: Callable[[], object], part: Any) -> Trace:
        if key not in self._known:
            self._known[key] = record(work, [*part.parameters(), *part.buffers()])
        return self._known[key]


def _converted(unet: Any) -> None:
    fused_qkv.convert(unet)
    channels_last.convert(unet)


def _streamed(unet: Any) -> list[int]:
    """Return the sizes of what is on the device at the worst moment: the two largest layers."""
    return sorted(parameter.nbytes for parameter in unet.parameters())[-2:]


def _sizes(part: Any) -> list[int]:
    return [tensor.nbytes for tensor in (*part.parameters(), *part.buffers())]


def _batch(slots: int, dtype: torch.dtype) -> UNetBatch:
    def made(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=META)

    return UNetBatch(
        sample=made(slots, 9, _SIDE, _SIDE),
        timesteps=made(slots, dtype=FULL),
        hidden=made(slots, _TOKENS, _TEXT_WIDTH),
        keep=None,
        pooled=made(slots, _POOLED),
        time_ids=made(slots, 6),
        prompts=tuple(range(slots)),
    )
