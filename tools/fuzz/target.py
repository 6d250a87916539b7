"""The interface of a parser's module to the fuzzer."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test."""

    seeds: Iterable[bytes]  # valid inputs, and what is known to be difficult
    one: Callable[[bytes], str]  # parses an input and names the outcome; anything it raises is a finding
    mutate: Mutate | None = None  # changes an input's structure and keeps it readable
    repair: Callable[[bytes], bytes] = bytes  # after a change of single bytes: lengths, checksums
    slow_s: float = 5.0
