"""The Python API's page: its examples run in order, and its tables are those of the code."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

import server.errors
from inpaint import InpaintRequest, errors
from inpaint.demo import demo_checkpoint
from inpaint.request import AREAS, FILLS, RANGES
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the root of a clone, with a LoRA for the demo model in ``loras``."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "loras").mkdir()
    config = json.loads((demo_checkpoint().path / "unet" / "config.json").read_text("utf-8"))
    write_ink(tmp_path / "loras" / "ink.safetensors", config["block_out_channels"][0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    return tmp_path


def write_ink(path: Path, channels: int) -> None:
    random = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 9, 3, 3, generator=random), torch.randn(channels, 4, 1, 1, generator=random)
    save_file({"unet.conv_in.lora_A.weight": down / 9, "unet.conv_in.lora_B.weight": up / 9}, path)


def test_every_example_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one namespace, as a newcomer types them one after the other."""
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 12
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert "[20, 21, 22] [21]" in shown
    assert "strength → strength: must be" in shown
    assert "ModelError → there is no model" in shown
    assert "a red circle 11 demo" in shown
    assert (place / "preview.png").exists()


def test_the_table_of_fields_is_the_requests() -> None:
    """Every field with its default and, where it is a number, its range."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \| ", PAGE.split("## Seeds")[0], re.MULTILINE)
    listed = {
        name: (default, values) for names, default, values in rows for name in re.findall(r"\w+", names)
    }
    fields = InpaintRequest.__dataclass_fields__
    assert list(listed) == list(fields)
    for name, (default, values) in listed.items():
        assert default in ("required", f"`{fields[name].default!r}`"), name
        if name in RANGES:
            low, high = f"{RANGES[name].low:.15g}", f"{RANGES[name].high:.15g}"
            assert re.findall(r"-?\d+", values) == [low, high], name
    assert re.findall(r"\w+", listed["area"][1]) == list(AREAS)
    assert re.findall(r"\w+", listed["fill"][1]) == list(FILLS)


def test_every_error_is_in_the_table() -> None:
    """A caller finds what to do about each."""
    kinds = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)}
    table = PAGE.split("## Errors")[1].split("```")[0]
    assert kinds - {"InpaintError"} == set(re.findall(r"`(\w+Error)`", table)) - {"InpaintError"}


@pytest.mark.parametrize("module", [errors, server.errors])
def test_every_error_is_in_the_tree_of_its_module(module: ModuleType) -> None:
    """Callers read the tree first; it stands in the module's docstring."""
    own = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    tree = set(re.findall(r"\w+Error", str(module.__doc__)))
    assert [kind.__name__ for kind in own if kind.__name__ not in tree] == []
