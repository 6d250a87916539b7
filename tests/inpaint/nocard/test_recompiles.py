"""How many graphs a server has compiled: those that are listed, and none after that.

The real engine plays sizes, slots, samplers, LoRAs, lengths of prompts and masks. torch traces for real; only
the code that would be made of the graphs is left out.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from inpaint import Engine, InpaintRequest
from inpaint.batching.work import Bucket
from inpaint.fast.optimizations import Fast, ready
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.row import Row
from inpaint.model.unet import UNetBatch
from inpaint.schedulers import SCHEDULERS
from tests.support.fast_rows import mixed_rows, own_model
from tests.support.lora_making import write_lora

pytest_plugins = ["tests.support.compiler_fixtures"]
pytestmark = pytest.mark.usefixtures("fresh_compiler")

WAIT_S = 240.0
SIZES = (Bucket(16, 16), Bucket(8, 16))  # the first is frequent
SLOTS = (2, 1)  # larger calls are split; a server has four numbers, which take twice as long to trace
WIDTHS = 2  # of the tiny UNet's repeated blocks: a graph each
Make = Callable[..., InpaintRequest]


def as_it_is(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """A backend that compiles nothing: what torch traced, run as it is."""
    return graph


def graphs() -> int:
    """How many graphs torch has traced."""
    return int(counters["stats"]["unique_graphs"])


@pytest.fixture
def own(checkpoint: Callable[[int], Path]) -> Model:
    """The tiny model, to be changed."""
    return own_model("tiny", checkpoint)


@pytest.fixture
def settled(own: Model, tmp_path: Path) -> Iterator[tuple[Engine, Fast]]:
    """An engine with everything compiled that is listed, and two LoRAs in its folder."""
    write_lora(tmp_path, "one", own, seed=1)
    write_lora(tmp_path, "two", own, ["unet"], seed=2)
    names = ("qkv", "text-kv", "compile", "deep-level")
    fast = ready(own, names, buckets=SIZES, often=1, sizes=SLOTS, backend=as_it_is)
    assert fast._parts is not None
    fast._parts._buckets = SIZES[:1]  # to save time: each size of the VAE is traced alike
    with Engine(own, fast=fast, loras=tmp_path) as engine:
        assert fast.wait(WAIT_S) == "whole"
        yield engine, fast


@pytest.fixture
def uncompiled(settled: tuple[Engine, Fast]) -> list[tuple[int, ...]]:
    """The shapes of calls that no compiled code fits, from now on."""
    compilation, shapes = settled[1]._compilation, []
    assert compilation is not None
    eager = compilation._eager

    def noted(batch: UNetBatch) -> torch.Tensor:
        shapes.append(tuple(batch.sample.shape))
        return eager(batch)

    compilation._eager = noted
    return shapes


def listed() -> int:
    """The number of graphs that are meant to be made."""
    blocks = len(SIZES) * len(SLOTS) * WIDTHS  # of near calls, too
    unet = blocks + len(SLOTS)  # and the whole UNet for the first size
    vae = 2 + 2  # one picture or two, decoded and encoded
    text = 2 * 2  # each encoder, one prompt or two
    return unet + vae + text


def requests(request_for: Make) -> list[InpaintRequest]:
    """What people send, of the compiled sizes: every sampler, guided or not, one picture to eight."""
    wide = {"image": Image.new("RGB", (128, 64), "teal"), "mask": hole((128, 64)), "area": "whole"}
    found = [
        request_for(scheduler=name, strength=0.9, seed=i, **(wide if i % 2 else {}))
        for i, name in enumerate(SCHEDULERS)
    ]
    found += [request_for(samples=n, guidance_scale=g, **size) for n, g, size in (
        (8, 7.5, {}), (2, 7.5, wide), (3, 1.0, {}), (1, 1.0, wide), (5, 1.0, wide),
    )]  # fmt: skip
    found += [
        request_for(pace="near", num_inference_steps=17, strength=1.0, samples=n, scheduler=name, **size)
        for n, name, size in ((1, "Euler a", {}), (3, "DPM2 Karras", wide), (5, "Euler a", wide))
    ]
    found += [request_for(loras="one:0.8"), request_for(loras="two,one:0.5", **wide)]
    found += [request_for(negative_prompt=text) for text in ("", "blurry, low quality")]
    found += [request_for(soft=True, mask=hole((128, 128), 120)), request_for(fill="noise", area="whole")]
    return found


def hole(size: tuple[int, int], grey: int = 255) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(grey, (24, 16, 88, 48))
    return mask


@pytest.mark.slow
@pytest.mark.gate
def test_a_server_compiles_what_is_listed_and_nothing_after_that(
    settled: tuple[Engine, Fast], uncompiled: list[tuple[int, ...]], request_for: Make
) -> None:
    """A compilation in service takes minutes of the interpreter, and again for each new shape."""
    engine, fast = settled
    assert graphs() <= listed()
    assert not counters["graph_break"]
    traced = graphs()
    play(engine, requests(request_for))
    assert uncompiled == [], "calls of 1 to 16 slots at both sizes"
    long = {"prompt": "word " * 100}
    play(engine, [request_for(**long), request_for(), request_for(negative_prompt="word " * 100)])
    assert uncompiled, "prompts of two chunks are not compiled for, which would be noticed"
    assert graphs() == traced
    assert fast.state == "whole", "no compiled code was dropped"


def play(engine: Engine, requests: list[InpaintRequest]) -> None:
    """Paint requests together, as they come, so that calls have all numbers of slots."""
    jobs = [engine.submit(request) for request in requests]
    for job in jobs:
        assert job.result().images


def traced_by(own: Model, type_of: Callable[[Row], torch.dtype]) -> int:
    """The graphs that torch makes of the timesteps' embedding while samplers of both kinds paint."""

    def embedding(timesteps: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = own.unet.time_embedding(own.unet.get_time_embed(sample, timesteps))
        return embedded

    sample, compiled = torch.zeros(2, 9, 8, 8), torch.compile(embedding, backend=as_it_is, dynamic=False)

    def forward(batch: UNetBatch) -> torch.Tensor:
        compiled(batch.timesteps.to(type_of(row)))
        return torch.zeros_like(batch.sample[:, :4])

    for row in mixed_rows(own):
        while row.slots == 2 and not row.done:
            step(own, [row], forward)
    return graphs()


def test_timesteps_have_one_type_for_all_samplers(own: Model) -> None:
    """Euler's are floats and DDIM's are not; a batch of both runs one graph."""
    assert traced_by(own, lambda row: row.times.dtype) == 1


def test_timesteps_of_three_types_would_be_compiled_three_times(own: Model) -> None:
    """The counts above rise by what is easily overlooked: the types of the samplers themselves."""
    assert traced_by(own, lambda row: row.timesteps.dtype) == 3
