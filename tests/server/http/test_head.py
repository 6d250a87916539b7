"""HEAD, which uptime monitors, link checkers and ``curl -I`` send."""

import pytest

from tests.server.dialects.test_segmind_v2 import ended, submitted
from tests.support.served import Serve, Served, eventually

pytest_plugins = ["tests.support.served_fixtures"]

VARYING = {"date", "x-request-id"}


def compared(served: Served, path: str) -> int:
    """Check that HEAD is answered as GET is, without the body; return the status."""
    get, head = served.client.get(path), served.client.head(path)
    assert head.status_code == get.status_code
    assert {k: v for k, v in head.headers.items() if k not in VARYING} == {
        k: v for k, v in get.headers.items() if k not in VARYING
    }
    assert head.content == b""
    return get.status_code


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/", "/web/index.html", "/v2/sdxl-inpaint", "/metrics"]
)
def test_head_is_answered_as_get_is(served: Served, path: str) -> None:
    """An uptime monitor sees a healthy server, with the same length and type."""
    eventually(lambda: served.client.get("/readyz").status_code == 200)
    if path == "/metrics":  # their length changes with every request
        assert served.client.head(path).status_code == 200
    else:
        assert compared(served, path) == 200


def test_head_of_a_request_and_its_picture(served: Served) -> None:
    """A client can look at a picture's type and size before it is downloaded."""
    request_id = submitted(served.client)
    answer = ended(served.client, request_id).json()
    for path in (f"/v2/requests/{request_id}", f"/v2/requests/{request_id}/status"):
        assert compared(served, path) == 200
    assert compared(served, answer["images"][0]["url"].removeprefix(served.url)) == 200


def test_head_of_an_error(served: Served) -> None:
    """HEAD reports the status that GET would have."""
    assert compared(served, "/nowhere") == 404
    assert compared(served, "/v2/requests/" + "0" * 32) == 404
    assert served.client.head("/v1/sdxl-inpaint").status_code == 405


def test_head_needs_the_key_that_get_needs(serve: Serve) -> None:
    """HEAD is no way around the key."""
    served = serve()
    served.key()
    assert served.client.head("/metrics").status_code == 401


def test_head_of_an_event_stream_ends(served: Served) -> None:
    """A stream without a body is no stream: nothing is left listening."""
    served.engine.held = True  # type: ignore[attr-defined]
    request_id = submitted(served.client)
    ticket = served.engine.next()  # type: ignore[attr-defined]
    head = served.client.head(f"/v2/requests/{request_id}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    eventually(lambda: not served.server.server_state.tasks)
    assert ticket.watchers == 0
    served.client.delete(f"/v2/requests/{request_id}")


def test_heads_are_counted_under_their_route(served: Served) -> None:
    """An operator's metrics show which route a monitor asks for."""
    before = _count(served)
    assert served.client.head("/livez").status_code == 200
    eventually(lambda: _count(served) == before + 1)


def _count(served: Served) -> float:
    labels = {"route": "/livez", "status": "200"}
    return served.parts.metrics.registry.get_sample_value("inpaint_requests_total", labels) or 0.0
