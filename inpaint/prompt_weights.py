r"""Weights in a prompt, in the notation of AUTOMATIC1111's web UI; imports no torch.

``(x)`` has the weight 1.1, ``[x]`` 1 / 1.1 and ``(x:1.3)`` 1.3; nested weights multiply. ``\(`` is a bracket,
and a bracket without its partner is plain text.
"""

import re

from inpaint.errors import RequestError, shown

MAX_PROMPT = 10_000  # characters; the model reads a few hundred
MAX_DEPTH = 20  # of brackets in brackets: 1.1 to this power is 6.7, far beyond what paints well
MAX_WEIGHT = 100.0  # beyond it embeddings overflow in half precision, and the model paints NaN

_SYNTAX = re.compile(
    r"\\[()\[\]\\]|\(|\[|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|.", re.DOTALL
)
_FACTORS = {("(", ")"): 1.1, ("[", "]"): 1 / 1.1}


def parse_weights(text: str, field: str = "prompt") -> list[tuple[str, float]]:
    """Split a prompt into (fragment, weight); the time is linear in its length.

    Raises:
        RequestError: names ``field``: a weight is out of range, or the brackets are nested too deep.
    """
    tokens, factor_at = _matched(text)
    factors: list[float] = []
    merged: list[tuple[str, float]] = []
    for i, token in enumerate(tokens):
        if i not in factor_at:
            weight = _checked(_product(factors), token, field)
            if merged and merged[-1][1] == weight:
                merged[-1] = (merged[-1][0] + token, weight)
            else:
                merged.append((token, weight))
        elif (factor := factor_at[i]) is None:
            factors.pop()
        else:
            factors.append(factor)
            if len(factors) > MAX_DEPTH:
                raise RequestError(field, f"brackets may be nested {MAX_DEPTH} deep, not deeper")
    return merged


def check_prompt(field: str, text: str) -> None:
    """Check a prompt's length, weights and brackets.

    Raises:
        RequestError: names ``field`` and what is wrong.
    """
    if len(text) > MAX_PROMPT:
        raise RequestError(field, f"must have at most {MAX_PROMPT} characters, not {len(text)}")
    parse_weights(text, field)


def _matched(text: str) -> tuple[list[str], dict[int, float | None]]:
    """Return the tokens, and for each pair of brackets its factor at the first one and None at the second."""
    tokens: list[str] = []
    factor_at: dict[int, float | None] = {}
    open_at: list[int] = []  # the brackets that wait for their partner
    for match in _SYNTAX.finditer(text):
        token, number = match.group(0), match.group(1)
        factor = _factor(tokens[open_at[-1]], token, number) if open_at else None
        if token in ("(", "["):
            open_at.append(len(tokens))
        elif factor is not None:
            factor_at[open_at.pop()] = factor
            factor_at[len(tokens)] = None
        elif len(token) == 2 and token[0] == "\\":
            token = token[1]  # escaped
        tokens.append(token)
    return tokens, factor_at


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
