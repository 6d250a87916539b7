"""Mutations of bytes, text and JSON, for parsers whose inputs have a structure."""

import json
import random
from collections.abc import Callable
from typing import Any

_NUMBERS = (0, 1, -1, 255, 2**31, 2**53 + 1, 2**63, -(2**63), 10**400, 0.5, 1e308, -0.0)
_TEXTS = (
    "", " ", "\0", "\ud800", "é", "\u202e", "0", "-1", "NaN", "1e999", "null", "[]", "{}", "../x",
    "a" * 3000, "("
    * 200, "<lora:a:1>", "🙂", "\r\n", "%s{0}{stem}", ",", ":", "\\", '"',
)  # fmt: skip
_SCALARS: tuple[Any, ...] = (None, True, False, *_NUMBERS, *_TEXTS)


def bytes_changed(data: bytes, chance: random.Random) -> bytes:
    """Flip, insert, remove, repeat or splice a few bytes."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(found) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(found):
            found[at] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
        elif kind == 1:
            found[at:at] = chance.randbytes(chance.randrange(1, 9))
        elif kind == 2:
            del found[at : at + chance.choice((1, 2, 8, 64))]
        elif kind == 3:
            found[at:at] = found[at : at + chance.choice((1, 8, 64))] * chance.choice((1, 2, 50))
        else:
            found[at:at] = chance.choice(_TEXTS).encode("utf-8", "surrogatepass")
    return bytes(found)


def json_changed(value: Any, chance: random.Random) -> Any:
    """Change one value somewhere in a JSON document: another kind, a missing key, one twice, a deep nest."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        return _changed_within(value, chance)
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        return [*value[:at], json_changed(value[at], chance), *value[at + chance.randrange(2) :]]
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: chance.choice(_SCALARS),
        lambda: [value] * chance.choice((0, 1, 4, 100)),
        lambda: {"x": value},
        lambda: str(value),
        lambda: value + chance.choice((1, -1, 0.5)) if isinstance(value, int | float) else value,
        lambda: value + chance.choice(_TEXTS) if isinstance(value, str) else value,
    )
    return chance.choice(kinds)()


def _changed_within(value: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    key = chance.choice(list(value))
    kind = chance.randrange(8)
    if kind == 0:
        return {name: each for name, each in value.items() if name != key}
    if kind == 1:
        return {**value, chance.choice((key + "x", key[:-1], key.upper(), *_TEXTS)): value[key]}
    return {**value, key: json_changed(value[key], chance)}


def json_bytes(value: Any) -> bytes:
    """Write a document as JSON, even one that only Python calls JSON."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def json_mutated(data: bytes, chance: random.Random) -> bytes:
    """Change a JSON document, or its bytes if it is none."""
    try:
        return json_bytes(json_changed(json.loads(data), chance))
    except (ValueError, RecursionError, OverflowError):
        return bytes_changed(data, chance)
