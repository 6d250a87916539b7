r"""What a prompt says that is not read here, and weights that spoil a picture; imports no torch.

People bring prompts from A1111, ComfyUI and extensions of theirs. What those would have done and this package
does not is said once per kind, in a sentence for the caller.
"""

import re
from collections.abc import Iterator
from unicodedata import name

from inpaint.errors import shown
from inpaint.prompt_weights import TAG, ParsedPrompt, parse_prompt

HEAVY = 3.0  # from about this weight on, pictures look burnt; (16:9) is 9

_LATIN = 0x24F  # the last letter of Latin Extended-B; most later letters are not Latin

# Each pattern takes time linear in the prompt's length: what repeats is bounded, or ends at the next bracket.
_OTHERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bAND\b"), "{} is read as a word; it does not combine prompts as in A1111"),
    (re.compile(r"__[A-Za-z0-9*][\w/*\-]{0,99}?__"), "the wildcard {} is read as words; none are filled in"),
    (re.compile(r"\{[^{}|]*\|[^{}]*\}"), "the choice {} is read as words; none is drawn"),
    (re.compile(r"\bembedding:[\w.\-]+"), "{} is read as words; textual inversions are not supported"),
    (re.compile(r"（[^（）]{1,200}[:：]\s{0,9}[\d.]{1,9}\s{0,9}）"), "{} has no weight; use ( and ) for one"),
    (re.compile(r"<(?:lora|lyco|hypernet)\w{0,9}:[^<>\s]*", re.IGNORECASE), "the tag {} does not end in >"),
)
_SQUARE = re.compile(r"\\.|[\[\]|]|:\s*+(?:\d++(?:\.\d*+)?|\.\d++)\s*+(?=\])", re.DOTALL)


def prompt_warnings(field: str, text: str | None) -> list[str]:
    """Return a sentence for each kind of thing in a prompt that does not do here what its author may expect.

    Args:
        field: the prompt's field, with which each sentence begins.
        text: the prompt, checked, without the tags of LoRAs that are used; None is none.
    """
    if not text:
        return []
    parsed = parse_prompt(text, field)
    words = TAG.sub("", text)
    found = [*_tags(field, text), *_heavy(parsed), *_unmatched(parsed), *_squares(words), *_others(words)]
    found += _scripts(words)
    return [f"{field}: {sentence}" for sentence in found]


def _tags(field: str, text: str) -> Iterator[str]:
    tags = list(TAG.finditer(text))
    if not tags:
        return
    more = f" and {len(tags) - 1} more" if len(tags) > 1 else ""
    if tags[0][1].casefold() not in ("lora", "lyco"):
        advice = "of tags, only <lora:NAME:0.8> is read"
    elif field == "prompt":
        advice = "write lora in small letters"
    else:
        advice = "a LoRA belongs into the prompt"
    yield f"{shown(tags[0][0])}{more} was left out; {advice}"


def _heavy(parsed: ParsedPrompt) -> Iterator[str]:
    fragments = [fragment for section in parsed.sections for fragment in section]
    weighed = [(abs(weight), weight, text) for text, weight in fragments if text.strip()]
    size, weight, text = max(weighed, default=(0.0, 0.0, ""))
    if size >= HEAVY:
        yield (
            f"the weight of {shown(text.strip())} is {weight:g}; from {HEAVY:g} on, pictures look burnt "
            r"(brackets that are text are written \( and \))"
        )


def _unmatched(parsed: ParsedPrompt) -> Iterator[str]:
    brackets = parsed.unmatched
    if len(brackets) == 1:
        yield f"a {brackets[0]} has no partner and is read as text"
    elif brackets:
        yield f"{len(brackets)} brackets, the first a {brackets[0]}, have no partner and are read as text"


def _squares(text: str) -> Iterator[str]:
    """Find A1111's ``[a:b:0.5]`` and ``[a|b]`` at any depth; what is not closed is neither."""
    open_: list[set[str]] = []  # what each open bracket holds so far
    found: set[str] = set()
    for match in _SQUARE.finditer(text):
        mark = match[0]
        if mark == "[":
            open_.append(set())
        elif mark == "]":
            found |= open_.pop() if open_ else set()
        elif open_ and mark[0] in ":|":
            open_[-1].add(mark[0])
    if ":" in found:
        yield "[a:b:0.5] is read as words; a prompt does not change while it is painted"
    if "|" in found:
        yield "[a|b] is read as words; a prompt does not change while it is painted"


def _scripts(text: str) -> Iterator[str]:
    """Find a prompt in another script: SDXL's text encoders were trained on English."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(ord(letter) > _LATIN and not name(letter, "").startswith("LATIN") for letter in letters)
    if foreign > len(letters) / 2:
        yield "it is not in Latin letters, and SDXL understands little but English; say it in English"


def _others(text: str) -> Iterator[str]:
    for pattern, sentence in _OTHERS:
        if match := pattern.search(text):
            yield sentence.format(shown(match[0]))
