"""Paces: which of the UNet calls that a sampler asks for are made, and which are forecast from earlier ones.

At the pace ``near`` about every second prediction is continued in a straight line from the last two that the
UNet made, so the picture takes about half the work and looks like the exact one of the same seed. Imports no
torch: admission, prices and ``--help`` need it, too.
Source: the idea of forecasting whole calls is Spectrum's (arXiv 2603.01623); a straight line does as well at
these numbers of steps (``bench.near``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from inpaint.schedulers import SCHEDULERS, canonical_name, unet_calls

Pace = Literal["exact", "near"]
PACES: tuple[str, ...] = get_args(Pace)

DEEP_LEVEL = "deep-level"  # the optimization by which an engine has the cache that a plan's calls need
UNCHANGED = "pace: near changed nothing: "  # how the warning to the caller begins
# Calls that are always made: the layout of the picture is decided in them. The row of a sampler may have more
# in ``near_from``: one that uses its earlier predictions again carries the error of a forecast along, and
# the more of it, the further apart its first steps are (``bench.near``).
_FIRST = 3
_FEWEST = 15  # below, a sampler's calls are too far apart to be continued in a straight line


@dataclass(frozen=True, slots=True)
class CallPlan:
    """The predictions of one row, by their position: those that the UNet makes and those that are forecast.

    Attributes:
        calls: predictions that the sampler asks for.
        forecast: positions of those that are forecast. The call before such a position is always made.
        cached: positions of those that are made with the UNet's deepest level from a cache, by an engine that
            has one (``inpaint.model.deep_level``).
        reason: why nothing is forecast although the pace is ``near``, as the end of a sentence; else empty.
    """

    calls: int
    forecast: frozenset[int] = frozenset()
    cached: frozenset[int] = frozenset()
    reason: str = ""

    @property
    def made(self) -> int:
        """The number of UNet calls that are made."""
        return self.calls - len(self.forecast)

    @property
    def cached_calls(self) -> frozenset[int]:
        """The cached ones, numbered among those that are made."""
        made = [position for position in range(self.calls) if position not in self.forecast]
        return frozenset(number for number, position in enumerate(made) if position in self.cached)


@lru_cache(maxsize=1024)
def call_plan(
    scheduler: str,
    num_inference_steps: int,
    strength: float,
    pace: str = "exact",
    guidance_interval: tuple[float, float] = (0.0, 1.0),
) -> CallPlan:
    """Return the plan of one row's calls, without loading a model.

    Args:
        scheduler: a public name in any letter case.
        num_inference_steps: steps at strength 1.
        strength: above 0, at most 1.
        pace: one of ``PACES``.
        guidance_interval: the fractions of the steps between which guidance is on. Predictions with and
            without guidance are not continued from one another.

    Raises:
        RequestError: there is no such scheduler.
    """
    calls = unet_calls(scheduler, num_inference_steps, strength)
    if pace == "exact":
        return CallPlan(calls)
    name = canonical_name(scheduler)
    spec = SCHEDULERS[name]
    noise = f"{name} adds noise in each step, which cannot be foreseen" if spec.adds_noise else ""
    if spec.near_from is None:
        history = f"{name} carries the smallest error along, so that the picture would be another one"
        return CallPlan(calls, reason=noise or history)
    if calls < _FEWEST:
        few = f"{calls} calls of the model are too few, it takes {_FEWEST}"
        return CallPlan(calls, reason=noise or few)
    begin, end = guidance_interval
    steps = int(num_inference_steps * strength)
    guided = [begin <= (steps * position // calls) / steps < end for position in range(calls)]
    if noise:
        return CallPlan(calls, cached=_cached(range(calls), guided, period=3), reason=noise)
    # The second calls of order-2 samplers, and every second call of the others. The last one is made.
    positions = range(spec.near_from, calls - 1, 2)
    forecast = frozenset(p for p in positions if _all_alike(guided[p - _FIRST : p + 1]))
    made = [position for position in range(calls) if position not in forecast]
    reason = "" if forecast else "guidance changes between all calls that could be forecast"
    return CallPlan(calls, forecast, _cached(made, guided, period=2), reason)


def _cached(made: Sequence[int], guided: Sequence[bool], *, period: int) -> frozenset[int]:
    """Return the positions of the calls that take the deepest level from the cache.

    Of the calls that are made every ``period``-th computes the level, as do the first three and the last. So
    do those where guidance has changed since the two calls whose levels are continued. Source of the periods:
    trials on the demo model; with noise between the calls and a period of 3 pictures are 50 dB from exact
    ones, and half of the calls that a forecast leaves cost 0.2 dB.
    """
    computed, cached = list(made[:_FIRST]), []
    for number, position in enumerate(made[_FIRST:-1], _FIRST):
        if (number - _FIRST + 1) % period and _all_alike(guided[computed[-2] : position + 1]):
            cached.append(position)
        else:
            computed.append(position)
    return frozenset(cached)


def _all_alike(guided: Sequence[bool]) -> bool:
    return len(set(guided)) == 1
