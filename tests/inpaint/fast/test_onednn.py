"""fp32 products through oneDNN: the same numbers, and the weights of now."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from inpaint import Engine, InpaintRequest
from inpaint.fast import fp8, onednn
from inpaint.fast.onednn import OneDnnLinear
from inpaint.fast.optimizations import choose, ready
from inpaint.model import load as loading
from inpaint.model.load import Model
from inpaint.model.unet import plain
from inpaint.runtime.precise import in_fp32
from tests.support.fast_rows import CPU, apart, own_model, random_batch
from tests.support.lora_making import write_lora

Checkpoint = Callable[[int], Path]
TOLERANCE = 5e-6  # of one call, relative; measured: 8e-7


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU of AMD's, and a small model that passes for a large one."""
    monkeypatch.setattr(onednn, "maker", lambda: "AuthenticAMD")
    monkeypatch.setattr(loading, "FULL_SIZE", 1)


@pytest.mark.usefixtures("amd")
def test_a_large_model_on_an_amd_cpu_has_it(checkpoint: Checkpoint) -> None:
    """Twice as fast there, and the same prediction; joined matrices have it as well."""
    model = own_model("tiny", checkpoint)
    batch = random_batch(model, "abc")
    expected = plain(model.unet)(batch)
    names = choose(model)
    assert "onednn" in names
    got = ready(model, names)(batch)
    linears = [module for module in model.unet.modules() if isinstance(module, nn.Linear)]
    assert {type(linear) for linear in linears} == {OneDnnLinear}
    assert apart(got, expected) < TOLERANCE


def test_others_go_without(model: Model, amd: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says why; the demo's pictures stay the same to the byte."""
    assert onednn.can(model) == ""
    assert "fp32" in onednn.can(replace(model, dtype=torch.bfloat16))
    assert "CPU" in onednn.can(replace(model, device=torch.device("cuda", 0)))
    with monkeypatch.context() as patch:
        patch.setattr(onednn, "maker", lambda: "GenuineIntel")
        assert "MKL is as fast" in onednn.can(model)
    with monkeypatch.context() as patch:
        patch.setattr(onednn, "_product", lambda *_: torch.zeros(64, 64))
        assert "wrong" in onednn.can(model)
    monkeypatch.setattr(loading, "FULL_SIZE", 10**9)
    assert "size" in onednn.can(model)


def test_a_build_of_torch_without_it_is_no_error(amd: None, model: Model) -> None:
    """The product has no public name, so that the next torch may have dropped it."""

    class Gone:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(f"no {name}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops, "mkldnn", Gone())
        assert "no oneDNN" in onednn.can(model)


@pytest.mark.usefixtures("amd")
def test_a_lora_counts_and_goes_again(
    checkpoint: Checkpoint, tmp_path: Path, request_for: Callable[..., InpaintRequest]
) -> None:
    """LoRAs are written into the weights in place: a packed copy of them would paint without."""
    write_lora(tmp_path, "one", own_model("tiny", checkpoint), ["unet"])
    painted = {}
    for without in ((), ("onednn",)):
        with Engine.load(checkpoint(9), device="cpu", dtype="float32", loras=tmp_path, without=without) as e:
            assert ("onednn" in e._fast.optimizations) == (not without)
            requests = (request_for(), request_for(loras="one"), request_for())
            painted[without] = [e.paint(request).images[0].convert("RGB") for request in requests]
    ours, theirs = ([torch.tensor(list(p.tobytes())) for p in pictures] for pictures in painted.values())
    assert all((one - other).abs().max() <= 1 for one, other in zip(ours, theirs, strict=True))
    assert (ours[0] - ours[1]).abs().max() > 10
    assert torch.equal(ours[0], ours[2])


@pytest.mark.usefixtures("amd")
def test_8_bit_and_other_dtypes_go_with_it(checkpoint: Checkpoint) -> None:
    """Matrices are quantised after a model was prepared for its device; a row may be painted again."""
    model = own_model("tiny", checkpoint)
    batch = random_batch(model, "ab")
    expected = plain(model.unet)(batch)
    ready(model, ("qkv", "onednn"))
    assert apart(in_fp32(model.unet, CPU)(batch), expected) < TOLERANCE
    half = random_batch(replace(model, dtype=torch.bfloat16), "ab")
    assert apart(plain(model.unet.to(torch.bfloat16))(half), expected) < 0.05
    model.unet.to(torch.float32)
    assert fp8.convert(model.unet) > 0


def test_compiled_code_may_hold_it() -> None:
    """A graph break in every layer would make compiled code slower than none."""
    layer = nn.Linear(16, 16).requires_grad_(False)
    x = torch.randn(3, 16)
    expected = layer(x)
    onednn.convert(layer)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert apart(compiled(x), expected) < TOLERANCE
