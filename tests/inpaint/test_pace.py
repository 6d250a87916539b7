"""The plan of a row's calls: which are made, which are forecast, and what that does to work and prices."""

from collections.abc import Callable

import pytest

from inpaint import SCHEDULERS, InpaintRequest, RequestError
from inpaint.batching.work import work_of
from inpaint.pace import call_plan
from inpaint.schedulers import unet_calls

Make = Callable[..., InpaintRequest]

LEFT = ("DPM2 a Karras", "LMS", "PNDM")  # nothing is saved on these
PLAIN = [name for name, spec in SCHEDULERS.items() if not spec.adds_noise]
NOISY = [name for name, spec in SCHEDULERS.items() if spec.adds_noise]


def test_the_default_request_is_painted_with_23_of_43_calls() -> None:
    """The second call of each step but the first is forecast; 0.535 of the work."""
    plan = call_plan("DPM2 Karras", 25, 0.9, "near")
    assert (plan.made, plan.calls) == (23, 43)
    assert plan.forecast == frozenset(range(3, 42, 2))


def test_every_second_call_of_an_order_1_sampler_is_forecast() -> None:
    """0.59 of the work, for 22 calls."""
    assert (call_plan("DDIM", 25, 0.9, "near").made, call_plan("DDIM", 25, 0.9, "near").calls) == (13, 22)


@pytest.mark.parametrize(("name", "first"), [("DPM Single", 6), ("DPM Single Karras", 10)])
def test_where_steps_come_in_pairs_forecasts_begin_later_and_at_the_first_of_one(
    name: str, first: int
) -> None:
    """A forecast of the second would go into the difference by which a pair is corrected."""
    assert call_plan(name, 25, 0.9, "near").forecast == frozenset(range(first, 21, 2))


@pytest.mark.parametrize(
    ("name", "made"), [("DPM Multi", 14), ("DPM Single", 14), ("DPM Multi Karras", 16), ("UniPC", 16)]
)
def test_a_sampler_with_a_memory_is_forecast_from_later_on(name: str, made: int) -> None:
    """It uses a forecast again in its next steps: else 19 dB in the worst of 96 scenes."""
    plan = call_plan(name, 25, 0.9, "near")
    assert (plan.made, plan.calls) == (made, 22)


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("steps", [25, 150])
def test_a_sampler_whose_picture_would_be_another_one_is_left_alone(name: str, steps: int) -> None:
    """4 dB in the worst of 96 scenes, where another seed is 19 dB away; the caller is told."""
    plan = call_plan(name, steps, 0.9, "near")
    assert (plan.forecast, plan.cached) == (frozenset(), frozenset())
    assert name in plan.reason


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("steps", [8, 15, 25, 50, 150])
def test_the_first_three_and_the_last_are_made(name: str, steps: int) -> None:
    """The layout is decided in the first, and the last is what is seen; two in a row are never forecast."""
    plan = call_plan(name, steps, 0.9, "near")
    assert not plan.forecast & {0, 1, 2, plan.calls - 1}
    assert not any(position + 1 in plan.forecast for position in plan.forecast)
    assert plan.calls == unet_calls(name, steps, 0.9) == plan.made + len(plan.forecast)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_exact_makes_every_call(name: str) -> None:
    """The default of the API changes nothing."""
    plan = call_plan(name, 25, 0.9)
    assert (plan.forecast, plan.reason, plan.made) == (frozenset(), "", plan.calls)


@pytest.mark.parametrize("name", NOISY)
def test_a_sampler_that_adds_noise_has_every_call_made(name: str) -> None:
    """What it draws cannot be foreseen: a forecast would be 30 dB off. The caller is told why."""
    plan = call_plan(name, 25, 0.9, "near")
    assert plan.made == plan.calls
    assert name in plan.reason


def test_few_calls_are_all_made() -> None:
    """Between 14 calls there is too much change for a straight line."""
    assert call_plan("Euler", 14, 1.0, "near").forecast == frozenset()
    assert "14" in call_plan("Euler", 14, 1.0, "near").reason
    assert call_plan("Euler", 15, 1.0, "near").forecast


def test_no_forecast_spans_the_end_of_guidance() -> None:
    """A prediction with guidance says nothing about one without."""
    plan = call_plan("DDIM", 40, 1.0, "near", (0.0, 0.5))
    assert not plan.forecast & {20, 21, 22}
    assert plan.forecast & set(range(4, 20))
    assert plan.forecast & set(range(23, 39))


@pytest.mark.parametrize(
    ("name", "cached", "share"), [("DPM2 Karras", 10, 0.374), ("DDIM", 5, 0.433), ("Euler a", 12, 0.622)]
)
def test_the_deepest_level_is_cached_in_half_of_the_calls_or_two_thirds(
    name: str, cached: int, share: float
) -> None:
    """On an engine with caches, what is left of the work of SDXL's UNet at 1024²: counted, not measured."""
    plan = call_plan(name, 25, 0.9, "near")
    assert len(plan.cached) == len(plan.cached_calls) == cached
    work = plan.made - cached + 0.307 * cached
    assert work / plan.calls == pytest.approx(share, abs=0.001)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.5), (0.3, 0.7)])
@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - LEFT))
def test_two_computed_calls_alike_come_before_each_cached_one(
    name: str, interval: tuple[float, float]
) -> None:
    """The level is continued from two values of as many slots; a plan without them would crash."""
    plan = call_plan(name, 40, 0.9, "near", interval)
    assert plan.cached
    assert not plan.cached & ({0, 1, 2, plan.calls - 1} | plan.forecast)
    steps = 36
    begin, end = interval
    guided = [begin <= (steps * position // plan.calls) / steps < end for position in range(plan.calls)]
    for position in plan.cached:
        computed = [p for p in range(position) if p not in plan.forecast | plan.cached]
        assert {guided[p] for p in [*computed[-2:], position]} == {guided[position]}


def test_few_calls_and_exact_ones_use_no_cache() -> None:
    """Exact is exact, and far apart the level is no straight line either."""
    assert call_plan("DPM2 Karras", 25, 0.9).cached == frozenset()
    assert call_plan("Euler a", 12, 1.0, "near").cached == frozenset()


def test_admission_reckons_with_the_calls_that_are_made(request_for: Make) -> None:
    """Otherwise a server would refuse requests that it could finish."""
    default = {"scheduler": "DPM2 Karras", "num_inference_steps": 25, "strength": 0.9}
    exact, near = request_for(**default), request_for(**default, pace="near")
    assert work_of(near, [(64, 64)]).calls == 23
    assert work_of(exact, [(64, 64)]).calls == 43


def test_an_unknown_pace_is_refused(request_for: Make) -> None:
    """In one sentence that names the field."""
    with pytest.raises(RequestError, match="pace: must be one of exact, near, not 'fast'"):
        request_for(pace="fast")
