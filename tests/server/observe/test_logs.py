"""The log: JSON for programs, one short line a request for the person at the terminal."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

_PROGRAM = """
import logging, sys, structlog
from server.observe.logs import configure
configure("INFO", *sys.argv[1:])
log = structlog.get_logger()
log.info("request", method="POST", route="/v1/sdxl-inpaint", status=200, seconds=1.2345)
log.info("request", method="GET", route="/web/{path:path}", status=200, seconds=0.001)
log.info("request", method="GET", route="/readyz", status=503, seconds=0.001)
log.info("painted", request="x", samples=2, width=512, height=384, steps=22, seconds=3.21)
log.warning("no heartbeat", error="the\\x1b[31m database")
logging.getLogger("other").error("a foreign line")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("bug", exc_info=error)
"""
Log = Callable[..., list[str]]


def piped(*form: str) -> list[str]:
    """The lines of a log that goes into a pipe."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *form], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def on_terminal(*form: str) -> list[str]:
    """The lines of a log on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, *form], stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not part:
                break
            said += part
        assert process.wait() == 0
    os.close(ours)
    return said.decode().splitlines()


@pytest.mark.parametrize(("log", "form"), [(piped, ()), (piped, ("json",)), (on_terminal, ("json",))])
def test_programs_get_json(log: Log, form: tuple[str, ...]) -> None:
    """Whatever collects the log reads each line; nothing is left out."""
    lines = [json.loads(line) for line in log(*form)]
    assert [line["event"] for line in lines] == [
        "request", "request", "request", "painted", "no heartbeat", "a foreign line", "bug",
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", lines[0]["timestamp"])
    assert (lines[3]["steps"], lines[3]["width"]) == (22, 512)


@pytest.mark.parametrize(("log", "form"), [(on_terminal, ()), (piped, ("lines",))])
def test_people_get_a_short_line_a_request(log: Log, form: tuple[str, ...]) -> None:
    """Time, method, route, status, milliseconds; the page's own files and healthy probes are left out."""
    first, probe, painted, warning, foreign, bug, *traceback = (line[8:].strip() for line in log(*form))
    assert first == "POST   /v1/sdxl-inpaint  200  1234 ms"
    assert probe == "GET    /readyz  503  1 ms"
    assert painted == "painted 2 × 512×384, 22 steps, 3.2 s"
    assert warning == "WARNING no heartbeat error=the?[31m database"
    assert foreign == "ERROR a foreign line"
    assert bug == "ERROR bug"
    assert traceback[-1].endswith("division by zero")
