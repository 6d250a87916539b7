"""The worker process: an engine at the far end of a socket.

``python -m server.engines.worker FD`` is that process: :mod:`server.engines.pool` starts it and speaks to it
over the socket ``FD``. It ends when the other end of the socket is closed, so none outlives its pool. torch
is imported inside functions only: the pool's process imports this module too.
"""

import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from inpaint.batching.cost_profile import Profile
from inpaint.errors import ClosedError, DeviceError, InpaintError
from inpaint.job import Event, Job
from inpaint.request import InpaintRequest
from inpaint.runtime.faults import Faults
from server.engines.forecast import Engines
from server.engines.messages import Link, Message, error_message, request_from, result_message

if TYPE_CHECKING:
    from inpaint.engine import EngineStats

EXIT_UNFIT, EXIT_BROKEN = 2, 3  # could not load; the GPU failed under it
_STATS_S = 0.25


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker loads; see ``Engine.load``. ``faults`` is parsed by :mod:`inpaint.runtime.faults`."""

    model: str = "demo"
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    max_rows: int = 8
    precision: str = "exact"
    without: Sequence[str] = ()
    few_step_lora: str | None = None
    loras: str | None = None  # a folder
    profiles: str | None = None  # a folder
    faults: str = ""


class Paints(Protocol):
    """What a worker needs of an engine."""

    profile: Profile

    @property
    def native_size(self) -> int:
        """As ``Engine.native_size``."""

    @property
    def vae_factor(self) -> int:
        """As ``Engine.vae_factor``."""

    def submit(self, request: InpaintRequest, *, key: str, deadline_s: float, promised: bool = False) -> Job:
        """As ``Engine.submit``."""

    def stats(self) -> "EngineStats":
        """As ``Engine.stats``."""

    def close(self) -> None:
        """As ``Engine.close``."""


Load = Callable[[WorkerSpec, int, int], Paints]


def load_engine(spec: WorkerSpec, index: int, start: int) -> Paints:
    """The engine of worker number ``index`` (from 0), in its process number ``start`` (from 1).

    Raises:
        ModelError: missing or damaged.
        DeviceError: the device is not there.
    """
    import torch

    from inpaint.engine import Engine

    several = spec.device == "cuda" or (spec.device == "auto" and torch.cuda.is_available())
    return Engine.load(
        spec.model,
        device=f"cuda:{index}" if several else spec.device,
        dtype=spec.dtype,
        memory=spec.memory,
        max_rows=spec.max_rows,
        precision=spec.precision,
        without=spec.without,
        few_step_lora=None if spec.few_step_lora is None else Path(spec.few_step_lora),
        loras=None if spec.loras is None else Path(spec.loras),
        profiles=None if spec.profiles is None else Path(spec.profiles),
        faults=Faults.parse(spec.faults, start=start) if spec.faults else None,
    )


class _Worker:
    """An engine at the far end of a link."""

    def __init__(self, engine: Paints, link: Link) -> None:
        self._engine = engine
        self._link = link
        self._jobs: dict[int, Job] = {}
        self._told: object = None

    def serve(self, orders: "queue.SimpleQueue[Message]") -> NoReturn:
        """Obey orders, and between them say how far the engine is."""
        while True:
            try:
                self._obey(orders.get(timeout=_STATS_S))
            except queue.Empty:
                self._tell_stats()

    def _obey(self, order: Message) -> None:
        job = self._jobs.get(order.id)
        if order.kind == "submit":
            self._submit(order)
        elif job is not None and order.kind == "cancel":
            job.cancel()
        elif job is not None and order.kind == "watch":
            job.watch(order.fields["change"])

    def _submit(self, order: Message) -> None:
        try:
            key, left_s = order.fields["key"], order.fields["left_s"]
            job = self._engine.submit(request_from(order), key=key, deadline_s=left_s, promised=True)
        except InpaintError as error:
            self._fail(order.id, error)
            return
        self._jobs[order.id] = job
        job.watch(order.fields["watchers"])
        job.listen(partial(self._tell, order.id, job))

    def _tell(self, request_id: int, job: Job, event: Event) -> None:
        """Called in the engine's thread."""
        if event.error is not None:
            if event.state == "cancelled" and not job.cancelled:
                self._fail(request_id, ClosedError("the engine's thread ended"))
            else:
                self._fail(request_id, event.error)
        elif event.state == "done":
            self._jobs.pop(request_id, None)
            self._tell_stats()  # first, so that whoever has the picture sees it counted
            self._link.send(result_message(request_id, job.result(0)))
        elif event.state != "queued":
            fields = {"state": event.state, "step": event.step, "steps": event.steps}
            images = () if event.preview is None else (event.preview,)
            self._link.send(Message("event", request_id, fields, images))

    def _fail(self, request_id: int, error: InpaintError) -> None:
        if isinstance(error, DeviceError | ClosedError):
            # Not this request's fault, perhaps: the pool finds out whose. Nothing is said after this.
            _leave(self._link, error_message("broken", 0, error), EXIT_BROKEN)
            return
        self._jobs.pop(request_id, None)
        self._tell_stats()
        self._link.send(error_message("failed", request_id, error))

    def _tell_stats(self) -> None:
        stats = self._engine.stats()
        if stats != self._told:
            self._told = stats
            fields = {"stats": asdict(stats), "profile": self._engine.profile.to_json()}
            self._link.send(Message("stats", fields=fields))


def _leave(link: Link, last_words: Message, status: int) -> None:
    link.send(last_words)
    link.after_sent(lambda: os._exit(status))  # no clean-up: a spoiled GPU could hang it


def _read(link: Link, orders: "queue.SimpleQueue[Message]") -> None:
    for message in link.messages():
        orders.put(message)
    os._exit(0)  # the pool is gone or wants us gone, whatever the other threads are at


def run(fd: int, load: Load = load_engine) -> None:
    """Be a worker, to the end of this process."""
    link = Link(socket.socket(fileno=fd))
    orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, orders), name="inpaint-orders", daemon=True).start()
    order = orders.get().fields
    try:
        engine = load(WorkerSpec(**order["spec"]), order["index"], order["start"])
    except InpaintError as error:
        _leave(link, error_message("unfit", 0, error), EXIT_UNFIT)
        threading.Event().wait()
        return
    link.send(Message("ready", fields=Engines.of(engine).to_json()))
    _Worker(engine, link).serve(orders)


if __name__ == "__main__":
    run(int(sys.argv[1]))
