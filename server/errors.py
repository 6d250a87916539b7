"""Every error that the server raises on purpose, and the one table from error class to HTTP status.

::

    InpaintError                        inpaint/errors.py; RequestError, BusyError, PaintError …
    └── ServerError                     its text is one sentence for the caller
        ├── UnauthorizedError           401: no key, or an invalid one
        ├── ForbiddenError              403: this key may not do that
        ├── NotFoundError               404: unknown, expired, or another key's
        ├── CreditsError                406: the balance does not cover the price
        ├── ContentTypeError            406: neither JSON nor multipart
        ├── TooLargeError               413: the body, or a part of it
        ├── EncodingError               415: a compressed body
        ├── UrlError                    422: a URL that may not or could not be fetched
        ├── BadGatewayError             502: the picture's host did not send a picture
        ├── IdempotencyError            422: the same Idempotency-Key with another body
        ├── RateError(retry_after_s)    429: a limit of this key, not of the server
        ├── BindError                   the server cannot listen on its address; before any request
        └── FailedError(status)         the failure of an earlier request, repeated

``ModelError`` is 422: a request gets it only for a LoRA that it names and that cannot be used. A model that
cannot be loaded keeps the server from being ready.

A dialect decides the shape of the body; this module knows only status and headers.
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
    LockError,
    ModelError,
    OutOfMemoryError,
    PaintError,
    RequestError,
)


class ServerError(InpaintError):
    """The root of the server's own errors."""


class UnauthorizedError(ServerError):
    """There is no key, or it is unknown, expired or revoked."""


class ForbiddenError(ServerError):
    """The key is valid, but may not do this."""


class NotFoundError(ServerError):
    """It is unknown, expired, or another key's; all look the same, so ids cannot be guessed."""


class CreditsError(ServerError):
    """The balance does not cover the price."""


class ContentTypeError(ServerError):
    """The body is neither JSON nor multipart."""


class TooLargeError(ServerError):
    """The body or one of its parts, the field ``field``, is larger than the server reads."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field


class EncodingError(ServerError):
    """The body is compressed."""


class UrlError(ServerError):
    """A URL may not or could not be fetched; the text is the same for both, so it answers no port scan."""


class BadGatewayError(ServerError):
    """The host of a picture answered, but not with a picture."""


class IdempotencyError(ServerError):
    """An ``Idempotency-Key`` was used again with another body."""


class RateError(ServerError):
    """This key made too many requests, or has too many under way; it may retry after ``retry_after_s``."""

    def __init__(self, problem: str, retry_after_s: float) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class BindError(ServerError):
    """The server cannot listen on its address."""


class FailedError(ServerError):
    """The failure of an earlier request, for a retry with the same ``Idempotency-Key``."""

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
    EncodingError: 415,
    ModelError: 422,
    UrlError: 422,
    IdempotencyError: 422,
    CancelledError: 422,
    RateError: 429,
    LockError: 500,
    PaintError: 500,
    BadGatewayError: 502,
    BusyError: 503,
    ClosedError: 503,
    DeviceError: 503,
    OutOfMemoryError: 503,
    DeadlineError: 504,
}

_RETRY_AFTER_S = 5.0  # for errors without their own


def status_of(error: InpaintError) -> int:
    """Return the HTTP status of an error: that of its class or nearest ancestor in ``STATUS``, else 500."""
    if isinstance(error, FailedError):
        return error.status
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def headers_of(error: InpaintError) -> dict[str, str]:
    """Return the headers that say whether and how to try again.

    ``Retry-After``, in whole seconds, for 429 and 503; ``Accept-Encoding`` for 415; ``x-should-retry`` where
    the same request would fail again.
    """
    if isinstance(error, EncodingError):
        return {"Accept-Encoding": "identity"}  # RFC 9110, section 12.5.3
    if isinstance(error, CreditsError | DeadlineError):
        return {"x-should-retry": "false"}  # OpenAI's SDKs would send it twice more, painting each time
    if status_of(error) not in (429, 503):
        return {}
    seconds: float = getattr(error, "retry_after_s", _RETRY_AFTER_S)
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
