"""What lies where under each memory plan, and what is copied when, on a CPU that calls itself a GPU."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint import Engine, InpaintRequest, cuda
from inpaint.batching.work import Bucket
from inpaint.cuda import CudaRuntime
from inpaint.fast.graph_recorder import CudaRecorder
from inpaint.fast.optimizations import choose, ready
from inpaint.fast.shapes import example, usual
from inpaint.memory import PLANS, choose_plan, place
from inpaint.model import vae
from inpaint.model.load import Model, load_model
from inpaint.model.prompt import PromptEncoder
from inpaint.model.unet import plain
from inpaint.model.vae_cache import PictureEncoder
from inpaint.runtime.precise import in_fp32

Make = Callable[..., InpaintRequest]
GPU = torch.device("cpu", 0)  # unequal to the "cpu" where offloaded modules rest


class Simulated(CudaRuntime):
    """A runtime that takes the CPU for a GPU, and notes what is copied and awaited."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.uploaded: list[torch.Tensor] = []
        self.downloaded: list[torch.Tensor] = []
        self.pins: list[torch.Tensor] = []

    def on(self, device: torch.device) -> bool:
        return True

    def upload(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        self.uploaded.append(host)
        return host.clone()

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        self.downloaded.append(tensor)
        return tensor.clone()

    def pinned(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        self.pins.append(host)
        return host

    def current_stream(self, device: torch.device) -> object:
        return self

    def synchronize(self, device: torch.device) -> None:
        self.done.append("wait")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    """The simulation, in place of torch's runtime."""
    runtime = Simulated()
    monkeypatch.setattr(cuda, "runtime", runtime)
    return runtime


def test_a_streamed_unets_first_call_is_thrown_away(
    simulated: Simulated, checkpoint: Callable[[int], Path]
) -> None:
    """diffusers does not wait for the copies of conv_in and conv_out in it: the first picture was spoilt."""
    loaded = load_model(checkpoint(9), "tiny", torch.device("cpu"), torch.float32)
    unet = loaded.unet
    whole = unet.enable_group_offload
    unet.enable_group_offload = lambda **given: whole(**{**given, "use_stream": False})  # needs a real stream
    unet.register_forward_pre_hook(lambda *_: simulated.done.append("call"))
    place(choose_plan(0), GPU, torch.float32, unet, loaded.vae, list(loaded.text_encoders))
    assert simulated.done == ["call", "wait"]


def encoded(model: Model, *prompts: str) -> list[torch.Tensor]:
    return [PromptEncoder(model).encode(prompt).hidden for prompt in prompts]


def test_an_offloaded_encoder_is_copied_in_and_never_back(
    simulated: Simulated, checkpoint: Callable[[int], Path], model: Model
) -> None:
    """Its weights do not change, and to copy 1.5 GB back took as long as to copy it in."""
    offloaded = load_model(checkpoint(9), "tiny", GPU, torch.float32, "offload-text")
    tensors = [t for part in offloaded.text_encoders for t in (*part.parameters(), *part.buffers())]
    assert len(simulated.pins) == len(tensors), "from memory that is not pinned a copy takes twice as long"
    before = [t.data_ptr() for t in tensors]
    simulated.uploaded.clear()
    (hidden,) = encoded(offloaded, "a red fox")
    assert [t.data_ptr() for t in tensors] == before
    weights = {t.data_ptr() for t in tensors}
    assert sum(t.data_ptr() in weights for t in simulated.uploaded) == len(tensors), "each once a visit"
    torch.testing.assert_close(hidden, encoded(model, "a red fox")[0])


def test_a_visit_that_fails_leaves_the_module_at_rest(
    simulated: Simulated, checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory half-way must not leave half an encoder on the GPU, for good."""
    offloaded = load_model(checkpoint(9), "tiny", GPU, torch.float32, "offload-text")
    before = [t.data_ptr() for t in offloaded.text_encoders[0].parameters()]
    left = [3]

    def full(host: torch.Tensor, device: torch.device) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return host.clone()

    with monkeypatch.context() as patch:
        patch.setattr(simulated, "upload", full)
        with pytest.raises(torch.OutOfMemoryError):
            encoded(offloaded, "a")
    assert [t.data_ptr() for t in offloaded.text_encoders[0].parameters()] == before
    assert encoded(offloaded, "a")[0].isfinite().all()


def test_pictures_go_up_as_bytes_and_all_copies_are_staged(simulated: Simulated, model: Model) -> None:
    """A copy from memory that is not pinned waits for all work that the GPU was given before."""
    photo = Image.fromarray(np.full((128, 128, 3), 7, np.uint8))
    hole = Image.fromarray(np.full((128, 128), 255, np.uint8))
    PictureEncoder(model).pair(photo, hole)
    assert [(t.dtype, tuple(t.shape)) for t in simulated.uploaded[:2]] == [
        (torch.uint8, (128, 128, 3)),
        (torch.bool, (128, 128)),
    ]
    vae.pictures(model, torch.zeros(2, 4, 16, 16))
    assert [tuple(t.shape) for t in simulated.downloaded] == [(2, 128, 128, 3)]


@pytest.mark.parametrize(("dtype", "sizes"), [(torch.float32, [1, 1]), (torch.bfloat16, [2])])
def test_a_vae_in_fp32_takes_one_picture_at_a_time(
    dtype: torch.dtype, sizes: list[int], simulated: Simulated, checkpoint: Callable[[int], Path]
) -> None:
    """Two decodes in fp32 take 6 GB next to a resident model; that ran out on 16 GB cards."""
    model = load_model(checkpoint(9), "tiny", torch.device("cpu"), torch.float32)
    model.vae.to(dtype)
    for part, work in (
        (model.vae.encoder, lambda: vae.encode(model, torch.zeros(2, 3, 128, 128))),
        (model.vae.decoder, lambda: vae.pictures(model, torch.zeros(2, 4, 16, 16))),
    ):
        seen: list[int] = []
        handle = part.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0])))
        work()
        handle.remove()
        assert seen == sizes


@pytest.mark.parametrize("plan", ["resident", "streamed", "fp8"])
def test_the_forward_pass_in_fp32_is_that_of_a_cast_copy(
    plan: str, checkpoint: Callable[[int], Path]
) -> None:
    """Under every plan, with the optimisations that it allows; the UNet itself is left as it was."""
    model = load_model(checkpoint(9), "tiny", torch.device("cpu"), torch.bfloat16, plan)
    bare = load_model(checkpoint(9), "tiny", torch.device("cpu"), torch.bfloat16).unet
    names = choose(model, frozenset({"compile", "graphs"}))
    ready(model, names)
    unet = model.unet
    if plan == "fp8":
        for name, stored in unet.named_parameters():  # the weights that it has left
            bare.get_parameter(name).data = stored.data.to(torch.bfloat16)
    batch = example(model, usual(model, Bucket(16, 16), 2)._replace(dtype=torch.float32))
    before = {name: (p.dtype, p.data_ptr()) for name, p in unet.named_parameters()}
    with torch.inference_mode():
        precise = in_fp32(unet, model.device)(batch)
        expected = plain(bare.float())(batch)
    assert precise.dtype == torch.float32
    torch.testing.assert_close(precise, expected, rtol=1e-4, atol=1e-5)
    assert {name: (p.dtype, p.data_ptr()) for name, p in unet.named_parameters()} == before


@pytest.mark.parametrize("plan", [plan.name for plan in PLANS])
def test_nan_is_painted_again_in_fp32_under_every_plan(
    plan: str, checkpoint: Callable[[int], Path], request_for: Make
) -> None:
    """On a small card, too, the caller gets a picture and not an internal error."""
    dtypes = []

    def overflow(unet: torch.nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        dtypes.append(args[0].dtype)
        return (torch.full_like(out[0], torch.nan),) if args[0].dtype == torch.bfloat16 else out

    with Engine.load(checkpoint(9), device="cpu", dtype="bfloat16", memory=plan) as engine:
        handle = engine.model.unet.register_forward_hook(overflow)
        assert engine.paint(request_for(num_inference_steps=2)).images
        handle.remove()
        assert engine.paint(request_for(num_inference_steps=2)).images
        assert engine.stats().failures == 0
    assert torch.float32 in dtypes


def test_room_is_made_between_the_warm_ups_and_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a graph is captured nothing cached can be given back, so on a full card recording failed."""
    order: list[str] = []

    class Noted(CudaRuntime):
        def make_room(self, device: torch.device, size_bytes: int) -> None:
            order.append("room")
            assert size_bytes > 1.3 * 1024**3

        def stream(self, device: torch.device, *, priority: int) -> Any:
            return SimpleNamespace(wait_stream=lambda other: None)

        current_stream = graph_pool = graph = lambda self, *_: SimpleNamespace(wait_stream=lambda other: None)
        using = device = capturing = lambda self, *_, **__: nullcontext()

    monkeypatch.setattr(cuda, "runtime", Noted())

    def call() -> torch.Tensor:
        order.append("call")
        return torch.zeros(1)

    CudaRecorder(GPU).record(call)
    assert order == ["call", "call", "call", "room", "call"]
