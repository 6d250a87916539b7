"""Prompts: weights, brackets, LoRA tags and the notations of ``loras``, to the tokens of the demo model."""

import json
import random

from inpaint.demo import demo_checkpoint
from inpaint.errors import InpaintError
from inpaint.lora.spec import combine, is_name, parse_loras, tags, without_tags
from inpaint.prompt_weights import check_prompt, parse_prompt
from inpaint.request import check_settings
from tools.fuzz.mutations import bytes_changed, json_bytes, json_changed
from tools.fuzz.target import Target

_PIECES = (
    "(", ")", "[", "]", ":1.3)", ":-1)", ":1e9)", "\\(", "\\", "BREAK", " AND ", "<lora:a:0.8>",
    "<lora:a, b>",
    "<lora:sub/a:1>", "<lyco:x:-4>", "<hypernet:x:1>", "<lora:", ">", "[a:b:0.5]", "[a|b]", "red", " ",
    ",", "\n",
    "🙂", "é", "\u202e", "\0", "(((((((((((((((((((", "a" * 400, "16:9", "{", "}", "|", "::",
)  # fmt: skip


def one(data: bytes) -> str:
    """Check a text as a prompt, and as a JSON value of ``loras``."""
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    outcome = "refused"
    try:
        check_settings({"prompt": text, "negative_prompt": text})
        rest, uses = combine(text, ())
        assert all(is_name(use.name) for use in uses)
        assert combine(rest + tags(uses), ()) == (rest, uses) or "<" in rest
        check_prompt("prompt", rest)
        parsed = parse_prompt(rest)
        assert all(abs(weight) <= 100 for section in parsed.sections for _, weight in section)
        outcome = "accepted"
    except InpaintError:
        without_tags(text)
    for value in (text, *_values(text)):
        try:
            check_settings({"loras": value})
            parse_loras(value)
        except InpaintError:
            continue
    return outcome


def _values(text: str) -> list[object]:
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        return []


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Insert pieces of the notation, or change JSON."""
    if data[:1] in (b"[", b"{"):
        try:
            return json_bytes(json_changed(json.loads(data), chance))
        except (ValueError, RecursionError, OverflowError):
            return bytes_changed(data, chance)
    text = data.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 2, 5))):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(_PIECES) * chance.choice((1, 1, 2, 9)) + text[at:]
    return text[:12_000].encode("utf-8", "replace")


def target() -> Target:
    """Return this parser."""
    demo_checkpoint()
    texts = (
        "a red circle",
        "(a:1.3) [b] ((c))",
        "<lora:a:0.8><lora:b, c>",
        "s\ud83d",
        "style:0.8,other",
        "a BREAK b",
    )
    lists = ([{"name": "a", "scale": 0.8}, {"name": "b"}], ["a:1", "b"], [["a", 1], ["b, c", -2]])
    seeds = [text.encode("utf-8", "surrogatepass") for text in texts] + [json_bytes(value) for value in lists]
    return Target(seeds, one, mutate, slow_s=1.0)
