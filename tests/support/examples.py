"""How many examples Hypothesis tries: all of them in ``make test-all``, a fifth in ``make test``.

In CI the examples are the same in every run, so that a run says something about the code and not about luck.
"""

import os
from typing import Any

from hypothesis import settings

_SHARE = 1.0 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 0.2


def examples(count: int, **options: Any) -> settings:
    """Return Hypothesis' settings for a property that ``make test-all`` tries ``count`` examples of."""
    fixed = {"deadline": None, "derandomize": os.environ.get("CI") == "true"}
    return settings(max_examples=max(round(count * _SHARE), 5), **{**fixed, **options})
