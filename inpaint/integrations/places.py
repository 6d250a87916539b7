"""The folders in which Krita looks for plugins, on each system and for each way to install it."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """The default resource folder of a Krita, and the settings file that may name another one."""

    resources: Path
    settings: Path


def resource_folders(
    system: str = sys.platform, home: Path | None = None, variables: Mapping[str, str] = os.environ
) -> list[Path]:
    """Return the resource folder of every Krita that this user has started at least once.

    Args:
        system: as ``sys.platform``.
        home: the user's home folder; this user's if None.
        variables: of the environment.
    """
    places = _places(system, home or Path.home(), variables)
    found = [_chosen(place.settings) or place.resources for place in places]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _places(system: str, home: Path, variables: Mapping[str, str]) -> Iterator[Place]:
    if system == "win32":
        local = Path(variables.get("LOCALAPPDATA") or home / "AppData" / "Local")
        yield Place(
            Path(variables.get("APPDATA") or home / "AppData" / "Roaming") / "krita", local / "kritarc"
        )
        for package in sorted((local / "Packages").glob("*Krita*")):  # from the Microsoft Store
            cache = package / "LocalCache"
            yield Place(cache / "Roaming" / "krita", cache / "Local" / "kritarc")
    elif system == "darwin":
        library = home / "Library"
        yield Place(library / "Application Support" / "krita", library / "Preferences" / "kritarc")
    else:  # a package or the AppImage; then Flatpak and Snap, which have homes of their own
        data = Path(variables.get("XDG_DATA_HOME") or home / ".local" / "share")
        yield Place(data / "krita", Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "kritarc")
        flatpak, snap = home / ".var" / "app" / "org.kde.krita", home / "snap" / "krita" / "current"
        yield Place(flatpak / "data" / "krita", flatpak / "config" / "kritarc")
        yield Place(snap / ".local" / "share" / "krita", snap / ".config" / "kritarc")


def _chosen(settings: Path) -> Path | None:
    """Return the folder that was chosen in Krita's settings; it stands above the first section."""
    try:
        text = settings.read_text("utf-8", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("["):
            return None
        name, _, value = line.partition("=")
        if name.strip() == "ResourceDirectory" and value.strip():
            return Path(value.strip())
    return None
