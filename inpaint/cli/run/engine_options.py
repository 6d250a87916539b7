"""The model and the device of a run; the model is loaded once, when the first picture needs it."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint.about import about
from inpaint.cli.run.early import check_device, check_model
from inpaint.cli.terminal import say
from inpaint.demo import demo_entry
from inpaint.files import in_home
from inpaint.weights import find_entry, models_dir
from inpaint.weights.prediction import describe

if TYPE_CHECKING:
    from inpaint.engine import Engine


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The options that say which model paints, on which device and how."""

    model: str
    device: str
    dtype: str
    memory: str
    precision: str
    without: tuple[str, ...]
    few_step_lora: Path | None
    loras: Path | None  # the folder of LoRA files
    predicts: str | None = None  # what the model predicts, if it does not say so itself

    def check(self, *, installed: bool) -> None:
        """Refuse a model or a device that is not here before torch is imported.

        Args:
            installed: whether the model must be installed, and not only known.

        Raises:
            ModelError: the model is unknown, cannot paint or is not here.
            DeviceError: there is no such device.
        """
        check_device(self.device)
        check_model(self.model, self.predicts, installed=installed)

    def for_pictures(self, count: int) -> "EngineOptions":
        """Return the options for this many pictures; one alone is painted before any code is compiled."""
        return self if count > 1 else replace(self, without=(*self.without, "compile"))

    @contextmanager
    def engine(self) -> Iterator["Engine"]:
        """Load the engine, print what was loaded on stderr, and close it in the end, also after Ctrl-C."""
        # The libraries read these when they are imported; then no checkpoint can make them ask the hub.
        for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE"):
            os.environ[switch] = "1"
        from inpaint.engine import Engine

        if not (told := about(self.model)).photographs:
            say(told.text)
            if told.things:
                say(f"It paints {', '.join(told.things)}.")
        started = time.monotonic()
        with Engine.load(**asdict(self)) as engine:
            model = engine.model
            predicts = describe(model.scheduler_config)
            also = f"; {predicts}" if predicts else ""
            say(f"loaded {model.name} on {model.device} in {time.monotonic() - started:.1f} s{also}")
            yield engine

    def identity(self) -> str:
        """Return a digest that is equal for equal weights and precision on any device; open no weights.

        A model with a lock is identified by its files' digests, any other by their sizes and times.
        """
        entry = demo_entry() if self.model == "demo" else find_entry(self.model, models_dir())
        if entry is not None:
            files: list[tuple[object, ...]] = [(file.path, file.digest) for file in entry.files]
        else:
            files = list(_stamps(in_home(Path(self.model), "model")))
        parts = [files, self.precision, list(_stamps(self.few_step_lora)) if self.few_step_lora else []]
        if self.predicts is not None:
            parts.append(self.predicts)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stamps(path: Path) -> Iterator[tuple[object, ...]]:
    """Yield (name, bytes, time) of a file, or of every file in a folder; nothing if there is none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            status = file.stat()
            yield file.name, status.st_size, status.st_mtime_ns
