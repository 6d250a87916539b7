"""Every error that the server raises on purpose, and the one table from error class to HTTP status.

::

    InpaintError                        inpaint/errors.py; RequestError, BusyError, PaintError …
    └── ServerError                     its text is one sentence for the caller
        ├── UnauthorizedError           401: no key, or a bad one
        ├── ForbiddenError              403: this key may not do that
        ├── NotFoundError               404: unknown, expired, or somebody else's
        ├── CreditsError                406: the balance does not cover the price
        ├── ContentTypeError            406: neither JSON nor multipart
        ├── TooLargeError               413: the body, or a part of it
        ├── UrlError                    422: a URL that we may not or could not fetch
        ├── BadGatewayError             502: the picture's host answered wrongly
        ├── IdempotencyError            422: the same Idempotency-Key with another body
        ├── RateError(retry_after_s)    429: this key, not the server
        ├── BindError                   the address cannot be listened on; before any request
        └── FailedError(status)         an earlier request's failure, told again

A dialect decides the shape of the body; this module knows status and headers alone.
"""

import math
from collections.abc import Mapping

from inpaint.errors import (
    BusyError,
    CancelledError,
    ClosedError,
    DeadlineError,
    DeviceError,
    InpaintError,
    OutOfMemoryError,
    PaintError,
    RequestError,
)


class ServerError(InpaintError):
    """Root of the server's own errors."""


class UnauthorizedError(ServerError):
    """No key, or one that is unknown, expired or revoked."""


class ForbiddenError(ServerError):
    """The key is good, but may not do this."""


class NotFoundError(ServerError):
    """Unknown or expired; somebody else's is answered the same, so that ids cannot be tried."""


class CreditsError(ServerError):
    """The balance does not cover the price."""


class ContentTypeError(ServerError):
    """The body is neither JSON nor multipart."""


class TooLargeError(ServerError):
    """The body or one of its parts is larger than the server reads."""


class UrlError(ServerError):
    """A URL that may not or could not be fetched; one text for all, so that it answers no port scan."""


class BadGatewayError(ServerError):
    """The host of a picture answered, but with something other than a picture."""


class IdempotencyError(ServerError):
    """An ``Idempotency-Key`` came again with another body."""


class RateError(ServerError):
    """This key is over its rate, or has too many requests under way."""

    def __init__(self, problem: str, retry_after_s: float) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class BindError(ServerError):
    """The server cannot listen where it was told to."""


class FailedError(ServerError):
    """How a request failed the first time, for whoever asks again with its ``Idempotency-Key``."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(problem)
        self.status = status


STATUS: Mapping[type[InpaintError], int] = {
    RequestError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    CreditsError: 406,
    ContentTypeError: 406,
    TooLargeError: 413,
    UrlError: 422,
    IdempotencyError: 422,
    CancelledError: 422,
    RateError: 429,
    PaintError: 500,
    BadGatewayError: 502,
    BusyError: 503,
    ClosedError: 503,
    DeviceError: 503,
    OutOfMemoryError: 503,
    DeadlineError: 504,
}

_RETRY_AFTER_S = 5.0  # where the error itself does not know


def status_of(error: InpaintError) -> int:
    """The HTTP status of an error: its own row's, or its nearest ancestor's; 500 for what has none."""
    if isinstance(error, FailedError):
        return error.status
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def headers_of(error: InpaintError) -> dict[str, str]:
    """``Retry-After`` in whole seconds where the status asks for it."""
    if status_of(error) not in (429, 503):
        return {}
    seconds: float = getattr(error, "retry_after_s", _RETRY_AFTER_S)
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
