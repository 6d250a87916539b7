"""Which model a run paints with, and on what; the model is loaded once, when the first picture needs it."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint.cli.run.progress import note
from inpaint.demo import NOTICE, demo_entry
from inpaint.weights import find_entry, models_dir

if TYPE_CHECKING:
    from inpaint.engine import Engine


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which model, where, and how."""

    model: str
    device: str
    dtype: str
    memory: str
    precision: str
    without: tuple[str, ...]
    few_step_lora: Path | None
    loras: Path | None  # the folder

    def load(self) -> "Engine":
        """The engine, with a word about it on stderr."""
        # Read when those libraries are imported: whatever a checkpoint says, the hub is not asked.
        for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
            os.environ[switch] = "1"
        from inpaint.engine import Engine

        if self.model == "demo":
            note(NOTICE)
        started = time.monotonic()
        engine = Engine.load(**asdict(self))
        model = engine.model
        note(f"loaded {model.name} on {model.device} in {time.monotonic() - started:.1f} s")
        return engine

    def identity(self) -> str:
        """Equal for equal weights in an equal precision, whatever the device; opens no weights.

        A model with a lock is known by its files' digests, another by their sizes and times.
        """
        entry = demo_entry() if self.model == "demo" else find_entry(self.model, models_dir())
        if entry is not None:
            files: list[tuple[object, ...]] = [(file.path, file.digest) for file in entry.files]
        else:
            files = list(_stamps(Path(self.model).expanduser()))
        parts = [files, self.precision, list(_stamps(self.few_step_lora)) if self.few_step_lora else []]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stamps(path: Path) -> Iterator[tuple[object, ...]]:
    """(name, bytes, time) of a file, or of every file in a folder; of nothing, nothing."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            status = file.stat()
            yield file.name, status.st_size, status.st_mtime_ns
