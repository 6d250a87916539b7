"""How much of a property or a table is tried: all in ``make test-all``, some in ``make test`` and in CI.

In CI Hypothesis' examples are the same in every run, so that a run says something about the code and not
about luck.
"""

import os
from collections.abc import Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

_SHARE = 1.0 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 0.2


def examples(count: int, **options: Any) -> settings:
    """Return Hypothesis' settings for a property that ``make test-all`` tries ``count`` examples of."""
    fixed = {"deadline": None, "derandomize": os.environ.get("CI") == "true"}
    return settings(max_examples=max(round(count * _SHARE), 5), **{**fixed, **options})


def gated(values: Iterable[T], *gate: T) -> list[Any]:
    """Return parameters of a slow test; CI runs those of ``gate``, and ``make test-all`` all of them."""
    values = list(values)
    assert set(gate) <= set(values), "CI would run none of them"
    return [pytest.param(value, marks=pytest.mark.gate) if value in gate else value for value in values]
