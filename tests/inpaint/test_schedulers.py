"""The table of samplers: every row makes the sampler that its name says."""

import inspect

import diffusers
import numpy as np
import pytest
import torch

from inpaint import SCHEDULERS, RequestError
from inpaint.schedulers import SDXL_SCHEDULE, _folded, canonical_name, make_scheduler, unet_calls


def test_the_twelve_names_of_the_hosted_api() -> None:
    """A client's request names one of these; losing one breaks it. They come first, as it documents them."""
    assert [*SCHEDULERS][:12] == [
        "DDIM", "DPM Multi", "DPM Single", "Euler a", "Euler", "Heun",
        "DPM2 a Karras", "DPM2 Karras", "LMS", "PNDM", "DDPM", "UniPC",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_row_describes_its_class(name: str) -> None:
    """The step loop trusts the table instead of inspecting at run time."""
    spec = SCHEDULERS[name]
    cls = getattr(diffusers, spec.class_name)
    assert spec.step_takes_generator == ("generator" in inspect.signature(cls.step).parameters)
    assert make_scheduler(name, {}).order == spec.order


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_name_matches_in_any_letter_case(name: str) -> None:
    """Public clients write "euler A" and "dpm2 karras"."""
    assert canonical_name(name.upper()) == canonical_name(f"  {name.lower()} ") == name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("DPM++ 2M", "DPM Multi"),
        ("DPM++ 2M Karras", "DPM Multi Karras"),
        ("dpm++ 2m sde karras", "DPM Multi SDE Karras"),
        ("dpmpp_2m", "DPM Multi"),
        ("dpmpp_2m_sde", "DPM Multi SDE"),
        ("euler_ancestral", "Euler a"),
        ("uni_pc", "UniPC"),
        ("PLMS", "PNDM"),
    ],
)
def test_other_programs_names_are_taken(theirs: str, ours: str) -> None:
    """Who comes from A1111 or ComfyUI writes the sampler's name as it stands there."""
    assert canonical_name(theirs) == ours


def test_no_two_samplers_answer_to_one_name() -> None:
    """The later of two would silently take the earlier one's requests."""
    known = [
        folded for name, spec in SCHEDULERS.items() for folded in {_folded(n) for n in (name, *spec.known_as)}
    ]
    assert len(known) == len(set(known))


def test_an_unknown_name_is_answered_with_all_names() -> None:
    """A caller who misspells a scheduler learns the right spelling from the error."""
    with pytest.raises(RequestError, match=r"unknown name 'Eular'.*DDIM, DPM Multi.*UniPC") as caught:
        make_scheduler("Eular", {})
    assert caught.value.field == "scheduler"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_call_makes_a_fresh_object(name: str) -> None:
    """Schedulers keep per-run state; two rows that share one would corrupt each other's pictures."""
    first, second = make_scheduler(name, {}), make_scheduler(name, {})
    kept = (list, dict, torch.Tensor, np.ndarray)
    of_first = {id(value) for value in vars(first).values() if isinstance(value, kept)}
    assert not of_first & {id(value) for value in vars(second).values()}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_class_is_constructed_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructors of the DPM2 classes take 0.17 s; 64 samples of the default sampler took 11 s."""
    make_scheduler(name, {})
    monkeypatch.setattr(getattr(diffusers, SCHEDULERS[name].class_name), "__init__", None)
    make_scheduler(name, {}).set_timesteps(4)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("base", [{}, {"beta_schedule": "scaled_linear"}, dict(SDXL_SCHEDULE)])
def test_a_folder_without_sdxl_keys_gets_sdxl_values(name: str, base: dict[str, object]) -> None:
    """The classes' own defaults (clip_sample=True, steps_offset=0, linear betas) change pictures silently."""
    config = make_scheduler(name, base).config
    assert config.beta_schedule == "scaled_linear"
    for key, value in SDXL_SCHEDULE.items():
        assert config.get(key, value) == value, key


@pytest.mark.parametrize("name", SCHEDULERS)
def test_only_karras_names_use_karras_sigmas(name: str) -> None:
    """A checkpoint saved with a Karras sampler must not turn "Euler" into another sampler."""
    config = make_scheduler(name, {"use_karras_sigmas": True, "algorithm_type": "dpmsolver"}).config
    assert config.get("use_karras_sigmas", False) == name.endswith("Karras")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_checkpoints_own_schedule_wins(name: str) -> None:
    """A v-prediction or zero-terminal-SNR checkpoint keeps the schedule that it was trained with."""
    config = make_scheduler(name, {"prediction_type": "v_prediction", "beta_end": 0.02}).config
    assert config.prediction_type == "v_prediction"
    assert config.beta_end == 0.02


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(("steps", "strength"), [(25, 0.9), (8, 1.0), (3, 0.4), (1, 1.0), (100, 0.5)])
def test_the_number_of_unet_calls_is_known_up_front(name: str, steps: int, strength: float) -> None:
    """Admission forecasts a time before anything is encoded, so it must know the sampler's calls."""
    from inpaint.model.row import begin_at

    timesteps, _ = begin_at(make_scheduler(name, {}, steps), steps, strength)
    assert unet_calls(name, steps, strength) == len(timesteps)
