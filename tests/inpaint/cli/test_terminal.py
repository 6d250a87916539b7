"""A terminal is never told what to do by a file, a server or a file's name."""

import json
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from inpaint.cli.terminal import printable
from inpaint.errors import InpaintError
from tests.support.cli_runs import Run

pytest_plugins = ["tests.support.cli_fixtures"]

TITLE, CLIPBOARD, C1, BIDI = "\x1b]0;owned\x07", "\x1b]52;c;b3duZWQ=\x07", "\x9b31m", "\u202e"
EVIL = f"a{TITLE}b{CLIPBOARD}c{C1}d{BIDI}e"
HARMLESS = "".join(c if c.isprintable() else "?" for c in EVIL)


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("text", [EVIL, "\r", "\b\b", "\x00", "\x7f", "\u2028", "\ud800", "\u200f"])
def test_what_a_terminal_obeys_is_replaced(text: str) -> None:
    """Titles, the clipboard, colours, the direction of writing, characters that hide what was written."""
    assert harmless(printable(text))
    assert printable("Grüße, 日本 🎨\n", keep="\n") == "Grüße, 日本 🎨\n"


def stranger(path: Path) -> Path:
    """A picture whose every text is hostile."""
    made = {"format": 1, "version": EVIL, "model": EVIL, "warnings": [EVIL], "box": [0, 0, 8, 8]}
    info = PngImagePlugin.PngInfo()
    info.add_itxt("inpaint", json.dumps(made | {"settings": {"prompt": EVIL, EVIL: EVIL}}))
    info.add_itxt("parameters", f"{EVIL}\nSteps: 20, Sampler: {EVIL}, Seed: 5")
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)
    return path


def test_a_strangers_picture_is_described_without_its_control_characters(inpaint: Run) -> None:
    """Its metadata are shown, and nothing in them reaches the terminal as a command."""
    done = inpaint("info", stranger(Path("stranger.png")))
    assert done.code == 0
    assert HARMLESS in done.out
    assert harmless(done.out + done.err)


@pytest.mark.parametrize("arguments", [("info",), ("run", "--mask", "m.png", "-p", "x", "--model", "demo")])
def test_a_hostile_file_name_is_shown_without_its_control_characters(
    arguments: tuple[str, ...], inpaint: Run
) -> None:
    """A downloaded archive may hold any name, and errors name files."""
    Path(EVIL).write_bytes(b"no picture")
    command, *rest = arguments
    done = inpaint(command, EVIL, *rest)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert harmless(done.err)


def test_a_servers_answer_is_shown_without_its_control_characters() -> None:
    """``inpaint top`` prints errors and routes of whatever answers at the address."""
    from rich.console import Console

    from server.cli.top_view import view

    console = Console(record=True, width=200, highlight=False, force_terminal=False)
    console.print(view(EVIL, InpaintError(EVIL)))
    assert harmless(console.export_text())
