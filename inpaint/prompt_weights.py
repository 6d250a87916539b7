r"""Weights and ``BREAK`` in a prompt, in the notation of AUTOMATIC1111's web UI; imports no torch.

``(x)`` has the weight 1.1, ``[x]`` 1 / 1.1 and ``(x:1.3)`` 1.3; nested weights multiply. ``\(`` is a bracket,
and a bracket without its partner is plain text. ``BREAK`` ends a chunk of 75 tokens early. Tags such as
``<hypernet:x:1>`` are no words and are left out. :mod:`inpaint.prompt_warnings` says what else is not read.
"""

import re
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from inpaint.errors import RequestError, shown

MAX_PROMPT = 10_000  # characters; the model reads a few hundred
MAX_DEPTH = 20  # of brackets in brackets: 1.1 to this power is 6.7, far beyond what paints well
MAX_WEIGHT = 100.0  # beyond it embeddings overflow in half precision, and the model paints NaN

# Zero bytes and lone surrogates: files, JSON over HTTP and databases cannot hold them.
NOT_TEXT = re.compile("[\0\ud800-\udfff]")
# Any kind of tag, as in modules/extra_networks.py upstream.
TAG = re.compile(r"<(\w+):[^<>]+>")

_SYNTAX = re.compile(
    r"\\[()\[\]\\]|\(|\[|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|.", re.DOTALL
)
_FACTORS = {("(", ")"): 1.1, ("[", "]"): 1 / 1.1}
# The lookbehind begins a search once per run of spaces, so that it takes linear time.
_BREAK = re.compile(r"(?<!\s)\s*\bBREAK\b")

Fragment = tuple[str, float]  # text and its weight


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """The fragments of a prompt between its ``BREAK``s, and the brackets that have no partner."""

    sections: list[list[Fragment]]
    unmatched: list[str]


def parse_prompt(text: str, field: str = "prompt") -> ParsedPrompt:
    """Split a prompt into fragments with their weights; the time is linear in its length.

    Weights are those of ``parse_prompt_attention`` in upstream's ``modules/prompt_parser.py``, except that a
    bracket without its partner weighs nothing, and that ``BREAK`` also works inside brackets.

    Raises:
        RequestError: names ``field``: a weight is out of range, or the brackets are nested too deep.
    """
    tokens, factor_at, unmatched = _matched(TAG.sub("", text))
    factors: list[float] = []
    weight = 1.0
    sections: list[list[Fragment]] = [[]]
    for i, token in enumerate(tokens):
        if i not in factor_at:
            _append(sections, token, _checked(weight, token, field))
            continue
        if (factor := factor_at[i]) is None:
            factors.pop()
        else:
            factors.append(factor)
        if len(factors) > MAX_DEPTH:
            raise RequestError(field, f"brackets may be nested {MAX_DEPTH} deep, not deeper")
        weight = _product(factors)
    return ParsedPrompt([_merged(section) for section in sections], unmatched)


def check_prompt(field: str, text: str) -> None:
    """Check a prompt's length, characters, weights and brackets.

    Raises:
        RequestError: names ``field`` and what is wrong.
    """
    if len(text) > MAX_PROMPT:
        raise RequestError(field, f"must have at most {MAX_PROMPT} characters, not {len(text)}")
    if NOT_TEXT.search(text):
        raise RequestError(
            field,
            "contains characters that are not text: zero bytes, half an emoji, or bytes that are not UTF-8",
        )
    parse_prompt(text, field)


def _append(sections: list[list[Fragment]], token: str, weight: float) -> None:
    """Add a token to the last section; each ``BREAK`` in it begins another."""
    if "BREAK" not in token:
        sections[-1].append((token, weight))
        return
    first, *rest = _BREAK.split(token)
    sections[-1].append((first, weight))
    sections += [[(part.lstrip(), weight)] for part in rest]


def _merged(section: list[Fragment]) -> list[Fragment]:
    """Join neighbours of one weight; leave out what is empty."""
    kept = [fragment for fragment in section if fragment[0]]
    runs = groupby(kept, key=itemgetter(1))
    return [("".join(text for text, _ in run), weight) for weight, run in runs]


def _matched(text: str) -> tuple[list[str], dict[int, float | None], list[str]]:
    """Return the tokens, the factors of pairs of brackets, and the brackets without a partner.

    The factor of a pair is kept at the index of its first bracket, and None at that of its second.
    """
    tokens: list[str] = []
    factor_at: dict[int, float | None] = {}
    unmatched: list[str] = []
    open_at: list[int] = []  # the brackets that wait for their partner
    for match in _SYNTAX.finditer(text):
        token, number = match.group(0, 1)
        if token in ("(", "["):
            open_at.append(len(tokens))
        elif token[0] == "\\" and len(token) == 2:
            token = token[1]  # escaped
        elif token[-1] in ")]":
            factor = _factor(tokens[open_at[-1]], token, number) if open_at else None
            if factor is None:
                unmatched.append(token[-1])
            else:
                factor_at[open_at.pop()] = factor
                factor_at[len(tokens)] = None
        tokens.append(token)
    return tokens, factor_at, [tokens[at] for at in open_at] + unmatched


def _factor(top: str, token: str, number: str | None) -> float | None:
    """Return the factor of a pair of brackets that ``token`` completes; None if it completes none."""
    if top == "(" and number is not None:
        return float(number)
    return _FACTORS.get((top, token))


def _product(factors: list[float]) -> float:
    """Multiply from the inside out, the order in which the web UI multiplies; others round otherwise."""
    weight = 1.0
    for factor in reversed(factors):
        weight *= factor
    return weight


def _checked(weight: float, text: str, field: str) -> float:
    if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
        limits = f"from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
        raise RequestError(field, f"the weight of {shown(text)} must be a number {limits}, not {weight:g}")
    return weight
