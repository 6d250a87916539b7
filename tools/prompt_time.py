"""Measure how long a prompt of 10,000 brackets takes to read: ``python -m tools.prompt_time``."""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress

from inpaint.errors import RequestError
from inpaint.prompt_warnings import prompt_warnings
from inpaint.prompt_weights import MAX_PROMPT, check_prompt

_PATTERNS = {
    "round, nested": ("(", ")"),
    "square, nested": ("[", "]"),
    "both, nested": ("([", "])"),
    "a word in each": ("(a", ")"),
    "a weight in each": ("(a", ":2)"),
    "never closed": ("(", ""),
    "never opened": ("", ")"),
    "crossed": ("([)]", ""),
    "pairs": ("(a)", ""),
    "as deep as allowed": ("(" * 20 + "a" + ")" * 20, ""),
    "BREAK": ("BREAK ", ""),
    "schedules": ("[a|b:1]", ""),
    "words": ("word, ", ""),
}


def main() -> None:
    """Print one line of JSON: the least milliseconds of CPU time of the check, and of the warnings."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.prompt_time", description="Measure how long a prompt takes to read."
    )
    parser.add_argument("--rounds", type=int, default=5, help="of which the least counts (default: 5)")
    rounds = parser.parse_args().rounds
    texts = {name: _text(*ends) for name, ends in _PATTERNS.items()}
    found = {name: _milliseconds(text, rounds) for name, text in texts.items()}
    worst = [max(times) for times in zip(*found.values(), strict=True)]
    print(json.dumps({"characters": MAX_PROMPT, "ms": found, "worst_ms": worst}))


def _text(opening: str, closing: str) -> str:
    times = MAX_PROMPT // len(opening + closing)
    return opening * times + closing * times


def _milliseconds(text: str, rounds: int) -> tuple[float, float]:
    """Return the least CPU times of the check, and of the warnings of a prompt that passes it."""
    check = _least(lambda: check_prompt("prompt", text), rounds)
    return check, _least(lambda: prompt_warnings("prompt", text), rounds)


def _least(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.thread_time()
        with suppress(RequestError):
            call()
        times.append(time.thread_time() - started)
    return round(min(times) * 1000, 1)


if __name__ == "__main__":
    main()
