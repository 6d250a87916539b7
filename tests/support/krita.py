"""Krita itself under a virtual screen, with our plugin and one that plays a scenario: ``tests/krita``."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.integrations.install import install_plugin
from tests.support.paths import ROOT
from tests.support.programs import need

_DRIVER = ROOT / "tests" / "krita" / "driver"
_PATIENCE_S = 200  # the first start unpacks 87 MB of resources
_PLUGINS = ("sdxl_inpaint", "sdxl_inpaint_driver")


class Report:
    """What a scenario reported, and the pictures that it kept."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.facts: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
        assert "error" not in self.facts, self.facts["error"]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def pixels(self, name: str) -> NDArray[np.uint8]:
        """A picture that was kept, (H, W, 3)."""
        with Image.open(self._out / f"{name}.png") as picture:
            return np.array(picture.convert("RGB"))


class Krita:
    """Krita with a home of its own; each ``play`` is a start of it."""

    def __init__(self, home: Path, display: str) -> None:
        self._home, self._display = home, display
        for name in ("config", "cache", "run", "data/krita"):
            (home / name).mkdir(parents=True)
        (home / "run").chmod(0o700)
        enabled = "\n".join(f"enable_{name}=true" for name in _PLUGINS)
        (home / "config" / "kritarc").write_text(f"[python]\n{enabled}\n")
        install_plugin(home / "data" / "krita")
        plugins = home / "data" / "krita" / "pykrita"
        for path in _DRIVER.rglob("*"):
            if path.suffix in (".py", ".desktop"):
                target = plugins / path.relative_to(_DRIVER)
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
        self._plays = 0

    def play(self, scenario: str, **given: object) -> Report:
        """Start Krita, have it play a scenario, and wait until it has quit."""
        self._plays += 1
        out = self._home / f"{self._plays}-{scenario}"
        out.mkdir()
        own = {"HOME": "", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data", "XDG_CACHE_HOME": "cache"}
        own["XDG_RUNTIME_DIR"] = "run"
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env |= {name: str(self._home / folder) for name, folder in own.items()}
        env |= {"DISPLAY": self._display, "SDXL_SCENARIO": scenario, "SDXL_OUT": str(out)}
        env |= {"SDXL_GIVEN": json.dumps(given), "LC_ALL": "C.UTF-8", "QT_QPA_PLATFORM": "xcb"}
        done = subprocess.run(
            [need("Krita"), "--nosplash"],
            env=env,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        assert (out / "report.json").exists(), done.stderr[-4000:]
        assert done.returncode == 0, done.stderr[-4000:]
        return Report(out)


@contextmanager
def screen() -> Iterator[str]:
    """A virtual screen for the length of the block; yields its name."""
    read, write = os.pipe()
    # -noreset: or it starts anew when a Krita ends, and refuses the next one for a moment.
    command = [str(need("Xvfb")), "-displayfd", str(write), "-screen", "0", "1280x1000x24", "-noreset"]
    process = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as file:
            number = file.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait()
