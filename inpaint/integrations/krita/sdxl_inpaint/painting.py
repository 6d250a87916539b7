"""A request on its way: sent, followed and fetched in a thread, while Krita goes on."""

from __future__ import annotations

import base64
import threading
from contextlib import suppress
from typing import Mapping, NamedTuple

from .client import Event, Problem, Server, Unreachable, sentence

ENDED = ("done", "failed", "cancelled")
PAUSE_S = 1.0  # before an event stream that broke off is opened again
_ATTEMPTS = 60  # a server that is restarted goes on with what it accepted


class State(NamedTuple):
    """The state of a request as far as it is known.

    Attributes:
        phase: ``sending``, ``waiting``, ``painting``, ``fetching``, and one of ``ENDED``.
        text: a sentence for the painter.
        step: steps done, of ``steps``; both are 0 while that is unknown.
        preview: a small PNG of the picture so far, or empty.
        pictures: when it is done, the painted PNG files, each with its seed.
    """

    phase: str
    text: str
    step: int = 0
    steps: int = 0
    preview: bytes = b""
    pictures: tuple[tuple[int, bytes], ...] = ()


class Painting:
    """A request to a server; ``state`` may be read at any time, from any thread."""

    def __init__(self, server: Server, fields: Mapping[str, object]) -> None:
        self.state = State("sending", "Sending the picture…")
        self._server, self._fields = server, fields
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._request_id = ""
        self._thread = threading.Thread(target=self._run, name="sdxl-inpaint", daemon=True)

    def start(self) -> Painting:
        """Begin, and return it."""
        self._thread.start()
        return self

    def cancel(self) -> None:
        """End it now for the painter; the server is told in a thread, so that nobody waits for it."""
        self._become(State("cancelled", "Cancelled."))
        self._cancelled.set()
        with self._lock:
            request_id = self._request_id
        if request_id:
            threading.Thread(target=self._tell, args=(request_id,), daemon=True).start()

    def join(self, timeout_s: float) -> None:
        """Wait until its thread has ended."""
        self._thread.join(timeout_s)

    def _become(self, state: State) -> None:
        """Take a new state; what has ended stays as it ended."""
        with self._lock:
            if self.state.phase not in ENDED:
                self.state = state

    def _run(self) -> None:
        try:
            self._paint()
        except Problem as problem:
            self._become(State("failed", str(problem)))
        finally:  # a mistake of this plugin; Krita shows its traceback where it was started
            self._become(
                State("failed", "The plugin made a mistake; start Krita in a terminal to see which.")
            )

    def _paint(self) -> None:
        request_id = self._server.submit(self._fields)
        with self._lock:
            self._request_id = request_id
        if self._cancelled.is_set():  # while it was sent
            self._tell(request_id)
            return
        self._become(State("waiting", "Waiting for the server."))
        if not self._follow(request_id):
            return
        self._become(State("fetching", "Fetching the picture…"))
        answer = self._server.answer(request_id)
        files = [self._server.picture(request_id, number) for number in range(len(answer["images"]))]
        text = " ".join(["Done.", *answer.get("warnings", ())])
        self._become(State("done", text, pictures=tuple(zip(answer["seeds"], files))))

    def _follow(self, request_id: str) -> bool:
        """Return True when it is painted, False when it was cancelled."""
        for _ in range(_ATTEMPTS):
            try:
                for event in self._server.events(request_id):
                    if self._cancelled.is_set():
                        return False
                    if event.name == "done":
                        return True
                    self._become(_state_of(event))
            except Unreachable as error:
                lost: Problem = error
            else:
                lost = Problem("The server stopped before the picture was finished.")
            if self._cancelled.wait(PAUSE_S):
                return False
        raise lost

    def _tell(self, request_id: str) -> None:
        with suppress(Problem):  # it ended, or the server did
            self._server.cancel(request_id)


def _state_of(event: Event) -> State:
    data = event.data
    if event.name == "queued":
        ahead = int(data["position"])
        return State("waiting", f"Waiting; {ahead} before this one." if ahead else "Waiting; the next one.")
    if event.name == "step":
        step, steps = int(data["step"]), int(data["steps"])
        preview = base64.b64decode(str(data["preview"] or "").partition(",")[2])
        return State("painting", f"Painting: step {step} of {steps}.", step, steps, preview)
    raise Problem(sentence(str(data.get("error") or "the server could not paint this")))
