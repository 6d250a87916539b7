"""The worker process: an engine at the far end of a socket.

:mod:`server.engines.supervise` starts it as ``python -m server.engines.worker FD`` and sends it messages over
the socket ``FD``. It ends when the other end of the socket is closed, so it never outlives its pool. torch is
imported inside functions only, because the pool's process imports this module too.
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
from inpaint.cpu import prepare_threads
from inpaint.errors import ClosedError, DeviceError, InpaintError
from inpaint.job import Event, Job
from inpaint.request import InpaintRequest
from inpaint.runtime.faults import Faults
from server.engines.forecast import Engines
from server.engines.messages import Link, Message, error_message, request_from, result_message

if TYPE_CHECKING:
    from inpaint.engine import EngineStats

EXIT_UNFIT, EXIT_BROKEN = 2, 3  # exit codes: the engine could not load; its GPU failed
_STATS_S = 0.25  # between reports of the engine's stats


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """The arguments of ``Engine.load`` for a worker; :mod:`inpaint.runtime.faults` parses ``faults``."""

    model: str = "demo"
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    max_rows: int = 8
    precision: str = "exact"
    without: Sequence[str] = ()
    few_step_lora: str | None = None
    predicts: str | None = None
    loras: str | None = None  # a folder
    profiles: str | None = None  # a folder
    faults: str = ""


class Paints(Protocol):
    """The part of an engine that a worker uses."""

    profile: Profile

    @property
    def native_size(self) -> int:
        """Side of the model's own pictures in pixels, as ``Engine.native_size``."""

    @property
    def vae_factor(self) -> int:
        """Pixels per latent pixel and side, as ``Engine.vae_factor``."""

    @property
    def in_channels(self) -> int:
        """Input channels of the model's UNet, as ``Engine.in_channels``."""

    def submit(self, request: InpaintRequest, *, key: str, deadline_s: float, promised: bool = False) -> Job:
        """Queue a request, as ``Engine.submit``."""

    def stats(self) -> "EngineStats":
        """Return the engine's counts, as ``Engine.stats``."""

    def close(self) -> None:
        """Stop the engine, as ``Engine.close``."""


Load = Callable[[WorkerSpec, int, int], Paints]


def load_engine(spec: WorkerSpec, index: int, start: int) -> Paints:
    """Load a worker's engine.

    Args:
        spec: what to load.
        index: the worker's number, from 0.
        start: the number of this process among the worker's, from 1.

    Raises:
        ModelError: the model is missing or damaged.
        DeviceError: the device is not there.
    """
    from inpaint.engine import Engine

    return Engine.load(
        spec.model,
        device=spec.device,  # the pool has made this worker's GPU the only visible one
        dtype=spec.dtype,
        memory=spec.memory,
        max_rows=spec.max_rows,
        precision=spec.precision,
        without=spec.without,
        few_step_lora=None if spec.few_step_lora is None else Path(spec.few_step_lora),
        predicts=spec.predicts,
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
        self._last_stats: object = None

    def serve(self, messages: "queue.SimpleQueue[Message]") -> NoReturn:
        """Handle the pool's messages, and send the engine's stats while there are none."""
        while True:
            try:
                self._on_message(messages.get(timeout=_STATS_S))
            except queue.Empty:
                self._send_stats()

    def _on_message(self, message: Message) -> None:
        job = self._jobs.get(message.id)
        if message.kind == "submit":
            self._submit(message)
        elif job is not None and message.kind == "cancel":
            job.cancel()
        elif job is not None and message.kind == "watch":
            job.watch(message.fields["change"])

    def _submit(self, message: Message) -> None:
        try:
            key, left_s = message.fields["key"], message.fields["left_s"]
            job = self._engine.submit(request_from(message), key=key, deadline_s=left_s, promised=True)
        except InpaintError as error:
            self._fail(message.id, error)
            return
        self._jobs[message.id] = job
        job.watch(message.fields["watchers"])
        job.listen(partial(self._on_event, message.id, job))

    def _on_event(self, request_id: int, job: Job, event: Event) -> None:
        """Send an event to the pool; called in the engine's thread."""
        if event.error is not None:
            if event.state == "cancelled" and not job.cancelled:
                self._fail(request_id, ClosedError("the engine's thread ended"))
            else:
                self._fail(request_id, event.error)
        elif event.state == "done":
            self._jobs.pop(request_id, None)
            self._send_stats()  # first, so that the picture is counted before its caller has it
            self._link.send(result_message(request_id, job.result(0), job.request.image))
        elif event.state != "queued":
            fields = {"state": event.state, "step": event.step, "steps": event.steps}
            images = () if event.preview is None else (event.preview,)
            self._link.send(Message("event", request_id, fields, images))

    def _fail(self, request_id: int, error: InpaintError) -> None:
        if isinstance(error, DeviceError | ClosedError):
            # Perhaps another request caused it: the pool finds out which. This is the last message.
            _send_and_exit(self._link, error_message("broken", 0, error), EXIT_BROKEN)
            return
        self._jobs.pop(request_id, None)
        self._send_stats()
        self._link.send(error_message("failed", request_id, error))

    def _send_stats(self) -> None:
        stats = self._engine.stats()
        if stats != self._last_stats:
            self._last_stats = stats
            fields = {"stats": asdict(stats), "profile": self._engine.profile.to_json()}
            self._link.send(Message("stats", fields=fields))


def _send_and_exit(link: Link, message: Message, status: int) -> None:
    link.send(message)
    link.after_sent(lambda: os._exit(status))  # no clean-up: on a failed GPU it could hang


def _read(link: Link, messages: "queue.SimpleQueue[Message]") -> None:
    for message in link.messages():
        messages.put(message)
        del message  # else its pictures stay until the next one comes
    os._exit(0)  # the pool is gone or ends this worker: do not wait for the other threads


def run(fd: int, load: Load = load_engine) -> None:
    """Run a worker until this process ends.

    Args:
        fd: file descriptor of the socket to the pool.
        load: loads the engine.
    """
    prepare_threads()
    link = Link(socket.socket(fileno=fd))
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, messages), name="inpaint-messages", daemon=True).start()
    fields = messages.get().fields
    try:
        engine = load(WorkerSpec(**fields["spec"]), fields["index"], fields["start"])
    except InpaintError as error:
        _send_and_exit(link, error_message("unfit", 0, error), EXIT_UNFIT)
        threading.Event().wait()
        return
    link.send(Message("ready", fields=Engines.of(engine).to_json()))
    _Worker(engine, link).serve(messages)


if __name__ == "__main__":
    run(int(sys.argv[1]))
