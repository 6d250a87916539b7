"""Each lever, and all of them together, paint what diffusers' own way through the UNet paints."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inpaint.errors import RequestError
from inpaint.fast.levers import LEVERS, NAMES, choose, ready
from inpaint.memory import PLANS
from inpaint.models import Model
from inpaint.unet import plain
from tests.fast_rows import MODELS, apart, mixed_rows, own_model, random_batch, run

Checkpoint = Callable[[int], Path]
REQUIRED = 1e-3  # what "exact" promises on any device
TOLERANCE = 1e-5  # in fp32 on a CPU; measured: 1.4e-6 at most
ALONE = [(name,) for name in ("channels-last", "qkv", "text-kv", "attention")]


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> Callable[[str], list[torch.Tensor]]:
    """A model's name → the latents of the mixed rows, the plain way; painted once."""
    painted: dict[str, list[torch.Tensor]] = {}

    def paint(name: str) -> list[torch.Tensor]:
        if name not in painted:
            model = own_model(name, checkpoint)
            painted[name] = run(model, mixed_rows(model))
        return painted[name]

    return paint


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("levers", [*ALONE, ("channels-last", "qkv", "text-kv", "attention")], ids="+".join)
def test_a_mixed_batch_is_painted_as_without_levers(
    name: str,
    levers: tuple[str, ...],
    checkpoint: Checkpoint,
    expected: Callable[[str], list[torch.Tensor]],
) -> None:
    """Every scheduler, guided and not, short prompts and long, in one batch: speed must not show."""
    model = own_model(name, checkpoint)
    ours = run(model, mixed_rows(model), ready(model, levers))
    assert all(latents.std() > 0.05 for latents in ours)
    distance = apart(ours, expected(name))
    assert distance < TOLERANCE < REQUIRED


def test_diffusers_still_finds_its_unet(checkpoint: Checkpoint) -> None:
    """Whoever calls ``model.unet`` beside us, as the stock lane of a bench does, gets the same prediction."""
    model = own_model("tiny", checkpoint)
    one, other = random_batch(model, "ab"), random_batch(model, "cd", seed=1)
    before = plain(model.unet)(other)
    ready(model, choose(model))(one)
    assert apart(plain(model.unet)(other), before) < TOLERANCE


def test_levers_pulled_twice_are_pulled_once(checkpoint: Checkpoint) -> None:
    """Two engines one after the other on one loaded model, as in a notebook, do not spoil each other."""
    model = own_model("tiny", checkpoint)
    batches = [random_batch(model, prompts) for prompts in ("ab", "cd")]
    right = [plain(model.unet)(batch) for batch in batches]
    first, second = ready(model, choose(model)), ready(model, choose(model))
    for batch, expected in zip(batches, right, strict=True):
        assert apart(first(batch), expected) < TOLERANCE
    # The second has filled the buffers with other text than the first remembers.
    assert apart(second(batches[0]), right[0]) < TOLERANCE
    assert apart(first(batches[1]), right[1]) < TOLERANCE
    assert apart(second(batches[0]), right[0]) < TOLERANCE


def test_half_precision_keeps_its_precision(checkpoint: Checkpoint) -> None:
    """On a GPU everything is in 16 bit: no lever may compute in less, or hand on another dtype."""
    model = own_model("tiny", checkpoint, torch.bfloat16)
    batch = random_batch(model, "abc")
    expected = plain(model.unet)(batch)
    painted = ready(model, choose(model))(batch)
    assert painted.dtype == torch.bfloat16
    assert apart(painted, expected) < 1e-2


def test_a_cpu_goes_without_the_levers_of_a_gpu(checkpoint: Checkpoint) -> None:
    """What brings nothing here is not done, and says why."""
    model = own_model("tiny", checkpoint)
    assert choose(model) == ("qkv", "text-kv")
    reasons = {lever.name: lever.why_not(model) for lever in LEVERS}
    assert all(bool(reason) == (name not in choose(model)) for name, reason in reasons.items())


def test_a_lever_is_left_out_by_name(model: Model) -> None:
    """An operator who suspects one of them starts the server without it."""
    assert choose(model, frozenset({"qkv"})) == ("text-kv",)
    assert choose(model, frozenset(NAMES)) == ()


@pytest.mark.parametrize("field", ["without", "wanted"])
def test_an_unknown_lever_is_refused_with_the_names_there_are(field: str, model: Model) -> None:
    """A mistyped name must not silently leave the lever in."""
    with pytest.raises(RequestError) as refused:
        choose(model, **{field: frozenset({"qvk"})})
    assert refused.value.field == field
    assert "'qvk'" in str(refused.value)
    assert all(name in str(refused.value) for name in NAMES)


def test_a_wanted_lever_that_cannot_be_is_refused_with_the_reason(model: Model) -> None:
    """Somebody who asked for a mode gets it or hears why not, not something else without a word."""
    with pytest.raises(RequestError, match="NHWC pays on a GPU"):
        choose(model, wanted=frozenset({"channels-last"}))


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.unet != "resident"], ids=lambda p: p.name)
def test_a_plan_that_hooks_the_modules_keeps_them(plan: object, model: Model) -> None:
    """On a small card the UNet is cast or moved block by block; a rewritten one would be missed by that."""
    assert choose(replace(model, plan=plan)) == ()
    for lever in LEVERS:
        assert not lever.rewrites or plan.name in lever.why_not(replace(model, plan=plan))


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.unet == "resident"], ids=lambda p: p.name)
def test_offloaded_encoders_do_not_cost_the_levers(plan: object, model: Model) -> None:
    """A plan that only moves the text encoders leaves the UNet as quick as ever."""
    assert choose(replace(model, plan=plan)) == ("qkv", "text-kv")
