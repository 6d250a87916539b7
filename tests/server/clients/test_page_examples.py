"""The examples of docs/clients.md run, each with the client that its section is about."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.support.clients import FOLDER, Painter, assert_painted, need, opened, start
from tests.support.paths import ROOT

pytest_plugins = ["tests.support.client_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.gate]

PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")
REACH = 12  # of the widest blend among the APIs' defaults

_PICTURES = 'from PIL import Image\nphoto, mask = Image.open("photo.png"), Image.open("white.png")\n'
_OF_DATA = "\nimport base64; open('painted', 'wb').write(base64.b64decode(answer.data[0].b64_json))"
# Section → environment, what its reader has before the example, and what they do with the result.
PYTHON = {
    "openai for Python": ("openai", "", _OF_DATA),
    "LiteLLM": ("litellm", "", _OF_DATA),
    "webuiapi": ("webuiapi", _PICTURES, "\nresult.image.save('painted', 'PNG')"),
    "sd-backend-client": ("sd-backend-client", _PICTURES, "\nresult.images[0].save('painted', 'PNG')"),
}
_READ = """
import { readFileSync, writeFileSync } from "node:fs";
const [photo, hole] = PICTURES.map((file) => readFileSync(file));
"""
JAVASCRIPT = {
    "openai for JavaScript": '\nwriteFileSync(PAINTED, Buffer.from(answer.data[0].b64_json, "base64"));',
    "AI SDK": "\nwriteFileSync(PAINTED, image.uint8Array);",
}


@pytest.fixture
def folder(tmp_path: Path, sent: Path) -> Path:
    """Make a folder with the pictures that the examples name."""
    for name, source in (("photo.png", "photo.png"), ("mask.png", "hole.png"), ("white.png", "white.png")):
        shutil.copy(sent / source, tmp_path / name)
    return tmp_path


def example(section: str, language: str, painter: Painter) -> str:
    """Return a section's first block in a language, for the server under test."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    code = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]  # type: ignore[index]
    port = painter.url.rpartition(":")[2]
    for shown, real in (
        ("any, or inp_…", painter.key),
        ("inp_…", painter.key),
        ("127.0.0.1:8000", f"127.0.0.1:{port}"),
        ("port=8000", f"port={port}"),
    ):
        code = code.replace(shown, real)
    return code


@pytest.mark.parametrize("section", PYTHON)
def test_a_python_example_paints(section: str, painter: Painter, folder: Path) -> None:
    """Copied into a file and run."""
    environment, before, after = PYTHON[section]
    (folder / "example.py").write_text(before + example(section, "python", painter) + after, "utf-8")
    done = start([str(need(environment)), "example.py"], folder)
    assert done.returncode == 0, done.stderr
    assert_painted(opened((folder / "painted").read_bytes()), REACH)


@pytest.mark.parametrize("section", JAVASCRIPT)
def test_a_javascript_example_paints(section: str, painter: Painter, folder: Path) -> None:
    """Run where the packages are installed."""
    pictures = [str(folder / name) for name in ("photo.png", "mask.png")]
    names = f"const PICTURES = {pictures}, PAINTED = {str(folder / 'painted')!r};\n"
    code = names + _READ + example(section, "js", painter) + JAVASCRIPT[section]
    done = start([str(need("node")), "--input-type=module", "--eval", code], FOLDER)
    assert done.returncode == 0, done.stderr
    assert_painted(opened((folder / "painted").read_bytes()), REACH)


def test_the_curl_example_paints(painter: Painter, folder: Path) -> None:
    """Without any client."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = example("Stability's API", "", painter).replace("\\\n", " ")
    shutil.copy(folder / "white.png", folder / "mask.png")
    done = start(shlex.split(command), folder)
    assert done.returncode == 0, done.stderr
    assert_painted(opened((folder / "painted.png").read_bytes()), REACH)
