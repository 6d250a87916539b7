"""The engine as its callers see it: load a model, submit requests, wait, close."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Self

from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import work_of
from inpaint.canvas.crop import cut
from inpaint.demo import demo_checkpoint
from inpaint.fast.optimizations import Fast, choose, ready
from inpaint.job import Job
from inpaint.lora.files import require
from inpaint.model.load import Model, load_model, pick_device, pick_dtype
from inpaint.request import InpaintRequest, InpaintResult
from inpaint.runtime.calibrate import made_for, survey
from inpaint.runtime.faults import Faults
from inpaint.runtime.step_loop import EngineStats, StepLoop
from inpaint.weights import Checkpoint, config_folder, resolve

__all__ = ["Engine", "EngineStats"]


class Engine:
    """Paints requests. Every method may be called from any thread.

    >>> with Engine.load("demo") as engine:
    ...     result = engine.paint(InpaintRequest(image=photo, mask=mask, prompt="a red circle", seed=7))
    """

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int = 8,
        fast: Fast | None = None,
        profile: Profile | None = None,
        faults: Faults | None = None,
        loras: Path | None = None,
    ) -> None:
        self.model = model
        self._lora_folder = loras
        self.profile = profile or Profile(made_for(model), max_slots=2 * max_rows)
        self._fast = fast
        self._loop = StepLoop(model, self.profile, fast, faults, loras)
        if fast is not None:
            fast.start()

    @classmethod
    def load(
        cls,
        model: str | Path = "demo",
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
        precision: str = "exact",
        without: Iterable[str] = (),
        few_step_lora: Path | None = None,
        loras: Path | None = None,
        max_rows: int = 8,
        profiles: Path | None = None,
        faults: Faults | None = None,
    ) -> Self:
        """An engine for a model's name, a diffusers folder or a single ``.safetensors`` file.

        Args:
            model: ``demo``, a name from ``inpaint models list``, or a path.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            dtype: ``auto`` (fp16 on CUDA, fp32 on a CPU), ``float32``, ``float16`` or ``bfloat16``.
            memory: ``auto`` (by the free memory) or a plan's name, see ``inpaint.memory.PLANS``.
            precision: ``exact``, or ``fp8`` for quicker pictures that differ a little.
            without: names of optimizations (``inpaint.fast``) to leave out.
            few_step_lora: a ``.safetensors`` LoRA that paints in 4 to 8 steps (SDXL-Lightning, Hyper-SD) to
                merge for good; samplers then space their steps as it was trained, and want guidance 1.
            loras: the folder of the LoRA files that requests name; ``lora_files.loras_dir()`` if None.
            max_rows: samples that share one UNet call at most; fewer where measuring finds that more gain
                nothing.
            profiles: a folder of measurements. Those of this model on this device are made where they are not
                there, in a few seconds, and make promises of time possible from the first request.
            faults: to inject, in tests.

        Raises:
            ModelError: missing, damaged or of an unknown kind.
            DeviceError: the device is not there.
            RequestError: there is no such precision or optimization, or this device cannot have it.
        """
        place = pick_device(device)
        checkpoint: Checkpoint = demo_checkpoint() if model == "demo" else resolve(model)
        configs = config_folder() if checkpoint.kind == "file" else None
        as_dtype = pick_dtype(dtype, place)

        def load() -> tuple[Model, Fast, Profile | None]:
            loaded = load_model(
                checkpoint.path, checkpoint.name, place, as_dtype, memory, configs, few_step_lora
            )
            optimizations = choose(loaded, frozenset(without), precision=precision)
            fast = ready(loaded, optimizations, slots=2 * max_rows)
            if profiles is None:
                return loaded, fast, None
            identity = made_for(loaded, optimizations)
            return loaded, fast, survey(loaded, fast, identity, profiles, max_slots=2 * max_rows)

        # On a thread that ends: torch's pool of threads would stay with the caller's, see ``side``.
        with ThreadPoolExecutor(1, "inpaint-load") as thread:
            loaded, fast, profile = thread.submit(load).result()
        return cls(loaded, max_rows=max_rows, fast=fast, profile=profile, faults=faults, loras=loras)

    @property
    def native_size(self) -> int:
        """Side in pixels of the square that the model was trained on."""
        return self.model.native_size

    @property
    def vae_factor(self) -> int:
        """Pixels per latent cell and side."""
        return self.model.vae_factor

    def submit(
        self, request: InpaintRequest, *, key: str = "", deadline_s: float = inf, promised: bool = False
    ) -> Job:
        """Queue a request and return at once.

        Args:
            request: what to paint.
            key: who asks; the engine's time is shared fairly between keys.
            deadline_s: nobody wants the pictures later than that.
            promised: take it whatever is ahead of it; whoever sends it has looked at the time already.

        Raises:
            RequestError: there is nothing to repaint, or no LoRA of a name.
            BusyError: it could not be finished by its deadline; nothing was begun.
            ClosedError: the engine takes no more requests.
        """
        require(request.loras, self._lora_folder)
        request = request.with_seed()
        job = Job(request, request.seeds)
        canvas = cut(request, self.model.native_size)
        work = work_of(request, canvas.size, self.model.vae_factor, key)
        self._loop.submit(job, canvas, work, deadline_s=deadline_s, promised=promised)
        return job

    def paint(self, request: InpaintRequest) -> InpaintResult:
        """Paint a request and wait for it; raises what :meth:`Job.result` raises."""
        return self.submit(request).result()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more requests and wait until those under way have ended; False if the time ran out."""
        return self._loop.drain(timeout_s)

    def close(self) -> None:
        """Cancel what is under way and let go of the model."""
        self._loop.close()
        if self._fast is not None:
            self._fast.close()

    def stats(self) -> EngineStats:
        """What the engine holds and has done."""
        return self._loop.stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
