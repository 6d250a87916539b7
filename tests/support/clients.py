"""Other projects' clients, each in an environment of its own that ``make clients`` installs.

A client is a script in ``tests/server/clients/scripts``, which runs its cases against a server and writes
down what it showed; ``Shown`` reads that. The functions at the end compare what was painted with what was
sent.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.paths import IMAGES, ROOT

COMMAND = "make clients"
FOLDER = ROOT / "tests" / "server" / "clients"
SIZE = (144, 112)  # not a square, so that width and height cannot be mixed up
BOX = (48, 32, 96, 80)  # what the masks repaint
PATIENCE_S = 240.0


def need(environment: str) -> Path:
    """Return what runs the scripts of an environment, or skip the test; in CI, fail it."""
    if environment == "node":
        node = shutil.which("node")
        found = Path(node) if node and (FOLDER / "node_modules" / ".package-lock.json").exists() else None
    else:
        folder = ROOT / "build" / "clients" / environment
        found = folder / "bin" / "python" if (folder / ".ready").exists() else None
    if found is None:
        sentence = f"needs the clients for {environment}, which are not installed: {COMMAND}"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return found


@dataclass(frozen=True, slots=True)
class Client:
    """A client's script, and the environment that it runs in: a Python's, or ``node``."""

    script: str
    environment: str

    def command(self) -> list[str]:
        """Return how the script is started; skip the test where its environment is not installed."""
        return [str(need(self.environment)), str(FOLDER / "scripts" / self.script)]


# By the names in their registries.
CLIENTS = {
    "openai": Client("with_openai.py", "openai"),
    "openai (npm)": Client("with_openai.mjs", "node"),
    "ai": Client("with_ai.mjs", "node"),
    "litellm": Client("with_litellm.py", "litellm"),
    "webuiapi": Client("with_webuiapi.py", "webuiapi"),
    "sd-backend-client": Client("with_sd_backend_client.py", "sd-backend-client"),
    "mcp": Client("with_mcp.py", "mcp"),
    "sd-api-mcp": Client("with_sd_api_mcp.py", "sd-api-mcp"),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a client showed in each of its cases: pictures, facts, or an exception."""

    cases: dict[str, dict[str, Any]]
    folder: Path

    def pictures(self, case: str) -> list[Image.Image]:
        """Return the pictures of a case, in the modes of their files."""
        return [opened(file) for file in self.files(case)]

    def picture(self, case: str) -> Image.Image:
        """Return the picture of a case that has one."""
        (picture,) = self.pictures(case)
        return picture

    def files(self, case: str) -> list[bytes]:
        assert "error" not in self.cases[case], self.cases[case]
        numbers = range(self.cases[case]["pictures"])
        return [(self.folder / f"{case}-{number}").read_bytes() for number in numbers]

    def facts(self, case: str) -> dict[str, Any]:
        assert "error" not in self.cases[case], self.cases[case]
        facts: dict[str, Any] = self.cases[case]["facts"]
        return facts

    def error(self, case: str) -> dict[str, Any]:
        """Return what a case raised: its ``classes``, the base classes included, its ``text`` and more."""
        assert "error" in self.cases[case], f"{case} did not fail: {self.cases[case]}"
        error: dict[str, Any] = self.cases[case]["error"]
        return error


Show = Callable[[str], Shown]


def opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


@dataclass(frozen=True, slots=True)
class Painter:
    """A server process: its URL, a key with credits, and one without."""

    url: str
    key: str
    poor_key: str


def run(command: list[str], painter: Painter, pictures: Path, output: Path) -> Shown:
    """Run a client's cases against a server."""
    given = (painter.url, painter.key, painter.poor_key, str(pictures), str(output), sys.executable)
    done = start([*command, *given], output)
    assert done.returncode == 0, done.stderr + done.stdout
    return Shown(json.loads((output / "shown.json").read_text()), output)


def start(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a program in a folder, without any variable of ours or of a developer's shell.

    The SDKs read keys, addresses and proxies from variables. LiteLLM takes its prices from the internet,
    unless it is told not to.
    """
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


# The pictures that the clients send.


def write_pictures(folder: Path) -> None:
    """Write a photograph, its masks in each convention, and files that must be refused."""
    photo().save(folder / "photo.png")
    white = Image.new("L", SIZE, 0)
    white.paste(255, BOX)
    white.save(folder / "white.png")
    white.point(lambda value: 255 - value).save(folder / "inverted.png")
    Image.new("L", SIZE, 0).save(folder / "black.png")
    Image.new("L", (SIZE[0] // 2, SIZE[1]), 255).save(folder / "small.png")
    # OpenAI's mask: what is transparent is repainted. Its colours are the photograph's, as editors export it.
    hole = photo().convert("RGBA")
    hole.putalpha(white.point(lambda value: 255 - value))
    hole.save(folder / "hole.png")
    hole.save(folder / "cutout.png")
    # A1111's brush: what is drawn is repainted. Black, so that its luminance says the opposite.
    drawn = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), BOX)
    drawn.save(folder / "drawn.png")
    (folder / "text.png").write_bytes(b"not a picture")
    (folder / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(21_000_000))


def photo() -> Image.Image:
    """Return the portrait, small enough that the demo model paints it in a second."""
    with Image.open(IMAGES / "portrait.jpg") as portrait:
        return portrait.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)


# What is painted, compared with what was sent.


def changed(painted: Image.Image) -> NDArray[np.int_]:
    """Return by how much each pixel differs from the photograph's: (H, W), 0 to 255."""
    assert painted.size == SIZE
    before, after = (np.asarray(image.convert("RGB"), dtype=int) for image in (photo(), painted))
    return np.abs(before - after).max(axis=2)


def assert_painted(painted: Image.Image, reach: int = 0) -> None:
    """Check that ``BOX`` was repainted, and that no pixel further than ``reach`` from it changed at all."""
    difference = changed(painted)
    left, top, right, bottom = BOX
    assert difference[top:bottom, left:right].mean() > 15, "the masked part is as before"
    difference[top - reach : bottom + reach, left - reach : right + reach] = 0
    assert difference.max() == 0, f"{(difference > 0).sum()} pixels outside the mask changed"


def assert_repainted(painted: Image.Image) -> None:
    """Check that the picture changed everywhere, though not beyond recognition."""
    difference = changed(painted)
    assert (difference > 0).mean() > 0.9
    assert difference.mean() < 128


def assert_generated(picture: Image.Image) -> None:
    """Check for a red circle in the size that was asked for: there is more red than green in it."""
    assert picture.size == (128, 96)
    red, green, _ = np.asarray(picture.convert("RGB"), dtype=float).mean(axis=(0, 1))
    assert red > green


def assert_same(one: Image.Image, other: Image.Image) -> None:
    """Check for the same picture but for the rounding of a batch of another size."""
    assert one.size == other.size
    assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 2
