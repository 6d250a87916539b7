"""What the README and the page about the command line say works."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from inpaint.demo import demo_folder
from inpaint.images.metadata import write
from inpaint.weights import import_model
from tests.conftest import ROOT
from tests.support.metadata_samples import BLANK, made, plain

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text("utf-8")


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied into a file and run, as a newcomer does."""
    (code,) = (block for block in python_blocks() if "Engine" in block)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "example.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    runpy.run_path("example.py")
    assert (tmp_path / "painted.png").stat().st_size > 1000
    assert "[1, 2]" in capsys.readouterr().out


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    return [
        line.split("  #")[0].strip()
        for language, block in re.findall(
            r"^```(\w*)\n(.*?)^```", f"{README}\n{COMMANDS}", re.DOTALL | re.MULTILINE
        )
        if not language
        for line in block.splitlines()
        if line.startswith("inpaint ")
    ]


def test_the_readme_shows_commands() -> None:
    """Else the test below would check nothing."""
    assert len(commands()) >= 15


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("inpaint run")])
def test_every_run_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --dry-run, on pictures of the names that it uses."""
    from inpaint.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INPAINT_LORAS", str(tmp_path))
    lay_out(tmp_path)
    if "--model inked" in command:
        monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
        import_model(demo_folder(), "inked", tmp_path / "models")
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(command)[1:], "--dry-run"])
    assert ended.value.code == 0


def lay_out(folder: Path) -> None:
    """The files that the README's commands name."""
    for name in ("photos", "masks", "painted"):
        (folder / name).mkdir()
    for name in ("photo.jpg", "photo2.jpg", "photos/a.jpg"):
        photo = Image.new("RGB", (640, 480), "grey")
        photo.paste("red", (260, 180, 380, 300))  # a thing to select
        photo.save(folder / name)
    for name in ("mask.png", "masks/a.png", "masks/a_mask.png"):
        Image.new("L", (640, 480), 255).save(folder / name)
    Image.new("RGBA", (640, 480), (9, 9, 9, 0)).save(folder / "cutout.png")
    (folder / "painted" / "photo1.jpg").write_bytes(write(BLANK, plain("JPEG"), made()))
    job = {"image": "photo.jpg", "mask": "mask.png", "prompt": "a door"}
    (folder / "jobs.jsonl").write_text(json.dumps(job), "utf-8")
    save_file({"lora_unet_x.alpha": torch.ones(())}, folder / "ink.safetensors")


def test_every_file_in_the_tree_exists() -> None:
    """A file tree that is wrong is worse than none."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    tree = re.search(r"## Where things are\n\n```\n(.*?)```", page, re.DOTALL)
    assert tree is not None
    names, package = [], ""
    for line in tree[1].splitlines():
        package = package if line.startswith(" ") else line.split("/")[0]
        names += [f"{package}/{name}" for name in re.findall(r"\b[\w/]+\.py\b", line)]
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).exists(), name


def test_links_and_pictures_exist() -> None:
    """In the pages of the root and of docs/."""
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} → {target}"
