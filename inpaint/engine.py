"""The engine's public interface: load a model, submit requests, wait, close."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Self

from inpaint import cuda
from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import work_of
from inpaint.canvas.crop import cut
from inpaint.demo import demo_checkpoint
from inpaint.fast.optimizations import Fast, choose, convert_early, ready
from inpaint.gpu_errors import explained
from inpaint.job import Job
from inpaint.lora.files import canonical
from inpaint.model.load import Model, load_model, pick_device, pick_dtype
from inpaint.request import InpaintRequest, InpaintResult
from inpaint.runtime.calibrate import made_for, survey
from inpaint.runtime.compiled_sizes import compiled_sizes, save_usage
from inpaint.runtime.faults import Faults
from inpaint.runtime.step_loop import EngineStats, StepLoop
from inpaint.weights import Checkpoint, config_folder, resolve, unet_parameters

__all__ = ["Engine", "EngineStats"]

_UNFIT = "the model does not fit into this GPU's memory; try a smaller plan with --memory ({})"


class Engine:
    """A loaded model that paints requests. Every method may be called from any thread.

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
        profiles: Path | None = None,
    ) -> None:
        self.model = model
        self._profiles = profiles
        self._lora_folder = loras
        if profile is None:
            identity = made_for(model, () if fast is None else fast.optimizations)
            profile = Profile(identity, max_slots=min(2 * max_rows, model.plan.max_slots))
        self.profile = profile
        self._fast = fast
        # The model was loaded and rewritten on another stream, for which the loop's streams do not wait.
        cuda.runtime.synchronize(model.device)
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
        predicts: str | None = None,
        loras: Path | None = None,
        max_rows: int = 8,
        profiles: Path | None = None,
        faults: Faults | None = None,
    ) -> Self:
        """Load a model by its name, from a diffusers folder or from a single ``.safetensors`` file.

        Args:
            model: ``demo``, a name from ``inpaint models list``, or a path.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            dtype: ``float32``, ``float16``, ``bfloat16``, or ``auto``: fp16 on CUDA; on a CPU bf16 for
                SDXL if the CPU multiplies in it, else fp32.
            memory: ``auto`` (chosen by the free memory) or a plan's name, see ``inpaint.memory.PLANS``.
            precision: ``exact``, or ``fp8``, which is faster and changes the pictures a little.
            without: names of optimizations (``inpaint.fast``) to leave out.
            few_step_lora: a ``.safetensors`` LoRA for painting in 4 to 8 steps (SDXL-Lightning, Hyper-SD).
                It is merged permanently; samplers then space their steps as it was trained. Use guidance 1.
            predicts: what the UNet predicts, ``epsilon``, ``v`` or ``v-zsnr`` (v with zero terminal SNR), for
                a checkpoint that does not say so or says it wrongly; None: as the checkpoint says.
            loras: the folder of LoRA files; ``inpaint.lora.files.loras_dir()`` if None.
            max_rows: most samples in one UNet call; fewer are used where measurements show no gain from more.
            profiles: a folder of measured costs. If it has none of this model on this device, they are
                measured in a few seconds; with them, finish times are predicted from the first request on.
            faults: faults to inject, for tests.

        Raises:
            ModelError: the model is missing, damaged or of an unknown kind.
            DeviceError: the device is not available, or it failed.
            OutOfMemoryError: the model does not fit into its memory.
            RequestError: there is no such precision, prediction or optimization, or this device does not
                support it.
        """
        place = pick_device(device)
        checkpoint: Checkpoint = demo_checkpoint() if model == "demo" else resolve(model, predicts=predicts)
        configs = config_folder() if checkpoint.kind == "file" else None
        as_dtype = pick_dtype(dtype, place, unet_parameters(checkpoint))

        def load() -> tuple[Model, Fast, Profile | None]:
            loaded = load_model(
                checkpoint.path,
                checkpoint.name,
                place,
                as_dtype,
                memory,
                configs,
                few_step_lora,
                prepare=partial(convert_early, without=frozenset(without)),
                predicts=predicts,
            )
            optimizations = choose(loaded, frozenset(without), precision=precision)
            return loaded, *_prepared(loaded, optimizations, 2 * max_rows, profiles)

        # On a thread that ends: torch's thread pool would stay with the caller's, see ``side_thread``.
        with ThreadPoolExecutor(1, "inpaint-load") as thread, explained(_UNFIT):
            loaded, fast, profile = thread.submit(load).result()
        return cls(
            loaded,
            max_rows=max_rows,
            fast=fast,
            profile=profile,
            faults=faults,
            loras=loras,
            profiles=profiles,
        )

    @property
    def native_size(self) -> int:
        """The side in pixels of the square that the model was trained on."""
        return self.model.native_size

    @property
    def vae_factor(self) -> int:
        """The side of a latent pixel in pixels."""
        return self.model.vae_factor

    @property
    def in_channels(self) -> int:
        """The input channels of the UNet: 9 with the mask, or 4, as of models that paint whole pictures."""
        return self.model.in_channels

    def submit(
        self, request: InpaintRequest, *, key: str = "", deadline_s: float = inf, promised: bool = False
    ) -> Job:
        """Queue a request and return immediately.

        Args:
            request: what to paint.
            key: the caller's; the engine's time is shared fairly between keys.
            deadline_s: seconds from now until the pictures are of no use.
            promised: skip the check that the deadline can be met, because the caller has made it.

        Raises:
            RequestError: there is nothing to repaint, or a LoRA does not exist.
            ModelError: the folder of LoRA files cannot be read.
            BusyError: the request could not be finished by its deadline; it was not started.
            ClosedError: the engine takes no more requests.
            DeviceError: the GPU failed before.
        """
        if request.loras:  # rows of one set share a batch, however their requests spelled it
            request = replace(request, loras=canonical(request.loras, self._lora_folder))
        request = request.with_seed()
        job = Job(request, request.seeds)
        parts = cut(request, self.model.native_size)
        deep_cache = self._fast is not None and self._fast.caches_deep_level
        sizes = [canvas.size for canvas in parts.canvases]
        work = work_of(request, sizes, self.model.vae_factor, key, deep_cache=deep_cache)
        self._loop.submit(job, parts, work, deadline_s=deadline_s, promised=promised)
        for box in work.boxes:
            self.profile.usage.add(box.bucket)
        return job

    def paint(self, request: InpaintRequest) -> InpaintResult:
        """Paint a request and wait for it.

        Raises:
            InpaintError: as :meth:`submit` and :meth:`Job.result` raise.
        """
        return self.submit(request).result()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more requests and wait until all have ended; return False if the time ran out."""
        return self._loop.drain(timeout_s)

    def close(self) -> None:
        """Cancel all requests and release the model."""
        self._loop.close()
        if self._fast is not None:
            self._fast.close()
        if self._profiles is not None:
            save_usage(self.profile, self._profiles)

    def stats(self) -> EngineStats:
        """Return the counters since the start, and the load now."""
        return self._loop.stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prepared(
    model: Model, optimizations: tuple[str, ...], slots: int, profiles: Path | None
) -> tuple[Fast, Profile | None]:
    """Return the forward pass of a model's UNet, and its costs if there is a folder for them."""
    slots = min(slots, model.plan.max_slots)
    identity = made_for(model, optimizations)
    buckets, often = compiled_sizes(model, identity, profiles)
    fast = ready(model, optimizations, slots=slots, buckets=buckets, often=often)
    if profiles is None:
        return fast, None
    return fast, survey(model, fast, identity, profiles, max_slots=slots)
