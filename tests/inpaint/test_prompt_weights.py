"""Weights and BREAK in prompts: the web UI's notation, in linear time, within limits."""

import itertools
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inpaint import RequestError
from inpaint.prompt_warnings import prompt_warnings
from inpaint.prompt_weights import MAX_DEPTH, MAX_PROMPT, MAX_WEIGHT, Fragment, check_prompt, parse_prompt
from tests.support.examples import examples


def fragments(text: str) -> list[Fragment]:
    """Parse a prompt without BREAK."""
    (section,) = parse_prompt(text).sections
    return section


def upstream(text: str) -> list[tuple[str, float]]:
    """Parse as A1111's ``parse_prompt_attention`` does, in quadratic time; a BREAK has the weight -1.

    Written after its description: two stacks of positions, and ranges that are multiplied when they close.
    """
    syntax = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
    pieces: list[tuple[str, float]] = []
    stacks: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        start = stacks[kind].pop()
        pieces[start:] = [(word, weight * factor) for word, weight in pieces[start:]]

    for match in syntax.finditer(text):
        token, number = match[0], match[1]
        if token.startswith("\\"):
            pieces.append((token[1:], 1.0))
        elif token in stacks:
            stacks[token].append(len(pieces))
        elif number is not None and stacks["("]:
            close("(", float(number))
        elif token == ")" and stacks["("]:
            close("(", 1.1)
        elif token == "]" and stacks["["]:
            close("[", 1 / 1.1)
        else:
            for i, part in enumerate(re.split(r"\s*\bBREAK\b\s*", token)):
                pieces += [("BREAK", -1.0)] * (i > 0) + [(part, 1.0)]
    return pieces


def merged(pieces: list[tuple[str, float]]) -> list[list[Fragment]]:
    """Split at BREAKs, and join neighbours of one weight."""
    sections: list[list[Fragment]] = [[]]
    for word, weight in pieces:
        if (word, weight) == ("BREAK", -1.0):
            sections.append([])
        elif sections[-1] and sections[-1][-1][1] == weight:
            sections[-1][-1] = (sections[-1][-1][0] + word, weight)
        elif word:
            sections[-1].append((word, weight))
    return sections


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
        ("a <hypernet:(x:9):1>b", [("a b", 1.0)]),
        ("", []),
    ],
)
def test_the_notation_of_the_web_ui(text: str, parts: list[tuple[str, float]]) -> None:
    """Prompts that people bring from AUTOMATIC1111 mean the same here."""
    parsed = fragments(text)
    assert [t for t, _ in parsed] == [t for t, _ in parts]
    assert [w for _, w in parsed] == pytest.approx([w for _, w in parts])


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("red BREAK circle", ["red", "circle"]),
        ("red,BREAK,blue", ["red,", ",blue"]),
        ("(red)BREAK[blue]", ["red", "blue"]),
        ("a\nBREAK\nb", ["a", "b"]),
        ("BREAK", ["", ""]),
        ("BREAK a BREAK", ["", "a", ""]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("(a BREAK b:1.2)", ["a", "b"]),
        ("BREAKFAST at break, BREAK2 _BREAK_", ["BREAKFAST at break, BREAK2 _BREAK_"]),
        (r"\(BREAK\)", ["(", ")"]),
    ],
)
def test_break_is_an_uppercase_word_of_its_own(text: str, sections: list[str]) -> None:
    """Else a breakfast would be cut in two."""
    assert ["".join(word for word, _ in section) for section in parse_prompt(text).sections] == sections


NUMBERS = st.sampled_from(["1.3", "0.5", " .7 ", "2.", "-1.2", "+1.1", "0", "1.0"])
WORDS = st.sampled_from(
    ["red", "a fox ", " at 12:30", ":", ", ", "é猫", r"\(", r"\)", r"\[", r"\]", r"\\", "a b", " "]
)
NESTED = st.recursive(
    WORDS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        inner.map("({})".format),
        inner.map("[{}]".format),
        st.builds("({}:{})".format, inner, NUMBERS),
    ),
    max_leaves=20,
)


@given(st.lists(NESTED | st.just(" BREAK "), max_size=8).map("".join))
@examples(1000)  # 200 of them in the quick tests
def test_weights_are_those_of_the_web_ui(text: str) -> None:
    """A linear parser that rounds otherwise, or multiplies otherwise, would change people's pictures."""
    try:
        ours = parse_prompt(text).sections
    except RequestError:  # the web UI has no limits
        assume(False)
    assert ours == merged(upstream(text))


BOMBS: dict[str, Callable[[int], str]] = {
    "round": lambda n: "(" * (n // 2) + ")" * (n // 2),
    "square": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "both kinds": lambda n: "([" * (n // 4) + "])" * (n // 4),
    "a word in each": lambda n: "(a" * (n // 3) + ")" * (n // 3),
    "a weight in each": lambda n: "(a:2" * (n // 5) + ")" * (n // 5),
    "never closed": lambda n: "(" * n,
    "never opened": lambda n: ")" * n,
    "open, then pairs": lambda n: "(" * (n // 2) + "(a)" * (n // 6),
    "crossed": lambda n: "([)]" * (n // 4),
    "pairs": lambda n: "(a)" * (n // 3),
    "as deep as allowed": lambda n: ("(" * 20 + "a" + ")" * 20) * (n // 41),
    "colons": lambda n: ":" * n,
    "a weight without end": lambda n: "(a:" + "9" * (n - 3),
    "a weight and spaces": lambda n: "(a:1" + " " * (n - 4),
    "escapes": lambda n: "\\" * n,
    "spaces": lambda n: " " * n,
    "breaks": lambda n: "BREAK " * (n // 6),
    "a break and spaces": lambda n: "BREAK" + " " * (n - 5),
    "tags": lambda n: "<a:" * (n // 3),
    "one tag": lambda n: "<" + "a" * (n - 1),
    "lora tags": lambda n: "<lora:" * (n // 6),
    "schedules": lambda n: "[a:" * (n // 3),
    "a schedule without end": lambda n: "[:" + "9" * (n - 2),
    "alternations": lambda n: "[|" * (n // 2),
    "choices": lambda n: "{|" * (n // 2),
    "wildcards": lambda n: "__a" * (n // 3),
    "underscores": lambda n: "_" * n,
    "wide brackets": lambda n: "（a:" * (n // 3),
}


def lines_run(function: Callable[[], Any]) -> int:
    """Return how many lines of Python a call runs, in all functions that it calls."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def work(text: str) -> None:
    """Check a prompt of any length, and look for what is not read in it."""
    with suppress(RequestError):
        parse_prompt(text)
        prompt_warnings("prompt", text)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_twice_the_prompt_is_twice_the_work(bomb: Callable[[int], str]) -> None:
    """Nested brackets once took 19 seconds of the thread that paints for everybody."""
    short, long = (lines_run(lambda n=n: work(bomb(n))) for n in (1_000, 2_000))
    assert long <= 2.1 * short + 200


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.timeout(30)
def test_no_pattern_backtracks(bomb: Callable[[int], str]) -> None:
    """What a regular expression does is no line of Python; at ten times the limit, quadratic is minutes."""
    work(bomb(10 * MAX_PROMPT))


@pytest.mark.parametrize("pair", ["()", "[]"])
def test_brackets_are_nested_twenty_deep_at_most(pair: str) -> None:
    """Deeper, a person made a mistake, or a program attacks."""
    deep = pair[0] * MAX_DEPTH + "a" + pair[1] * MAX_DEPTH
    assert fragments(deep)[0][1] == pytest.approx((1.1 if pair == "()" else 1 / 1.1) ** MAX_DEPTH)
    with pytest.raises(RequestError, match="negative_prompt: brackets may be nested 20 deep, not deeper"):
        check_prompt("negative_prompt", pair[0] + deep + pair[1])
    assert fragments("(" * 500 + "a") == [("(" * 500 + "a", 1.0)], "open ones weigh nothing"


@pytest.mark.parametrize(
    "text",
    [
        "(a:101)",
        "(a:-101)",
        "(a:100000)",
        f"(a:{'9' * 60})",
        f"(a:{'9' * 400})",
        f"(a:-{'9' * 400})",
        "((a:20):20)",
        "((a:99))",
        "((a:-20):20)",
        f"((a:0):{'9' * 400})",  # 0 · infinity is not a number
        f"((a:{'9' * 200}):{'9' * 200})",
        f"(b BREAK {'('}a:{'9' * 60}):1)",
    ],
)
def test_a_weight_beyond_100_is_refused(text: str) -> None:
    """The model would paint NaN, and the caller would be told to try another seed."""
    with pytest.raises(RequestError, match=r"prompt: the weight of '.*a' must be a number from -100 to 100"):
        check_prompt("prompt", text)
    assert fragments("(a:100)") == [("a", MAX_WEIGHT)]


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        (f"(a:0.{'0' * 400}1)", 0.0),
        (f"((a:0.{'0' * 200}1):0.{'0' * 200}1)", 0.0),
        (f"((a:0.{'0' * 9}1):1{'0' * 10})", 1.0),
        ("(a:-0)", 0.0),
    ],
)
def test_a_weight_that_is_nearly_nothing_is_nothing(text: str, weight: float) -> None:
    """An underflow is what the prompt says, to the last digit that counts."""
    assert fragments(text) == [("a", pytest.approx(weight))]


def test_a_prompt_has_ten_thousand_characters_at_most() -> None:
    """The model reads a few hundred; more is a mistake, and costs everybody."""
    check_prompt("prompt", "x" * MAX_PROMPT)
    with pytest.raises(RequestError, match="prompt: must have at most 10000 characters, not 10001"):
        check_prompt("prompt", "x" * (MAX_PROMPT + 1))


NO_TEXT = ["\0", "\ud83d", "\udc00", "\udcf6", "\udfff\ud800"]


@pytest.mark.parametrize("bad", NO_TEXT)
def test_what_is_no_text_is_refused(bad: str) -> None:
    """Half an emoji, or a byte of another encoding, can be neither painted nor kept in a file."""
    with pytest.raises(RequestError, match=r"^prompt: contains characters that are not text"):
        check_prompt("prompt", f"a {bad} circle")


@pytest.mark.parametrize(
    "good", ["\n", "\t", "\r\n", "\x1b[31m", "\x7f", "\u2028", "\u200b", "\ufeff", "👩‍👩‍👧‍👦", "\U0010ffff"]
)
def test_any_other_character_is_text(good: str) -> None:
    """The tokenizer reads control characters, which a terminal is never shown."""
    check_prompt("prompt", f"a {good} circle")
    assert fragments(f"a{good}b") == [(f"a{good}b", 1.0)]


@given(st.text(st.sampled_from(r"()[]:\.12a "), max_size=60))
def test_any_text_is_kept_but_for_its_notation(text: str) -> None:
    """No prompt loses a word, whatever brackets it has."""
    try:
        parts = fragments(text)
    except RequestError:
        return
    letters = "".join(part for part, _ in parts)
    assert letters.count("a") == text.count("a")
    assert all(one[1] != other[1] for one, other in itertools.pairwise(parts))
