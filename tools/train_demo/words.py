"""The tokenizers of the demo model: each word of the captions is one token, any other text stays bytes."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from tools.checkpoint_layout import write_tokenizer
from tools.train_demo.backdrop import SHAPES
from tools.train_demo.scenes import BACKGROUND_CAPTIONS, COLOURS
from tools.train_demo.things import THINGS

PARTS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}  # with what each pads


def words() -> list[str]:
    """Return every word of the captions, long ones first."""
    shapes = (*BACKGROUND_CAPTIONS, *COLOURS, *SHAPES, "a", "an", "something", "small", "big")
    texts = (*shapes, *(caption for thing in THINGS.values() for caption in thing.captions))
    found = {word for text in texts for word in re.findall(r"\w+", text)}
    return sorted(found, key=lambda word: (-len(word), word))


def merges(start: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the BPE merges of ``start`` and, behind them, those that make each caption word one token.

    A merge behind the others changes no word that already was one token, so a model that was trained with
    ``start`` reads its captions as before. Source of BPE: Sennrich et al., 2016, https://arxiv.org/abs/1508.07909.
    """
    ranks = {merge: rank for rank, merge in enumerate(start)}
    for word in words():
        while len(parts := split(word, ranks)) > 1:
            ranks[f"{parts[0]} {parts[1]}"] = len(ranks)
    return tuple(ranks)


def split(word: str, ranks: dict[str, int]) -> list[str]:
    """Return a word's tokens: of the neighbours, those of the lowest rank are merged first."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while pairs := [pair for pair in pairwise(parts) if " ".join(pair) in ranks]:
        best = min(pairs, key=lambda pair: ranks[" ".join(pair)])
        merged: list[str] = []
        for part in parts:
            if merged and (merged[-1], part) == best:
                merged[-1] += part
            else:
                merged.append(part)
        parts = merged
    return parts


def make_tokenizers(folder: Path, start: Path | None = None) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Write both tokenizers' files into ``folder``, unless they are there, and load them.

    Args:
        folder: that gets ``tokenizer`` and ``tokenizer_2``, which the model ships.
        start: a model whose merges come first.
    """
    for part, pad in PARTS.items():
        if not (folder / part).exists():
            own = merges(_read(start / part / "merges.txt")) if start else merges()
            write_tokenizer(folder / part, pad_token=pad, merges=own)
    return tuple(CLIPTokenizer.from_pretrained(folder / part) for part in PARTS)


def _read(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
