"""Pictures are freed when their request has ended, not when the garbage collector happens to look.

It looks by the number of objects, and a request has few: 230 MB of a picture of 25 megapixels waited for it,
in the HTTP process and in the worker, so that a server grew to gigabytes.
"""

import gc
import queue
import socket
import weakref
from collections.abc import Iterator

import pytest
from PIL import Image

from inpaint import InpaintRequest, InpaintResult
from inpaint.job import Event, Job
from server.engines.messages import Link, Message
from tests.support.served import (
    FakeEngine,
    Served,
    b64,
    body,
    eventually,
    file_of,
    photo,
    white_box,
)

pytest_plugins = ["tests.support.served_fixtures"]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collection during the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


SIZE = (72, 40)  # of no other test's pictures
ASKED = body(image=b64(file_of(photo(SIZE))), mask=b64(file_of(white_box(SIZE))))


def pictures() -> int:
    return sum(issubclass(type(found), Image.Image) and found.size == SIZE for found in gc.get_objects())


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("path", ["/v1/sdxl-inpaint", "/v2/sdxl-inpaint"])
def test_a_request_that_was_answered_holds_no_picture(path: str, served: Served) -> None:
    """The server's memory is that of the requests under way."""
    engine = served.engine
    assert isinstance(engine, FakeEngine)

    def forget() -> None:
        engine.requests.clear()
        engine.tickets.clear()
        while not engine.submitted.empty():
            engine.submitted.get()

    assert served.client.post(path, json=ASKED).status_code == 200  # what is made once
    eventually(lambda: len(engine.tickets) == 1 and engine.tickets[0].finished)
    served.do(forget)
    eventually(lambda: pictures() == 0)
    for _ in range(3):
        assert served.client.post(path, json=ASKED).status_code == 200
    eventually(lambda: len(engine.tickets) == 3 and all(ticket.finished for ticket in engine.tickets))
    served.do(forget)
    eventually(lambda: pictures() == 0)


@pytest.mark.usefixtures("uncollected")
def test_a_job_that_has_ended_does_not_hold_itself() -> None:
    """A worker listens to each job with a function that knows the job."""
    picture = Image.new("RGB", (16, 16))
    job = Job(InpaintRequest(picture, Image.new("L", (16, 16), 255), "x", seed=1), [1])
    seen: list[tuple[Job, Event]] = []
    job.listen(lambda event, job=job: seen.append((job, event)))  # type: ignore[misc]
    job.finish(InpaintResult([picture], [1], (0, 0, 16, 16)), 1)
    seen.clear()
    gone = weakref.ref(job)
    del job
    assert gone() is None


@pytest.mark.usefixtures("uncollected")
def test_a_link_holds_no_message_that_was_sent() -> None:
    """Its threads wait for the next one, for hours perhaps, and not with the last one's pictures."""
    ours, theirs = socket.socketpair()
    one, other = Link(ours), Link(theirs)
    received: queue.SimpleQueue[Message] = queue.SimpleQueue()
    picture = Image.new("RGB", (16, 16))
    gone = weakref.ref(picture)
    one.send(Message("submit", 1, {}, (picture,)))
    del picture
    messages = other.messages()
    received.put(next(messages))
    eventually(lambda: gone() is None)
    arrived = weakref.ref(received.get().images[0])
    eventually(lambda: arrived() is None)
    one.close()
    assert list(messages) == []
    ours.close()
