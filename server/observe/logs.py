"""The log on stderr: JSON for programs, a short line for people; never keys, prompts, URLs or pictures."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from inpaint.cli.terminal import printable

Form = Literal["auto", "json", "lines"]
_UNSEEN_ROUTES = ("/web/{path:path}", "/livez", "/readyz", "/metrics")  # on a terminal, unless they fail
_Event = MutableMapping[str, Any]


def configure(level: str, form: Form = "auto") -> None:
    """Set up structlog and the standard library's logging; the process's entry point calls it once.

    Args:
        level: the least severe that is shown.
        form: ``json`` (one object per line), ``lines`` for people, or ``auto``: lines on a terminal.
    """
    for_people = form == "lines" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if for_people else "iso", utc=not for_people, key="timestamp"
        ),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            *shared,
            *([_without_files_and_probes] if for_people else []),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                short_line if for_people else structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn's access log writes whole URLs, including queries; our own log has the route instead.
    logging.getLogger("uvicorn.access").disabled = True
    for noisy in ("uvicorn.error", "alembic", "httpx2", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _without_files_and_probes(_: Any, __: str, event: _Event) -> _Event:
    """Drop what a page or a probe asks for all the time, where it went well."""
    if event["event"] == "request" and event["status"] < 400 and event["route"] in _UNSEEN_ROUTES:
        raise structlog.DropEvent
    return event


def short_line(_: Any, __: str, event: _Event) -> str:
    """Return an event as a line, with its traceback below."""
    fields = dict(event)
    time, level, what = (str(fields.pop(key, "")) for key in ("timestamp", "level", "event"))
    traceback = fields.pop("exception", None)
    fields.pop("request_id", None)
    if what == "request":
        words = "{method:<6} {route}  {status}  {ms:.0f} ms".format(ms=1000 * fields["seconds"], **fields)
    elif what == "painted":
        words = "painted {samples} × {width}×{height}, {steps} steps, {seconds:.1f} s".format(**fields)
    else:
        mark = "" if level in ("info", "debug") else f"{level.upper()} "
        words = " ".join((f"{mark}{what}", *(f"{name}={value}" for name, value in fields.items())))
    line = printable(f"{time}  {words}")
    return f"{line}\n{printable(traceback, keep=chr(10))}" if traceback else line
