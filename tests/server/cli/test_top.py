"""``inpaint top`` against real servers: what it shows, what it says when it cannot, and how it ends."""

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from rich.console import Console

from inpaint.cli import main
from inpaint.errors import InpaintError
from server.cli import top
from server.cli.scrape import Figures, Scrape, figures, parse, quantile
from server.cli.top_view import view
from server.engines.client import Health
from server.engines.fleet import Fleet
from tests.support.cli_runs import Done
from tests.support.served import FakeEngine, PictureHost, Serve, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]

V1 = "/v1/sdxl-inpaint"
Top = Callable[..., Done]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs tests may be busy."""
    monkeypatch.setattr(top, "_TIMEOUT_S", 30.0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Top:
    """``inpaint top --once`` at a server, with a short interval."""
    monkeypatch.delenv("INPAINT_KEY", raising=False)

    def once(url: str, *arguments: str, **variables: str) -> Done:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(["top", "--url", url, "--once", "--interval", "0.2", *arguments])
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return once


class Counting(FakeEngine):
    """An engine that says what a test wants it to have done."""

    reported: dict[str, object] = {}  # noqa: RUF012 - replaced, not changed

    def health(self) -> Health:
        return replace(super().health(), **self.reported)  # type: ignore[arg-type]


# What it shows.


def test_several_models_have_a_line_each(serve: Serve, run: Top) -> None:
    """One that is not ready shows, although the server is."""
    demo, beach = Counting(), Counting(loaded=False)
    demo.reported = {"waiting": 3, "running": 2, "backlog_s": 41.0}
    url = serve(Fleet({"demo": demo, "beach": beach}), model="demo,beach").url
    out = run(url).out
    assert "● ready" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["demo", "●", "ready", "3", "2", "41", "s"] in lines
    assert ["beach", "●", "not", "ready", "0", "0", "0", "s"] in lines
    found = json.loads(run(url, "--json").out)["models"]
    assert found["demo"] == {"ready": True, "waiting": 3, "running": 2, "backlog_s": 41.0}
    assert not found["beach"]["ready"]


def test_it_shows_a_server_at_work(serve: Serve, run: Top) -> None:
    """Ready, the queue, and that no request came meanwhile."""
    engine = Counting()
    engine.reported = {"waiting": 3, "running": 2, "backlog_s": 41.0, "restarts": 1, "out_of_memory": 4}
    done = run(serve(engine).url)
    assert (done.code, done.err) == (0, "")
    assert "● ready" in done.out
    for reported in ("3 waiting", "2 running", "41 s backlog", "4 out of memory", "1 restarts"):
        assert reported in done.out
    assert "no requests in the last" in done.out


def test_rates_are_what_happened_between_two_updates(serve: Serve) -> None:
    """By status and route, without the probes and scrapes that looking itself makes."""
    engine = Counting()
    served = serve(engine)
    with top.Server(served.url, None) as server:
        before = server.scrape()
        for _ in range(3):
            assert served.client.post(V1, json=body()).status_code == 200
        assert served.client.post(V1, json=body(scheduler="none")).status_code == 400
        engine.reported = {"row_steps": 60, "unet_calls": 20, "images": 3}
        now = server.scrape()
    seen = figures(replace(now, at=before.at + 2.0), before)
    assert seen.statuses_per_s == {"200": 1.5, "400": 0.5}
    assert seen.routes is not None
    assert list(seen.routes) == [V1]
    assert seen.routes[V1].per_s == 2.0
    assert 0 < seen.routes[V1].p50_s <= seen.routes[V1].p95_s < 10
    assert (seen.pictures_per_s, seen.steps_per_s, seen.rows_a_call) == (1.5, 30.0, 3.0)


def test_json_is_one_object(serve: Serve, run: Top) -> None:
    """For a script that watches in its own way."""
    (seen,) = run(serve().url, "--json").answers
    assert (seen["ready"], seen["state"], seen["waiting"]) == (True, "ready", 0)
    assert seen["window_s"] >= 0.2
    assert set(seen) == {"url", *Figures.__dataclass_fields__}


@pytest.mark.parametrize("width", [40, 60, 120])
def test_a_narrow_terminal_shows_it_all(serve: Serve, run: Top, width: int) -> None:
    """A window next to another one."""
    served = serve()
    with top.Server(served.url, None) as server:
        before = server.scrape()
        assert served.client.post(V1, json=body()).status_code == 200
        seen = figures(server.scrape(), before)
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(view(served.url, seen))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert all(len(line) <= width for line in shown.splitlines()), shown
    for reported in ("waiting", "restarts", "200", "p95", V1):
        assert reported in shown


@pytest.mark.parametrize(
    ("reported", "state"),
    [
        ({"ready": False}, "not ready: nothing has been painted yet; the model is probably being loaded"),
        (
            {"ready": False, "unet_calls": 9},
            "not ready: its engine is unreachable and is being restarted; see the server's log",
        ),
    ],
)
def test_why_a_server_is_not_ready(serve: Serve, run: Top, reported: dict[str, object], state: str) -> None:
    """As far as the API says it."""
    engine = Counting()
    engine.reported = reported
    (seen,) = run(serve(engine).url, "--json").answers
    assert (seen["ready"], seen["state"]) == (False, state)


def test_a_server_that_goes_down_says_so(serve: Serve, run: Top) -> None:
    """Its engine is well, and it takes nothing more."""
    served = serve()
    served.do(setattr, served.running.service, "draining", True)
    (seen,) = run(served.url, "--json").answers
    assert seen["state"] == "shutting down: it finishes what it has and accepts nothing more"
    served.do(setattr, served.running.service, "draining", False)


# What it says when it cannot.


def sentence(done: Done) -> str:
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err.removeprefix("error: ").rstrip()


def test_no_server_is_one_sentence(run: Top) -> None:
    """The commonest case: it is not running, or on another port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = run(url)
    assert done.code == 1
    assert sentence(done) == f"no server answers at {url} (Connection refused); is it running?"


def test_a_server_that_hangs_is_not_waited_for(run: Top, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and no more."""
    monkeypatch.setattr(top, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert done.code == 1
    assert sentence(done).endswith("does not answer within 0.2 s")


def test_another_kind_of_server_is_named_as_such(run: Top, picture_host: PictureHost) -> None:
    """Another program's web server listens on that port."""
    done = run(picture_host.url)
    assert done.code == 1
    assert sentence(done) == (f"{picture_host.url} is not an inpaint server, or a much older version")


@pytest.mark.parametrize("url", ["http://[::", "ftp://here", "http://host:port"])
def test_a_wrong_address_is_a_usage_error(run: Top, url: str) -> None:
    """The sentence has one that is right."""
    done = run(url)
    assert done.code == 2
    assert sentence(done).startswith("--url: must be a server's address such as http://127.0.0.1:8000, not")


def test_keys_are_asked_for_and_judged(serve: Serve, run: Top) -> None:
    """Missing, wrong, without the scope: three sentences; and with it, from the variable as well."""
    served = serve()
    painter, watcher = served.key(), served.key(scopes=("metrics",))
    missing, wrong = run(served.url), run(served.url, "--key", painter[:-1] + "x")
    unfit = run(served.url, "--key", painter)
    assert (missing.code, wrong.code, unfit.code) == (2, 2, 2)
    assert sentence(missing).startswith(
        "--key: this server needs a key, here or in INPAINT_KEY; make one with"
    )
    assert sentence(wrong) == "--key: the key is unknown, revoked or expired"
    assert sentence(unfit).startswith("--key: this key lacks the scope metrics; make one with: inpaint keys")
    assert run(served.url, "--key", watcher).code == 0
    assert run(served.url, INPAINT_KEY=watcher).code == 0


def test_a_proxy_of_the_environment_does_not_get_the_key(serve: Serve, run: Top) -> None:
    """Companies set one for everybody, and it cannot reach 127.0.0.1 either."""
    served = serve()
    assert run(served.url, HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9").code == 0


# How it goes on, and ends.


def test_a_server_that_is_away_for_a_while_is_waited_for(serve: Serve) -> None:
    """A restart is what one watches for."""
    first = serve()
    with top.Server(first.url, None) as server:
        updates = server.updates(0.01, keep_going=True)
        assert isinstance(next(updates), Figures)
        port = first.port
        first.stop()
        assert isinstance(next(updates), InpaintError)
        again = serve(port=port)
        assert isinstance(next(updates), Figures)
        assert again.url == first.url


def test_a_counter_that_began_again_is_no_negative_rate() -> None:
    """What was counted since the restart is what is known."""
    before = Scrape(0.0, True, parse('inpaint_images_total 50\ninpaint_requests_total{status="200"} 60\n'))
    now = Scrape(10.0, True, parse('inpaint_images_total 5\ninpaint_requests_total{status="200"} 80\n'))
    seen = figures(now, before)
    assert (seen.pictures_per_s, seen.statuses_per_s) == (0.5, {"200": 2.0})


def test_the_window_is_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not since the beginning: a server that was quick this morning may be slow now."""
    clock = count(0, 10)
    scrape = lambda _: Scrape(float(next(clock)), True, parse("inpaint_ready 1\n"))  # noqa: E731
    monkeypatch.setattr(top.Server, "scrape", scrape)
    with top.Server("http://127.0.0.1:1", None) as server:
        updates = server.updates(0, keep_going=True)
        windows = [
            seen.window_s for seen, _ in zip(updates, range(6), strict=False) if isinstance(seen, Figures)
        ]
    assert windows == [10, 20, 30, 30, 30, 30]


def command(url: str) -> list[str]:
    return [sys.executable, "-m", "inpaint", "top", "--url", url, "--interval", "0.1"]


def interruptible() -> None:
    """Tests started in the background of a shell inherit a SIGINT that is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_it_with_0(serve: Serve) -> None:
    """It is the way to end it, and no failure; a pipe gets one view after the other."""
    url = serve().url
    with subprocess.Popen(
        command(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    ) as child:
        assert child.stdout is not None
        seen = [line for line, _ in zip(child.stdout, range(20), strict=False) if "● ready" in line]
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=100)
    assert len(seen) >= 2
    assert (child.returncode, err) == (0, "")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_a_terminal_is_left_as_it_was(serve: Serve, terminal: tuple[int, int]) -> None:
    """It draws on the second screen, which goes away with it."""
    ours, theirs = terminal
    url = serve().url
    variables = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    child = subprocess.Popen(
        command(url), stdin=theirs, stdout=theirs, stderr=theirs, env=variables, preexec_fn=interruptible
    )
    os.close(theirs)
    shown = b""

    def drawn() -> bool:
        nonlocal shown
        shown += os.read(ours, 65_536)
        return "● ready".encode() in shown

    try:
        eventually(drawn)
        child.send_signal(signal.SIGINT)
        try:
            while data := os.read(ours, 65_536):
                shown += data
        except OSError:  # the other end is closed
            pass
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
    assert b"\x1b[?1049h" in shown
    assert shown.rstrip().endswith(b"\x1b[?1049l")
    assert b"Traceback" not in shown


def test_help_needs_neither_http_nor_the_server() -> None:
    """`inpaint --help` lists it, and loads nothing for it."""
    late = "{'httpx2', 'server', 'rich.live', 'prometheus_client'}"
    code = f"import sys, inpaint.cli.app; sys.exit(', '.join({late} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# Reading the text format.


@given(st.dictionaries(st.text(max_size=8), st.floats(0, 1e9), max_size=5))
def test_it_reads_what_prometheus_writes(values: dict[str, float]) -> None:
    """Backslashes, quotes, line breaks and any other character in a label."""
    registry = CollectorRegistry()
    counter = Counter("requests", "By path.", ("path",), registry=registry)
    for path, value in values.items():
        counter.labels(path).inc(value)
    series = parse(generate_latest(registry).decode())
    assert series.get("requests_total", {}) == {
        frozenset({("path", path)}): value for path, value in values.items()
    }


@pytest.mark.parametrize(
    "text", ["", "<html>", "a b c", "x{ 1", "x one", "x{a=1} 2 3 4", "# TYPE", "x{=T{<} 1"]
)
def test_what_is_no_scrape_is_no_series(text: str) -> None:
    """Of any server's answer to anybody."""
    assert parse(text) == {}


@pytest.mark.parametrize(
    ("share", "seconds"),
    [(0.2, 0.5), (0.4, 1.0), (0.6, 3.0), (0.8, 5.0), (0.99, 5.0)],
)
def test_quantiles_are_promqls(share: float, seconds: float) -> None:
    """10 within 1 s, 10 more within 5 s, and 5 beyond the last bound, which is then all that is known."""
    buckets = [(1.0, 10.0), (5.0, 20.0), (inf, 25.0)]
    assert quantile(buckets, share) == pytest.approx(seconds)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any), st.floats(0.01, 0.99))
def test_a_quantile_lies_within_its_bucket(counts: list[int], share: float) -> None:
    """Never beyond the bounds, never falling with the share."""
    bounds = [*(float(2**i) for i in range(len(counts) - 1)), inf]
    buckets = [(bound, float(sum(counts[: i + 1]))) for i, bound in enumerate(bounds)]
    found = quantile(buckets, share)
    assert 0 <= found <= bounds[-2]
    assert quantile(buckets, share / 2) <= found


def test_json_lines_hold_errors_too(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads them learns that no server answers."""
    top._print("http://here", InpaintError("no server answers"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"url": "http://here", "error": "no server answers"}
    top._print("http://here", InpaintError("no server answers"), as_json=False)
    assert capsys.readouterr().out == "http://here  ● no answer\nno server answers\n"
