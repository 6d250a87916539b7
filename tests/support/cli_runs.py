"""A finished command; the fixtures that run one are in ``tests.support.cli_fixtures``."""

import json
from collections.abc import Callable
from typing import Any

QUICK = ["--steps", "3", "--scheduler", "DDIM", "--seed", "5"]


class Done:
    """A finished command: its exit code, what it printed for people and for programs."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]
