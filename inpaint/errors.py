"""The errors that the engine raises on purpose, in one tree.

::

    InpaintError                    its text is one sentence for a person who can act on it
    ├── RequestError(field, …)      the caller must change the request
    ├── ModelError                  a model is missing, damaged or unknown; names the command that repairs it
    │   └── LockError               weights.lock itself cannot be trusted
    ├── FetchError                  a download failed; no partial files were left behind
    ├── DeviceError                 the requested device is not available, or it failed
    ├── OutOfMemoryError            the request did not fit even after every fallback
    ├── PaintError                  the model produced something that is not a picture
    ├── OutputError                 a result could not be written
    ├── BusyError(retry_after_s)    refused: there is no room, or it would be too late
    ├── DeadlineError               accepted, but its time ran out
    ├── CancelledError              the caller cancelled the job, or the engine was closed
    └── ClosedError                 the engine is draining or closed

Any other exception is a bug in this package. Only the command line turns errors into exit codes.
"""

import reprlib

_echo = reprlib.Repr()
_echo.maxstring = _echo.maxother = 60
_echo.maxlong, _echo.maxlevel = 40, 2


def shown(value: object) -> str:
    """Return a caller's value as an error shows it: its ``repr``, at most about 60 characters of it."""
    if isinstance(value, str | bytes):
        text = repr(value[:60])
        return text if len(value) <= 60 else f"{text[:-1]}…{text[-1]}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"  # to write it out takes quadratic time
    return _echo.repr(value)


class InpaintError(Exception):
    """The root of all errors raised on purpose; ``str(error)`` is one sentence for a person."""


class RequestError(InpaintError):
    """A request with a field that the caller must change.

    Attributes:
        field: the name of the wrong field of ``InpaintRequest``, or of the wrong option.
        problem: what is wrong and what would be right.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ModelError(InpaintError):
    """A model that is missing, damaged or of an unknown kind."""


class LockError(ModelError):
    """A ``weights.lock`` that breaks one of its own rules, so that no entry of it is trusted."""


class FetchError(InpaintError):
    """A download that did not complete; the target folder is as it was before."""


class DeviceError(InpaintError):
    """A device that is not available on this machine, or that failed."""


class OutOfMemoryError(InpaintError):
    """A request that did not fit into the device's memory even after every fallback."""


class PaintError(InpaintError):
    """A model output that is no picture, such as NaN; it is never returned as success."""


class OutputError(InpaintError):
    """A result that could not be written; no partial file was left behind."""


class BusyError(InpaintError):
    """A request refused before it was started: there is no room, or it could not be finished in time.

    Attributes:
        retry_after_s: seconds after which a new attempt makes sense.
    """

    def __init__(self, problem: str, retry_after_s: float = 5.0) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class DeadlineError(InpaintError):
    """A request that was accepted, but whose time ran out before it was finished."""


class CancelledError(InpaintError):
    """A job that was cancelled before it finished."""


class ClosedError(InpaintError):
    """A request refused because the engine is draining or closed."""
