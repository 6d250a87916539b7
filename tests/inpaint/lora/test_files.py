"""LoRA files by name: found in a folder, pinned by their sha256, refused when they change."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from inpaint.cli import main
from inpaint.errors import ModelError, RequestError
from inpaint.lora.files import accept, available_loras, checked, find_lora, loras_dir, verify
from tests.support.checkpoint_files import safetensors

FIRST, SECOND = safetensors({"a.lora_A.weight": [4]}), safetensors({"b.lora_A.weight": [4]})
assert len(FIRST) == len(SECOND)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with two LoRAs and some other files."""
    for name in ("style.safetensors", "Old Film v1.2.safetensors", ".hidden.safetensors", "a,b.safetensors"):
        (tmp_path / name).write_bytes(FIRST)
    (tmp_path / "notes.txt").write_text("no LoRA")
    (tmp_path / "folder.safetensors").mkdir()
    return tmp_path


def replaced(path: Path, content: bytes) -> None:
    """Replace a file, with another time even if the file system's clock is coarse."""
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def test_a_folders_files_are_known_by_their_stems(folder: Path) -> None:
    """A user who downloads a style puts the file there and types its name."""
    assert [file.name for file in available_loras(folder)] == ["Old Film v1.2", "a,b", "style"]
    assert find_lora("style", folder).path == folder / "style.safetensors"
    assert available_loras(folder / "gone") == []


def test_the_folder_is_the_variables_or_in_the_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All checkouts on a machine share one folder unless the variable names another."""
    monkeypatch.delenv("INPAINT_LORAS", raising=False)
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    assert loras_dir() == tmp_path / "models" / "loras"
    monkeypatch.setenv("INPAINT_LORAS", str(tmp_path / "mine"))
    assert loras_dir() == tmp_path / "mine"


@pytest.mark.parametrize("name", ["stile", "../style", "/style", "sub/style", ""])
def test_an_unknown_name_is_refused_with_those_there_are(name: str, folder: Path) -> None:
    """A name is looked up in a list; no text from a stranger becomes a path."""
    with pytest.raises(
        RequestError, match=r"loras: there is no LoRA .*; there are Old Film v1.2, a,b, style"
    ):
        find_lora(name, folder)


def test_an_empty_folder_says_where_files_go(tmp_path: Path) -> None:
    """A newcomer learns where LoRA files go."""
    with pytest.raises(RequestError, match="`inpaint loras list` says where their files go"):
        find_lora("style", tmp_path)


def test_the_first_use_pins_what_the_file_holds(folder: Path) -> None:
    """From then on the name stands for that content."""
    assert find_lora("style", folder).state == "new"
    assert checked(find_lora("style", folder)).sha256 == hashlib.sha256(FIRST).hexdigest()
    again = find_lora("style", folder)
    assert (again.state, again.sha256) == ("pinned", hashlib.sha256(FIRST).hexdigest())
    assert find_lora("Old Film v1.2", folder).state == "new", "each has its own"


def test_a_file_that_changed_is_refused_until_it_is_accepted(folder: Path) -> None:
    """The same name and seed must not silently paint another picture."""
    checked(find_lora("style", folder))
    replaced(folder / "style.safetensors", SECOND)
    assert find_lora("style", folder).state == "changed"
    for _ in range(2):  # refusing does not pin
        with pytest.raises(ModelError, match=r"has changed since it was first used.* loras pin style"):
            checked(find_lora("style", folder))
    assert accept(find_lora("style", folder)).sha256 == hashlib.sha256(SECOND).hexdigest()
    assert checked(find_lora("style", folder)).state == "pinned"


def test_a_file_that_was_only_copied_again_is_the_same(folder: Path) -> None:
    """A restored backup has another time and the same content."""
    checked(find_lora("style", folder))
    replaced(folder / "style.safetensors", FIRST)
    assert checked(find_lora("style", folder)).state == "pinned"
    assert find_lora("style", folder).state == "pinned", "and is not hashed again"


def test_a_change_that_kept_size_and_time_is_found_by_verify(folder: Path) -> None:
    """A start trusts size and time for speed; an auditor can have the content hashed."""
    path = folder / "style.safetensors"
    checked(find_lora("style", folder))
    time = path.stat().st_mtime_ns
    path.write_bytes(SECOND)
    os.utime(path, ns=(time, time))
    assert checked(find_lora("style", folder)).state == "pinned"
    with pytest.raises(ModelError, match="has changed since"):
        verify(find_lora("style", folder))


@pytest.mark.parametrize("content", [FIRST[:-1], b"", b"PK\x03\x04 a pickle's zip", b"\x80\x04 a pickle"])
def test_an_incomplete_file_is_not_pinned(content: bytes, folder: Path) -> None:
    """The file may still be copied, an interrupted download, or a renamed pickle."""
    (folder / "style.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"style\.safetensors") as refused:
        checked(find_lora("style", folder))
    assert str(folder) not in str(refused.value), "a client must not learn the paths of the disk"
    assert find_lora("style", folder).state == "new"


def test_a_damaged_pin_is_ignored(folder: Path) -> None:
    """A pin that a full disk cut off must not end in a traceback."""
    checked(find_lora("style", folder))
    (folder / ".style.safetensors.pin").write_text("{")
    assert checked(find_lora("style", folder)).state == "pinned"


def test_loras_of_the_lock_are_names_once_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are pinned by the lock, so any other file in their place is refused."""
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path))
    monkeypatch.delenv("INPAINT_LORAS", raising=False)
    assert available_loras() == []
    path = tmp_path / "lcm-lora-sdxl" / "pytorch_lora_weights.safetensors"
    path.parent.mkdir()
    path.write_bytes(FIRST)
    assert [file.name for file in available_loras()] == ["lcm-lora-sdxl"]
    with pytest.raises(ModelError, match="lcm-lora-sdxl is damaged"):
        checked(find_lora("lcm-lora-sdxl"))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["loras", *arguments])
    return int(ended.value.code or 0)


def test_the_command_line_lists_accepts_and_verifies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator can accept a file that was replaced on purpose."""
    where = ("--loras", str(folder))
    checked(find_lora("style", folder))
    replaced(folder / "style.safetensors", SECOND)
    assert run("list", "--json", *where) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    states = {"Old Film v1.2": "new", "a,b": "new", "style": "changed", ".hidden": "unusable"}
    assert {row["name"]: row["state"] for row in rows} == states
    assert run("verify", "style", *where) == 4
    assert "inpaint loras pin style" in capsys.readouterr().err
    assert run("pin", "style", *where) == 0
    assert hashlib.sha256(SECOND).hexdigest() in capsys.readouterr().err
    assert run("verify", *where) == 0
    assert "3 LoRA files match their pins" in capsys.readouterr().err
    assert run("pin", "stile", *where) == 2
    assert "NAME: there is no LoRA 'stile'; there are Old Film v1.2, a,b, style" in capsys.readouterr().err
    assert run("list", *where) == 0
    assert str(folder) in capsys.readouterr().out
