"""Injected faults, with which the handling of real ones is tested.

Faults are an argument, ``Engine(model, faults=…)``. The module reads no environment variable, so that no
setting can cause a fault in production.

Notation: ``kind@N`` happens at UNet call N, ``kind@N+`` at every call from N on. ``:prompt=WORD`` counts and
hits only calls with a row whose prompt contains the word (a request that fails on every engine). ``:start=K``
limits it to a worker's K-th process (a fault that a restart repairs). Several are separated by commas::

    oom@3,assert@5,nan@2,hang@4,exit@6:start=1,sigkill@1+:prompt=poison
"""

import os
import re
import signal
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, cast, get_args

from inpaint.errors import RequestError

if TYPE_CHECKING:  # the server's supervisor parses faults, and must not import torch
    from inpaint.model.row import Row

Kind = Literal["oom", "assert", "nan", "hang", "exit", "sigkill"]
KINDS: tuple[str, ...] = get_args(Kind)
EXIT_STATUS = 70

_NOTATION = re.compile(
    r"(?P<kind>\w+)@(?P<call>[1-9]\d*)(?P<onwards>\+?)"
    r"(?::start=(?P<start>[1-9]\d*))?(?::prompt=(?P<prompt>[^,:]+))?"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at one UNet call, or from one call on."""

    kind: Kind
    call: int  # counted from 1, over the calls that it could hit
    onwards: bool = False  # also at every later call
    start: int | None = None  # only in the worker's process of this number, counted from 1
    prompt: str = ""  # only in calls with a row whose prompt contains this


class Faults:
    """The faults of one engine, with a count of its UNet calls so far."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        self._calls = [0] * len(self.faults)

    @classmethod
    def parse(cls, text: str, *, start: int = 1) -> Self:
        """Parse the faults that ``text`` names for a worker's process number ``start``.

        Raises:
            RequestError: the text is not in the notation of this module.
        """
        named = [_parse(part.strip()) for part in text.split(",") if part.strip()]
        return cls(fault for fault in named if fault.start in (None, start))

    def before_call(self, rows: Sequence[tuple[str, "Row"]]) -> None:
        """Cause the faults of the next UNet call, which has these (prompt, row) pairs."""
        for i, fault in enumerate(self.faults):
            hit = [row for prompt, row in rows if fault.prompt in prompt]
            if not hit:
                continue
            self._calls[i] += 1
            if self._calls[i] == fault.call or (fault.onwards and self._calls[i] > fault.call):
                _cause(fault.kind, hit[0])


def _parse(text: str) -> Fault:
    found = _NOTATION.fullmatch(text)
    if found is None or found["kind"] not in KINDS:
        raise RequestError(
            "faults", f"must be like oom@3 or exit@6:start=1, with one of {', '.join(KINDS)}, not {text!r}"
        )
    start = None if found["start"] is None else int(found["start"])
    kind = cast("Kind", found["kind"])
    return Fault(kind, int(found["call"]), bool(found["onwards"]), start, found["prompt"] or "")


def _cause(kind: Kind, row: "Row") -> None:
    if kind == "hang":
        threading.Event().wait()  # never set: this thread is lost, as in a kernel that never ends
    elif kind == "exit":
        os._exit(EXIT_STATUS)  # without clean-up, as when a native library aborts
    elif kind == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        _fail_in_torch(kind, row)


def _fail_in_torch(kind: Kind, row: "Row") -> None:
    import torch

    if kind == "oom":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")
    if kind == "assert":
        raise torch.AcceleratorError("CUDA error: device-side assert triggered (injected)")
    row.latents = torch.full_like(row.latents, torch.nan)
