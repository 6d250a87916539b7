"""``inpaint krita install`` and ``inpaint comfyui install``: found folders, upgrades, clear refusals."""

import ast
from pathlib import Path

import pytest

from inpaint.integrations.places import resource_folders
from tests.support.cli_runs import Run
from tests.support.paths import ROOT

pytest_plugins = ["tests.support.cli_fixtures"]

SOURCE = ROOT / "inpaint" / "integrations"
PLUGIN = sorted(path.name for path in (SOURCE / "krita" / "sdxl_inpaint").iterdir() if path.is_file())


def files(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_plugin_goes_where_krita_looks(inpaint: Run, tmp_path: Path) -> None:
    """A painter types one command; it ends with what to click in Krita."""
    done = inpaint("krita", "install", "--folder", tmp_path)
    assert done.code == 0, done.err
    assert files(tmp_path) == sorted(
        [f"pykrita/sdxl_inpaint/{name}" for name in PLUGIN]
        + ["pykrita/sdxl_inpaint.desktop", "actions/sdxl_inpaint.action"]
    )
    assert "Python Plugin Manager" in done.err
    assert "Settings → Dockers → SDXL Inpaint" in done.err


def test_a_newer_plugin_replaces_the_old_one_whole(inpaint: Run, tmp_path: Path) -> None:
    """A module that a later version no longer has must not be imported by Krita; other plugins stay."""
    assert inpaint("krita", "install", "--folder", tmp_path).code == 0
    own, other = tmp_path / "pykrita" / "sdxl_inpaint", tmp_path / "pykrita" / "other.desktop"
    (own / "gone.py").write_text("old")
    (own / "client.py").write_text("old")
    other.write_text("another plugin")
    assert inpaint("krita", "install", "--folder", tmp_path).code == 0
    assert sorted(path.name for path in own.iterdir()) == PLUGIN
    assert (own / "client.py").read_bytes() == (SOURCE / "krita" / "sdxl_inpaint" / "client.py").read_bytes()
    assert other.read_text() == "another plugin"


def test_without_folder_every_krita_gets_it(
    inpaint: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's Krita and Flatpak's have folders of their own, and a painter may use either."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    refused = inpaint("krita", "install")
    assert refused.code == 2
    assert "start Krita once" in refused.err
    folders = [tmp_path / ".local/share/krita", tmp_path / ".var/app/org.kde.krita/data/krita"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert inpaint("krita", "install").code == 0
    assert all((folder / "pykrita" / "sdxl_inpaint.desktop").is_file() for folder in folders)


@pytest.mark.parametrize(
    ("system", "variables", "folder"),
    [
        ("linux", {}, ".local/share/krita"),
        ("linux", {"XDG_DATA_HOME": "{home}/data"}, "data/krita"),
        ("linux", {}, ".var/app/org.kde.krita/data/krita"),
        ("linux", {}, "snap/krita/current/.local/share/krita"),
        ("darwin", {}, "Library/Application Support/krita"),
        ("win32", {"APPDATA": "{home}/Roaming"}, "Roaming/krita"),
        ("win32", {}, "AppData/Roaming/krita"),
        ("win32", {}, "AppData/Local/Packages/49800Krita_x1/LocalCache/Roaming/krita"),
    ],
)
def test_the_folder_of_each_system_is_found(
    system: str, variables: dict[str, str], folder: str, tmp_path: Path
) -> None:
    """Painters use Krita on all three systems, from packages, stores and AppImages."""
    there = tmp_path / folder
    there.mkdir(parents=True)
    given = {name: value.format(home=tmp_path) for name, value in variables.items()}
    assert resource_folders(system, tmp_path, given) == [there]


def test_a_folder_chosen_in_kritas_settings_is_found(tmp_path: Path) -> None:
    """Krita reads plugins only from the folder that was chosen there."""
    chosen, config = tmp_path / "art", tmp_path / ".config"
    for folder in (chosen, config, tmp_path / ".local/share/krita"):
        folder.mkdir(parents=True)
    (config / "kritarc").write_text(f"ResourceDirectory={chosen}\n\n[python]\nResourceDirectory=/no\n")
    assert resource_folders("linux", tmp_path, {}) == [chosen]


def test_what_cannot_be_written_is_one_sentence(inpaint: Run, tmp_path: Path) -> None:
    """A folder that does not exist, and a file where a folder must be."""
    missing = inpaint("krita", "install", "--folder", tmp_path / "no")
    assert missing.code == 2
    assert missing.err.startswith("error: --folder: ")
    (tmp_path / "pykrita").write_text("a file")
    blocked = inpaint("krita", "install", "--folder", tmp_path)
    assert blocked.code == 1
    assert f"{tmp_path / 'pykrita'} could not be written" in blocked.err


def test_the_node_goes_into_comfyui(inpaint: Run, tmp_path: Path) -> None:
    """ComfyUI's own folder or its custom_nodes; a folder that is neither is refused."""
    refused = inpaint("comfyui", "install", "--folder", tmp_path)
    assert refused.code == 2
    assert "custom_nodes" in refused.err
    nodes = tmp_path / "custom_nodes"
    nodes.mkdir()
    for folder in (tmp_path, nodes):
        assert inpaint("comfyui", "install", "--folder", folder).code == 0
    assert files(tmp_path) == ["custom_nodes/sdxl_inpaint_node.py"]
    source = SOURCE / "comfyui" / "sdxl_inpaint_node.py"
    assert (nodes / "sdxl_inpaint_node.py").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("path", sorted((SOURCE / "krita").rglob("*.py")), ids=lambda path: path.name)
def test_kritas_python_can_read_the_plugin(path: Path) -> None:
    """Krita 5 comes with Python 3.8, and with none of the packages that we use elsewhere."""
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 8))
    assert not [
        name
        for node in ast.walk(tree)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])
        if (name or "").split(".")[0] in ("inpaint", "numpy", "PIL", "requests", "server", "torch")
    ]
