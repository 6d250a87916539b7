"""Every error that the engine raises on purpose, in one tree.

::

    InpaintError                    its text is one sentence for a person who can act on it
    ├── RequestError(field, …)      the caller must change the request
    ├── ModelError                  a model is missing, damaged or unknown; names the mending command
    │   └── LockError               weights.lock itself cannot be trusted
    ├── FetchError                  the hub did not deliver; nothing half-written was left behind
    ├── DeviceError                 the device asked for is not there
    ├── OutOfMemoryError            did not fit even after every fallback
    ├── PaintError                  the model produced something that is not a picture
    ├── OutputError                 a result could not be written
    ├── BusyError(retry_after_s)    not taken: there is no room, or it could not be in time
    ├── DeadlineError               taken, but its time ran out
    ├── CancelledError              somebody called Job.cancel
    └── ClosedError                 the engine is draining or closed

Anything else that escapes is a bug of ours. Only the command line turns errors into exit codes.
"""


class InpaintError(Exception):
    """Root of every error raised on purpose; ``str(error)`` is one sentence for a person."""


class RequestError(InpaintError):
    """The caller must change the request.

    ``field`` is the name of the ``InpaintRequest`` field at fault, ``problem`` says what would be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ModelError(InpaintError):
    """A model is missing, damaged or of an unknown kind."""


class LockError(ModelError):
    """``weights.lock`` breaks one of its own rules, so nothing in it is trusted."""


class FetchError(InpaintError):
    """A download did not complete; the target folder is as it was before."""


class DeviceError(InpaintError):
    """The device asked for is not available on this machine."""


class OutOfMemoryError(InpaintError):
    """The request did not fit into the device's memory even after every fallback."""


class PaintError(InpaintError):
    """The model produced NaN or another non-picture, which is never returned as success."""


class OutputError(InpaintError):
    """A result could not be written; nothing half-written was left behind."""


class BusyError(InpaintError):
    """Not taken, because there is no room or because it could not be finished in time; nothing was begun."""

    def __init__(self, problem: str, retry_after_s: float = 5.0) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class DeadlineError(InpaintError):
    """The request was taken, but its time ran out before it was finished."""


class CancelledError(InpaintError):
    """The job was cancelled before it finished."""


class ClosedError(InpaintError):
    """The engine is draining or closed and takes no more requests."""
