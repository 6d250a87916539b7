"""Second attempts: failed UNet calls in halves, out-of-memory alone, and NaN of half precision in fp32."""

from collections.abc import Callable

import torch

from inpaint.batching.batcher import Batch
from inpaint.errors import InpaintError, OutOfMemoryError
from inpaint.lora.spec import LoraUse
from inpaint.model.unet import Forward
from inpaint.runtime.in_flight import InFlight
from inpaint.runtime.precise import in_fp32
from inpaint.runtime.stages import RunningRequest, Stages


class Recovery:
    """Second attempts for the requests of one step loop. It belongs to the loop's thread."""

    def __init__(
        self,
        in_flight: InFlight,
        stages: Stages,
        *,
        call: Callable[[Batch], InpaintError | None],
        end: Callable[[RunningRequest, InpaintError], None],
        settle: Callable[[], None],
    ) -> None:
        """Start without failures.

        Args:
            in_flight: the loop's requests.
            stages: start a row again.
            call: makes one UNet call and returns what went wrong.
            end: ends a request with an error.
            settle: waits until encoding and decoding take no memory on the device.
        """
        self._in_flight = in_flight
        self._stages = stages
        self._call = call
        self._end = end
        self._settle = settle
        self._precise: tuple[tuple[LoraUse, ...], Forward] | None = None  # with these LoRAs

    def step(self, batch: Batch) -> None:
        """Advance rows together; if that fails, in halves, down to the row that fails alone.

        A row that does not fit into memory alone gets one more attempt after encoding and decoding are done.
        After an out-of-memory no more rows than half of the failed batch share a call.
        """
        error = self._call(batch)
        if error is not None and len(batch) > 1:
            self._step_halves(batch, error)
            return
        if isinstance(error, OutOfMemoryError):
            self._settle()  # what is being encoded and decoded takes memory, too
            error = self._call(batch)
        if error is not None:
            self._end(self._in_flight.tasks[batch[0][0]], error)

    def _step_halves(self, batch: Batch, error: InpaintError) -> None:
        half = (len(batch) + 1) // 2
        if isinstance(error, OutOfMemoryError):
            self._in_flight.limit(batch[:half])
        for part in (batch[:half], batch[half:]):
            # A row that took its step before the failure is simply one step ahead of its neighbours.
            # A row is left out if its request has just failed by a sample in the other half.
            rows = [(entry, i) for entry, i in part if entry in self._in_flight.tasks and entry.left[i]]
            if rows:
                self.step(rows)

    def repaint(self, task: RunningRequest, number: int) -> bool:
        """Start a row again in fp32 if half precision gave NaN; return False if that would change nothing."""
        row, in_fp32 = task.row(number), self._stages.model.dtype == torch.float32
        if row.precise or in_fp32 or bool(torch.isfinite(row.latents).all()):
            return False
        self._stages.begin_again(task, number)
        task.decoding.discard(number)
        self._in_flight.add_precise(task, number)
        return True

    def in_fp32(self, uses: tuple[LoraUse, ...]) -> Forward:
        """Return the forward pass of the UNet in fp32, made while its weights have these LoRAs."""
        if self._precise is None or self._precise[0] != uses:
            self._precise = uses, in_fp32(self._stages.model.unet, self._stages.model.device)
        return self._precise[1]
