"""Arguments of the commands that read only; ``run`` with ``--dry-run``."""

import random

from tools.fuzz.command_line import called
from tools.fuzz.mutations import bytes_changed
from tools.fuzz.target import Target

_SEEDS = (
    "run photo.png --mask mask.png -p x",
    "run photo.png --mask {stem}_mask.png -p x -o out/{stem}.png --samples 2 --seed 5",
    "run . -r -p x --mask alpha --report report.jsonl --resume --fail-fast",
    "run photo.png --extend 0,0,64,0 -p x --steps 20 --strength 0.5 --guidance-interval 0.2,0.8 --json",
    "run photo.png --mask mask.png -p x --lora style:0.8 --loras loras --from photo.png --scheduler Euler",
    "run --jobs photo.png", "run *.png -p (a:1.3)", "info photo.png --json", "loras list --json",
    "loras list --loras .",
    "loras verify style", "models list --json", "models verify demo", "models checksums sdxl-base",
    "schedulers --json",
    "--version", "--help", "run --help", "keys list", "doctors",
)  # fmt: skip
_WORDS = (
    "--steps", "0", "-1", "1e9", "nan", "--strength", "--seed", "9" * 400, "--samples", "--mask", "alpha",
    "{", "{{x}}",
    "-o", "-", "--", "", " ", "é", "\udce9", "\0", "~nobody", "~", "/etc/shadow", "a" * 300, "[",
    "*", "**/*",
    "--extend", "1,2,3,4", ",,,", "--padding", "--loras", "--lora", "a, b:0.5", "../x", "--scheduler",
    "--fill",
    "--area", "--pace", "near", "--soft", "--no-soft", "--jobs", "--from", "--report", "--model", "demo",
    "x.safetensors",
    "--without", "compile", "--device", "--recursive", "-h", "run", "info", "loras", "list", "photo.png",
    "mask.png",
)  # fmt: skip
_ALLOWED = {
    "info": None, "schedulers": None, "run": None, "loras": {"list", "verify"}, "keys": {"list"},
    "models": {"list", "verify", "checksums"},
}  # fmt: skip


def one(data: bytes) -> str:
    """Call the command, if it is one that reads only; the words are divided by zero bytes."""
    words = [word.decode("utf-8", "surrogateescape") for word in data.split(b"\0")]
    command = next((word for word in words if not word.startswith("-")), "")
    below = _ALLOWED.get(command, set())
    if command in ("serve", "top", "credits", "doctor") or (below is not None and below.isdisjoint(words)):
        words = [word for word in words if word.startswith("-")]  # the options alone, without a command
    if any(word.startswith(("/dev", "/proc", "/sys")) for word in words):
        return "left out"  # endless files
    if command == "run":  # right behind it: behind a ``--`` it would be a picture's name
        words.insert(words.index("run") + 1, "--dry-run")
    return called(words)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Insert, remove or exchange words."""
    words = data.split(b"\0")
    at = chance.randrange(len(words) + 1)
    word = chance.choice(_WORDS).replace("\0", "").encode("utf-8", "surrogateescape")
    kind = chance.randrange(4)
    if kind == 0:
        words.insert(at, word)
    elif kind == 1:
        words[at : at + 1] = [word]
    elif kind == 2:
        del words[at : at + 1]
    else:
        words[at : at + 1] = [bytes_changed(each, chance) for each in words[at : at + 1]]
    return b"\0".join(words)


def target() -> Target:
    """Return this parser."""
    return Target([seed.replace(" ", "\0").encode() for seed in _SEEDS], one, mutate)
