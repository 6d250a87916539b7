"""Copies the Krita plugin and the ComfyUI node to where those programs load them, and over older copies."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inpaint.errors import OutputError, RequestError
from inpaint.files import write_atomically

_HERE = Path(__file__).parent
PLUGIN = "sdxl_inpaint"
NODE = "sdxl_inpaint_node.py"


def install_plugin(folder: Path) -> Path:
    """Put the plugin into a resource folder of Krita, and return the plugin's own folder there.

    An older copy is replaced whole: Krita never finds files of two versions together.

    Raises:
        RequestError: the folder does not exist.
        OutputError: it cannot be written.
    """
    _check(folder, "Krita's resource folder")
    source, target = _HERE / "krita", folder / "pykrita" / PLUGIN
    draft = target.with_name(f".{PLUGIN}-new")
    with _writing(folder):
        target.parent.mkdir(exist_ok=True)
        (folder / "actions").mkdir(exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(source / PLUGIN, draft, ignore=shutil.ignore_patterns("__pycache__"))
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
        _copy(source / f"{PLUGIN}.action", folder / "actions")
        _copy(source / f"{PLUGIN}.desktop", target.parent)  # last: it makes Krita see the plugin
    return target


def install_node(folder: Path) -> Path:
    """Put the node into a ComfyUI, and return its file there; an older one is replaced.

    Args:
        folder: ComfyUI's, or its ``custom_nodes``.

    Raises:
        RequestError: it is neither.
        OutputError: it cannot be written.
    """
    _check(folder, "ComfyUI's folder")
    nodes = folder if folder.name == "custom_nodes" else folder / "custom_nodes"
    if not nodes.is_dir():
        raise RequestError("folder", f"{folder} is not ComfyUI's: there is no folder custom_nodes in it")
    with _writing(nodes):
        _copy(_HERE / "comfyui" / NODE, nodes)
    return nodes / NODE


def _check(folder: Path, what: str) -> None:
    if not folder.is_dir():
        raise RequestError("folder", f"{folder} is not a folder; give {what}")


def _copy(file: Path, folder: Path) -> None:
    write_atomically(folder / file.name, file.read_bytes())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"{error.filename or folder} could not be written: {reason}") from error
