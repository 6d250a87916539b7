"""The Krita plugin's client, without Krita: against a whole server in this process, and against odd ones."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from inpaint.errors import PaintError
from inpaint.integrations.krita.sdxl_inpaint import painting as painting_module
from inpaint.integrations.krita.sdxl_inpaint.client import Event, Problem, Server, Unreachable, sentence
from inpaint.integrations.krita.sdxl_inpaint.painting import ENDED, Painting, State
from tests.support.http_server import serving
from tests.support.served import (
    MASK,
    PATIENCE_S,
    PHOTO,
    FakeEngine,
    Serve,
    Served,
    colour_of,
    eventually,
    opened,
    photo,
    white_box,
)

pytest_plugins = ["tests.support.served_fixtures"]

FIELDS = {"image": PHOTO, "mask": MASK, "prompt": "ein “blaues” ♥\n, groß", "seed": 7, "output_format": "png"}


def ended(painting: Painting) -> State:
    """Wait for the end."""
    painting.join(PATIENCE_S)
    assert painting.state.phase in ENDED
    return painting.state


def test_a_selection_is_painted(served: Served) -> None:
    """The form reaches the server as it was meant, and each picture comes back with its seed."""
    state = ended(Painting(Server(f" {served.url}/ "), {**FIELDS, "samples": 2}).start())
    assert (state.phase, state.text) == ("done", "Done.")
    assert [seed for seed, _ in state.pictures] == [7, 8]
    inside = np.asarray(white_box()) > 0
    for seed, file in state.pictures:
        painted = np.asarray(opened(file).convert("RGB"))
        assert np.array_equal(painted[~inside], np.asarray(photo())[~inside])
        assert (painted[inside] == colour_of(seed)).all()
    assert isinstance(served.engine, FakeEngine)
    assert served.engine.requests[-1].prompt == FIELDS["prompt"]


def test_progress_is_seen_step_by_step(serve: Serve) -> None:
    """The painter watches the steps, and a preview of the picture."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine)
    painting = Painting(Server(served.url), FIELDS).start()
    ticket = engine.next()
    eventually(lambda: ticket.watchers)
    served.do(engine.step, ticket, 3)
    eventually(lambda: painting.state.step == 3)
    assert painting.state.text == f"Painting: step 3 of {ticket.request.steps_to_run}."
    assert opened(painting.state.preview).size == (4, 4)
    served.do(engine.paint, ticket)
    assert ended(painting).phase == "done"


def test_cancel_frees_the_painter_and_the_server(serve: Serve) -> None:
    """Neither waits for the other, and what comes later is not shown."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine)
    painting = Painting(Server(served.url), FIELDS).start()
    ticket = engine.next()
    eventually(lambda: painting.state.phase == "waiting" and ticket.watchers)
    painting.cancel()
    assert painting.state == State("cancelled", "Cancelled.")
    eventually(lambda: ticket.finished)
    assert ended(painting).phase == "cancelled"


def test_what_the_server_could_not_paint_is_its_sentence(serve: Serve) -> None:
    """The reason of a failure, as the server says it."""
    engine = FakeEngine()
    engine.failures.append(PaintError("the picture came out black"))
    state = ended(Painting(Server(serve(engine).url), FIELDS).start())
    assert state == State("failed", "The picture came out black.")


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"strength": "0"}, "strength: "), ({"seed": "blue"}, "seed: "), ({"mask": PHOTO[:40]}, "mask: ")],
)
def test_a_field_that_must_change_is_named(served: Served, fields: dict[str, object], text: str) -> None:
    """The docker's rows have the same names, or near ones."""
    state = ended(Painting(Server(served.url), {**FIELDS, **fields}).start())
    assert state.phase == "failed"
    assert state.text.startswith(text)
    assert state.text.endswith(".")


def test_a_key_is_sent_and_a_wrong_one_is_explained(serve: Serve) -> None:
    """A server with keys refuses callers without one."""
    served = serve()
    key = served.key()
    for wrong in ("", "sk-wrong"):
        state = ended(Painting(Server(served.url, wrong), FIELDS).start())
        assert state.phase == "failed"
        assert "key" in state.text
    assert ended(Painting(Server(served.url, f" {key} "), FIELDS).start()).phase == "done"


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "file:///etc/passwd", "http://", "http://a:b", "http://ä"]
)
def test_an_address_that_is_none_is_a_sentence(url: str) -> None:
    """Above all no file of the painter's own machine."""
    with pytest.raises(Problem, match="address must be like"):
        Server(url)


def test_no_server_is_a_sentence_that_says_what_to_do() -> None:
    """The most frequent mistake: the server was not started."""
    with pytest.raises(Unreachable, match="start the server with `inpaint serve`"):
        Server("http://127.0.0.1:9").answer("r1")


@pytest.fixture
def another() -> Iterator[Callable[..., str]]:
    """Status, headers and body → the address of a server that gives this answer to everybody."""
    open_ones = []

    def start(status: int, body: bytes = b"", **headers: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = serving(Handler)
        open_ones.append(server)
        return f"http://127.0.0.1:{server.__enter__()}"

    yield start
    for server in open_ones:
        server.__exit__(None, None, None)


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, b"[]"), (200, b"{}"), (404, b"no"), (404, b'{"detail": 1}')]
)
def test_another_program_at_that_address_is_a_sentence(
    answer: tuple[int, bytes], another: Callable[..., str]
) -> None:
    """A1111, ComfyUI and others listen on similar ports."""
    with pytest.raises(Problem, match="is not an sdxl-inpaint server"):
        Server(another(*answer)).answer("r1")


def test_the_key_is_not_sent_on_by_a_redirect(another: Callable[..., str]) -> None:
    """A server could send the painter's key to any other host."""
    target = another(200, b'{"images": []}')
    with pytest.raises(Problem, match="HTTP 302"):
        Server(another(302, Location=target), "secret").answer("r1")


def test_half_an_answer_is_a_sentence(another: Callable[..., str]) -> None:
    """A connection that breaks is no crash of the plugin."""
    with pytest.raises(Problem, match="There is no answer"):
        Server(another(200, b"{", **{"Content-Length": "100"})).answer("r1")


class Scripted(Server):
    """A server whose event streams are given; ``calls`` holds what it was asked."""

    def __init__(self, *streams: list[Event | Exception]) -> None:
        super().__init__("http://127.0.0.1:9")
        self.streams, self.calls = list(streams), []  # type: ignore[var-annotated]
        self.door = threading.Event()
        self.door.set()

    def submit(self, fields: object) -> str:
        self.door.wait(PATIENCE_S)
        return "r1"

    def events(self, request_id: str) -> Iterator[Event]:
        for event in self.streams.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event

    def answer(self, request_id: str) -> dict[str, object]:
        return {"images": [{}], "seeds": [3], "warnings": ["A warning."]}

    def picture(self, request_id: str, number: int) -> bytes:
        return b"file"

    def cancel(self, request_id: str) -> None:
        self.calls.append(request_id)


def test_a_server_that_is_restarted_finishes_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accepted request is painted by the next server; the painter need not press again."""
    monkeypatch.setattr(painting_module, "PAUSE_S", 0.0)
    step = Event("step", {"step": 1, "steps": 2, "preview": None})
    server = Scripted([step, Unreachable("gone")], [Unreachable("gone")], [], [step, Event("done", {})])
    state = ended(Painting(server, {}).start())
    assert state == State("done", "Done. A warning.", pictures=((3, b"file"),))


def test_a_server_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute the painter is told."""
    monkeypatch.setattr(painting_module, "PAUSE_S", 0.0)
    server = Scripted(*[[Unreachable("There is no answer.")] for _ in range(60)])
    assert ended(Painting(server, {}).start()) == State("failed", "There is no answer.")
    assert not server.streams


def test_what_is_cancelled_while_it_is_sent_is_cancelled_at_the_server_too() -> None:
    """A large picture takes seconds to send, and nobody wants to pay for it then."""
    server = Scripted()
    server.door.clear()
    painting = Painting(server, {}).start()
    painting.cancel()
    server.door.set()
    assert ended(painting).phase == "cancelled"
    assert server.calls == ["r1"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_the_plugin_ends_it_as_well() -> None:
    """The docker must not wait for ever; the traceback goes to Krita's terminal."""
    server = Scripted([Event("step", {})])
    assert ended(Painting(server, {}).start()).text.startswith("The plugin made a mistake")


def test_a_servers_sentence_reads_like_one() -> None:
    """A field keeps its name; other sentences begin with a capital, and all end with a full stop."""
    assert sentence("the key is wrong") == "The key is wrong."
    assert sentence("seed: must be a number") == "seed: must be a number."
    assert sentence("Which one?") == "Which one?"
