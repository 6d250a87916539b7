"""The compiled VAE and text encoders: used when they are ready, with the same results, and if they fail."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inpaint.batching.work import Bucket
from inpaint.fast import torch_compile
from inpaint.fast.compiled_parts import CompiledParts, own_copy
from inpaint.lora.changes import LowRank
from inpaint.lora.hooks import LoraHooks
from inpaint.lora.layers import text_layers
from inpaint.memory import PLANS
from inpaint.model.load import Model
from inpaint.model.prompt import PromptEncoder
from inpaint.model.vae import decode, encode
from tests.support.fast_rows import apart, own_model

pytest_plugins = ["tests.support.compiler_fixtures"]

# inductor imports what torch itself has deprecated.
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

SIZE = Bucket(8, 16)
DECODER, TEXT = "the VAE's decoder", "text encoder 1"
PARTS = (DECODER, "the VAE's encoder", TEXT, "text encoder 2")
Graph = torch.fx.GraphModule


class Counting:
    """A backend that compiles nothing, and counts how many graphs it made and how often they ran."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor] = lambda out: out) -> None:
        self.made = self.ran = 0
        self.change = change

    def __call__(self, graph: Graph, inputs: list[Any]) -> Callable[..., Any]:
        self.made += 1

        def run(*args: Any) -> Any:
            self.ran += 1
            return tuple(self.change(out) for out in graph(*args))

        return run


@pytest.fixture
def own(checkpoint: Callable[[int], Path]) -> Model:
    """The tiny model, to be changed."""
    return own_model("tiny", checkpoint)


def compiled(model: Model, backend: Any, names: Sequence[str] = PARTS) -> CompiledParts:
    """Compile the parts of these names in a thread, as in service; tracing all of them takes seconds."""
    parts = CompiledParts(model, [SIZE], backend)
    parts._parts = [part for part in parts._parts if part.name in names]
    parts.install()

    def work() -> None:
        with torch.inference_mode(), torch_compile.many_shapes():
            parts.compile(threading.Event())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return parts


def normal(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(5))


def results(model: Model, prompt: str = "a red circle") -> list[torch.Tensor]:
    """What a request has computed outside the UNet."""
    posterior = encode(model, normal(2, 3, 64, 128).clamp(-1, 1))
    embeds = PromptEncoder(model).pair(prompt, "blurry")
    texts = [tensor for each in embeds for tensor in (each.hidden, each.pooled)]
    return [posterior.mean, posterior.std, decode(model, normal(1, 4, 8, 16)), *texts]


def test_a_request_s_pictures_and_prompts_run_compiled(own: Model) -> None:
    """The VAE and the text encoders take a tenth of a picture's time and more."""
    expected = results(own)
    backend = Counting()
    parts = compiled(own, backend)
    assert dict(parts.states) == dict.fromkeys(PARTS, "compiled")
    backend.ran = 0
    assert apart(results(own), expected) < 1e-5
    layers = sum(int(encoder.config.num_hidden_layers) for encoder in own.text_encoders)
    assert backend.ran == 2 + layers, "encode, decode, and every layer for the prompt with its negative"


def test_layers_of_a_text_encoder_share_their_code(own: Model) -> None:
    """SDXL's second encoder has 32: compiled one by one they would take minutes."""
    backend = Counting()
    compiled(own, backend, [TEXT])
    assert backend.made == 2, "for one prompt and for two"


@pytest.mark.slow
def test_inductor_s_code_gives_the_same(own: Model) -> None:
    """As above with the real compiler, on the quickest part."""
    expected = prompt_of(own)
    parts = compiled(own, torch_compile.inductor, [TEXT])
    assert parts.states[TEXT] == "compiled"
    assert apart(prompt_of(own), expected) < 1e-4


def test_other_inputs_run_uncompiled(own: Model) -> None:
    """A rare size must not stop a request for a minute: its thread never compiles anything."""
    backend = Counting()
    compiled(own, backend, [DECODER])
    made, backend.ran = backend.made, 0
    decode(own, normal(1, 4, 8, 8))
    decode(own, normal(1, 4, 8, 16), smaller=True)
    assert (backend.made, backend.ran) == (made, 0)


def test_a_lora_on_a_text_encoder_is_not_lost(own: Model) -> None:
    """Its hooks are not in the compiled code, and its words must look as it was trained."""
    compiled(own, Counting(), [TEXT])
    plain = PromptEncoder(own).encode("a red circle").hidden
    layer = next(iter(text_layers(own.text_encoders[0]).values()))
    up, down = normal(layer.module.weight.shape[0], 2), normal(2, layer.module.weight.shape[1])
    with LoraHooks(own.device, own.dtype).using([(1.0, [LowRank(layer, up, down, 1.0)])]):
        changed = PromptEncoder(own).encode("a red circle").hidden
    assert not torch.allclose(changed, plain)
    assert torch.allclose(PromptEncoder(own).encode("a red circle").hidden, plain, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_vae_that_is_cast_keeps_its_code(own: Model) -> None:
    """A picture that overflows in 16 bit is decoded in fp32, in the model's own modules."""
    own.vae.to(torch.bfloat16)
    backend = Counting()
    parts = compiled(own, backend, [DECODER])
    backend.ran = 0
    own.vae.to(torch.float32)
    decode(own, normal(1, 4, 8, 16))
    assert backend.ran == 0
    own.vae.to(torch.bfloat16)
    decode(own, normal(1, 4, 8, 16))
    assert backend.ran == 1
    assert parts.states[DECODER] == "compiled"


def prompt_of(model: Model) -> torch.Tensor:
    return PromptEncoder(model).encode("a red circle").hidden


def test_wrong_code_is_not_used(own: Model, caplog: pytest.LogCaptureFixture) -> None:
    """A miscompilation must show in the log, not in pictures."""
    expected = prompt_of(own)
    with caplog.at_level(logging.WARNING):
        parts = compiled(own, Counting(lambda out: out * 1.5), [TEXT])
    assert "off by" in parts.states[TEXT]
    assert [record.name for record in caplog.records] == ["inpaint.fast.compiled_parts"]
    assert torch.equal(prompt_of(own), expected)


def test_code_that_fails_later_is_left(own: Model) -> None:
    """The request whose call met it is painted all the same."""
    expected = prompt_of(own)
    backend = Counting()
    parts = compiled(own, backend, [TEXT])
    assert parts.states[TEXT] == "compiled"

    def misaligned(out: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("misaligned")

    backend.change = misaligned
    assert torch.equal(prompt_of(own), expected)
    assert "misaligned" in parts.states[TEXT]


def test_without_memory_a_call_is_left_out(own: Model) -> None:
    """A small GPU compiles for one prompt and not for two."""

    def full(out: torch.Tensor) -> torch.Tensor:
        if len(out) == 2:
            raise torch.OutOfMemoryError("full")
        return out

    backend = Counting(full)
    parts = compiled(own, backend, [TEXT])
    assert parts.states[TEXT] == "compiled"
    backend.ran = 0
    prompt_of(own)
    assert backend.ran == own.text_encoders[0].config.num_hidden_layers


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_only_what_stays_on_the_device_is_compiled(plan: Any, own: Model) -> None:
    """A part that is moved for each call would be compiled for weights that are gone."""
    parts = CompiledParts(replace(own, plan=plan), (SIZE,), Counting())
    staying = PARTS[:2] * plan.vae_resident + PARTS[2:] * plan.text_encoders_resident
    assert tuple(parts.states) == staying


def test_the_model_gets_its_own_code_back(own: Model) -> None:
    """A notebook closes an engine and uses its model in another."""
    parts = compiled(own, Counting(), [TEXT])
    parts.uninstall()
    modules = [m for root in (own.vae, *own.text_encoders) for m in root.modules()]
    assert not [module for module in modules if "forward" in vars(module)]
    backend = Counting()
    for _ in range(2):  # and one that was not closed
        compiled(own, backend, [TEXT])
    backend.ran = 0
    prompt_of(own)
    assert backend.ran == own.text_encoders[0].config.num_hidden_layers


def test_a_copy_shares_memory_and_nothing_else(own: Model) -> None:
    """Casting the original, or a hook on it, must not reach code that is being compiled."""
    copy = own_copy(own.vae)
    pairs = list(zip(own.vae.parameters(), copy.parameters(), strict=True))
    assert all(a is not b and a.data_ptr() == b.data_ptr() for a, b in pairs)
    own.vae.decoder.conv_in.register_forward_hook(lambda *_: None)
    assert not copy.decoder.conv_in._forward_hooks
    own.vae.to(torch.bfloat16)
    assert copy.decoder.conv_in.weight.dtype == torch.float32
