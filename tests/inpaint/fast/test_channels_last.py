"""NHWC: a layout, not a value."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inpaint.fast import channels_last
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch, plain
from tests.support.fast_rows import apart, own_model, random_batch

NHWC = torch.channels_last


def test_weights_and_samples_are_nhwc_and_the_prediction_is_not(checkpoint: Callable[[int], Path]) -> None:
    """One convolution left in NCHW costs two transpositions; schedulers want the usual layout back."""
    model = own_model("tiny", checkpoint)
    batch = random_batch(model, "ab")
    before = plain(model.unet)(batch)
    weights = {name: p.clone() for name, p in model.unet.named_parameters()}
    channels_last.convert(model.unet)
    seen: list[torch.Tensor] = []

    def watched(batch: UNetBatch) -> torch.Tensor:
        seen.append(batch.sample)
        out = plain(model.unet)(batch)
        assert not out.is_contiguous()  # as the UNet leaves it
        return out

    painted = channels_last.wrap(watched)(batch)
    assert all(p.is_contiguous(memory_format=NHWC) for p in model.unet.parameters() if p.ndim == 4)
    assert all(torch.equal(p, weights[name]) for name, p in model.unet.named_parameters())
    assert seen[0].is_contiguous(memory_format=NHWC)
    assert painted.is_contiguous()
    assert apart(painted, before) < 1e-5


def test_a_cpu_goes_without_in_fp32(model: Model) -> None:
    """Measured on the demo model, one thread: 32.7 against 31.8 ms a call, which is noise."""
    assert "GPU" in channels_last.can(model)


@pytest.mark.parametrize("units", ["AMX", ""])
def test_a_cpu_that_multiplies_in_bf16_has_it_there(
    units: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on blocks of SDXL's size: 171 against 191 ms; a CPU without such units casts every layer."""
    monkeypatch.setattr(channels_last, "bf16_units", lambda: units)
    assert bool(channels_last.can(replace(model, dtype=torch.bfloat16))) == (not units)
    assert channels_last.can(model), "not in fp32"
