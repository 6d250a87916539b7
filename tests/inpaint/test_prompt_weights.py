"""Weights in prompts: the web UI's notation, in linear time, within limits."""

import itertools
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint import RequestError
from inpaint.prompt_weights import MAX_DEPTH, MAX_PROMPT, MAX_WEIGHT, check_prompt, parse_weights


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("(red:1.3) cat", [("red", 1.3), (" cat", 1.0)]),
        ("(a (b:2):0.5)", [("a ", 0.5), ("b", 1.0)]),
        (r"a \(cat\)", [("a (cat)", 1.0)]),
        ("(open", [("(open", 1.0)]),
        ("close) [", [("close) [", 1.0)]),
        ("(a]", [("(a]", 1.0)]),
        ("10:30 (at noon:ish)", [("10:30 ", 1.0), ("at noon:ish", 1.1)]),
        (r"back\slash", [(r"back\slash", 1.0)]),
        ("(x:-.5)", [("x", -0.5)]),
        ("((a:2)) (b", [("a", 2.2), (" (b", 1.0)]),
        ("", []),
    ],
)
def test_the_notation_of_the_web_ui(text: str, parts: list[tuple[str, float]]) -> None:
    """Prompts that people bring from AUTOMATIC1111 mean the same here."""
    parsed = parse_weights(text)
    assert [t for t, _ in parsed] == [t for t, _ in parts]
    assert [w for _, w in parsed] == pytest.approx([w for _, w in parts])


BOMBS = {
    "round": "(" * 5000 + ")" * 5000,
    "square": "[" * 5000 + "]" * 5000,
    "both kinds": "([" * 2500 + "])" * 2500,
    "a word in each": "(a" * 3333 + ")" * 3333,
    "a weight in each": "(a:2" * 2000 + ")" * 2000,
    "never closed": "(" * 10_000,
    "never opened": ")" * 10_000,
    "open, then pairs": "(" * 5000 + "(a)" * 1666,
    "crossed": "([)]" * 2500,
    "pairs": "(a)" * 3333,
    "as deep as allowed": ("(" * 20 + "a" + ")" * 20) * 243,
    "colons": ":" * 10_000,
    "a weight without end": "(a:" + "9" * 9997,
    "a weight and spaces": "(a:1" + " " * 9996,
    "escapes": "\\" * 10_000,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_the_time_is_linear(text: str) -> None:
    """Nested brackets once took 19 seconds of the thread that paints for everybody.

    A machine without a load takes 10 ms; in quadratic time it would be seconds. The least of three, since a
    garbage collection may fall into any of them.
    """
    assert min(_seconds(text) for _ in range(3)) < 0.2


def _seconds(text: str) -> float:
    """The CPU time of a prompt's check."""
    started = time.thread_time()
    with suppress(RequestError):
        check_prompt("prompt", text)
    return time.thread_time() - started


@pytest.mark.parametrize("pair", ["()", "[]"])
def test_brackets_are_nested_twenty_deep_at_most(pair: str) -> None:
    """Deeper, a person made a mistake, or a program attacks."""
    deep = pair[0] * MAX_DEPTH + "a" + pair[1] * MAX_DEPTH
    assert parse_weights(deep)[0][1] == pytest.approx((1.1 if pair == "()" else 1 / 1.1) ** MAX_DEPTH)
    with pytest.raises(RequestError, match="negative_prompt: brackets may be nested 20 deep, not deeper"):
        check_prompt("negative_prompt", pair[0] + deep + pair[1])
    assert parse_weights("(" * 500 + "a") == [("(" * 500 + "a", 1.0)], "open ones weigh nothing"


@pytest.mark.parametrize(
    "text",
    ["(a:101)", "(a:-101)", f"(a:{'9' * 400})", "((a:20):20)", "((a:99))", f"((a:0):{'9' * 400})"],
)
def test_a_weight_beyond_100_is_refused(text: str) -> None:
    """The model would paint NaN, and the caller would be told to try another seed."""
    with pytest.raises(RequestError, match="prompt: the weight of 'a' must be a number from -100 to 100"):
        check_prompt("prompt", text)
    assert parse_weights("(a:100)") == [("a", MAX_WEIGHT)]


def test_a_prompt_has_ten_thousand_characters_at_most() -> None:
    """The model reads a few hundred; more is a mistake, and costs everybody."""
    check_prompt("prompt", "x" * MAX_PROMPT)
    with pytest.raises(RequestError, match="prompt: must have at most 10000 characters, not 10001"):
        check_prompt("prompt", "x" * (MAX_PROMPT + 1))


@given(st.text(st.sampled_from(r"()[]:\.12a "), max_size=60))
def test_any_text_is_kept_but_for_its_notation(text: str) -> None:
    """No prompt loses a word, whatever brackets it has."""
    try:
        parts = parse_weights(text)
    except RequestError:
        return
    letters = "".join(part for part, _ in parts)
    assert letters.count("a") == text.count("a")
    assert all(one[1] != other[1] for one, other in itertools.pairwise(parts))
