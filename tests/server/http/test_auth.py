"""Authentication: keys, scopes, the server without keys, and what headers, metrics and logs may reveal."""

import asyncio
import json
import logging
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import pytest
import structlog
from starlette.requests import Request

from inpaint.errors import OutOfMemoryError
from server.errors import ForbiddenError
from server.http.middleware import RequestMiddleware
from server.http.origin import OriginCheck
from server.observe.metrics import Metrics
from tests.support.dialects import way_of
from tests.support.served import (
    MASK,
    PHOTO,
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    answer,
    b64,
    body,
    eventually,
    server_for,
)

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
OPEN = {"/livez", "/readyz", "/", "/web/{path:path}"}
MISSING = "Missing Authorization or x-api-key in header"
BAD = "Unauthorized. API key is invalid or may have expired."


def routes_of(app: Any) -> list[tuple[str, str]]:
    """Return (method, path) of every route of the application, nested ones included."""
    found = []
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found += routes_of(inner)
        elif hasattr(route, "methods"):
            found += [(method, route.path) for method in route.methods or ()]
        else:
            pytest.fail(f"a route that this test cannot walk: {route!r}")
    return found


def filled(path: str) -> str:
    known = {"{request_id}": "0" * 32, "{number}": "0", "{path:path}": "index.html"}
    for name, value in known.items():
        path = path.replace(name, value)
    return path


def test_every_route_but_health_and_the_page_asks_for_a_key(serve: Serve) -> None:
    """A route that is added tomorrow is tested the day it is added."""
    served = serve()
    served.key()
    routes = routes_of(served.app)
    assert len(routes) >= 12
    assert {path for _, path in routes} >= OPEN
    for method, path in routes:
        response = served.client.request(method, filled(path))
        if path in OPEN:
            assert response.status_code == 200, path
        else:
            assert (path, response.status_code) == (path, 401)
            if method != "HEAD":
                assert way_of(path).said(response.json()) == MISSING


def test_every_route_of_the_dialect_is_walked(serve: Serve) -> None:
    """The test above must not pass because it found no routes."""
    paths = {path for _, path in routes_of(serve().app)}
    assert {V1, V2, "/v1/requests/{request_id}", "/v2/requests/{request_id}/events", "/metrics"} <= paths
    assert "/v2/requests/{request_id}/images/{number}" in paths


WRONG_KEYS = [
    {"x-api-key": "wrong"},
    {"x-api-key": "inp_0123456789ab_" + "0" * 48},
    {"x-api-key": "é"},
    {"x-api-key": "x" * 10_000},
    {"authorization": "Bearer wrong"},
    {"authorization": "bearer wrong"},
]
NO_KEYS = [{}, {"x-api-key": ""}, {"authorization": "Basic abc"}, {"authorization": "Bearer"}]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Any:
    """Serve with keys; every test creates its own."""
    with server_for(tmp_path_factory.mktemp("locked"), picture_host) as served:
        served.key()
        yield served


@pytest.mark.parametrize("headers", WRONG_KEYS, ids=str)
def test_a_bad_key_is_refused_in_the_hosted_apis_words(locked: Served, headers: dict[str, str]) -> None:
    """Clients show the hosted API's sentence to their users."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    response = locked.client.post(V1, json=body(), headers=raw)
    assert (response.status_code, response.json()) == (401, {"error": BAD})


@pytest.mark.parametrize("headers", NO_KEYS, ids=str)
def test_a_missing_key_is_refused_in_the_hosted_apis_words(locked: Served, headers: dict[str, str]) -> None:
    """The hosted API's sentence says which header a key belongs in."""
    response = locked.client.post(V1, json=body(), headers=headers)
    assert (response.status_code, response.json()) == (401, {"error": MISSING})


def test_both_headers_take_the_key(locked: Served) -> None:
    """A key may come in the hosted API's own header or in the standard one."""
    token = locked.key()
    for headers in (
        {"x-api-key": token},
        {"Authorization": f"Bearer {token}"},
        {"authorization": f"bearer {token}"},
    ):
        assert locked.client.post(V1, json=body(), headers=headers).status_code == 200


def test_one_wrong_letter_opens_nothing(locked: Served) -> None:
    """Neither does one key's id with another key's secret."""
    token, other = locked.key(), locked.key()
    flipped = token[:-1] + ("0" if token[-1] != "0" else "1")
    mixed = "_".join([*token.split("_")[:2], other.split("_")[2]])
    for wrong in (flipped, mixed, token[:-1], token + "0", token.upper()):
        assert locked.client.get("/v1/get-user-credits", headers={"x-api-key": wrong}).status_code == 401


def test_a_key_stops_working_when_it_is_revoked_or_expires(locked: Served) -> None:
    """A revoked key is refused immediately, without a restart."""
    token = locked.key()
    with locked.calling(key=token) as client:
        assert client.get("/v1/get-user-credits").status_code == 200
        locked.parts.keys.revoke(token.split("_")[1])
        assert client.get("/v1/get-user-credits").json() == {"error": BAD}
    _, expired = locked.parts.keys.create("old", expires_at=time.time() - 1)
    assert locked.client.get("/v1/get-user-credits", headers={"x-api-key": expired}).status_code == 401


def test_a_key_without_the_models_scope_is_403(locked: Served) -> None:
    """The key is valid, but for something else."""
    with locked.calling(key=locked.key(scopes=("metrics",))) as client:
        for path in (V1, V2):
            response = client.post(path, json=body())
            assert (response.status_code, response.json()) == (
                403,
                {"error": "this key may not use sdxl-inpaint"},
            )


def test_no_body_is_read_before_its_key(locked: Served) -> None:
    """A body of 60 MB without a key costs us nothing: it is refused before it is read."""
    head = ("POST /v1/sdxl-inpaint HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    assert answer(locked.raw(*head, "Content-Length: 50000000"))[0] == 401


# The server without keys.

OURS = ["127.0.0.1", "localhost", "LOCALHOST", "127.0.0.1:8000", "[::1]", "[::1]:9", "127.9.9.9"]
FOREIGN = ["example.com", "evil.localhost.example.com", "10.0.0.1", "localhost.", "a!b.example.com"]
FOREIGN += ["example.com:99999", "[", "a b", "127.0.0.1.example.com", "0.0.0.0", "127.0.0.1:99999"]
FOREIGN += ["evil.example@127.0.0.1", "127.0.0.1/evil.example", "127.0.0.1?x", "127.0.0.1#x", "127.0.0.1:"]


def asked(served: Served, *headers: str) -> tuple[int, dict[str, str], bytes]:
    return answer(served.raw("GET /v1/get-user-credits HTTP/1.1", *headers))


@pytest.mark.parametrize("host", OURS)
def test_an_open_server_answers_its_own_machine(served: Served, host: str) -> None:
    """A user can try the server without creating a key."""
    assert asked(served, f"Host: {host}")[0] == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_an_open_server_refuses_another_hosts_name(served: Served, host: str) -> None:
    """A web page whose host name resolves to 127.0.0.1 must not paint here, however odd the name."""
    status, _, data = asked(served, f"Host: {host}")
    assert status == 403
    assert "inpaint keys create" in json.loads(data)["error"]


ORIGINS = ["https://example.com", "null", "http://localhost.example.com", "http://[", "http://127.0.0.2", ""]


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_open_server_refuses_another_sites_page(served: Served, origin: str) -> None:
    """A form on any web page can send requests here from a visitor's browser."""
    assert asked(served, "Host: 127.0.0.1", f"Origin: {origin}")[0] == 403
    response = served.client.post(
        V1,
        data={"prompt": "x"},
        files={"image": PHOTO, "mask": MASK},
        headers={"origin": "https://example.com"},
    )
    assert response.status_code == 403


def test_an_open_server_answers_its_own_pages(served: Served) -> None:
    """A page that the server itself served sends the server's own origin."""
    assert asked(served, "Host: 127.0.0.1:5", "Origin: http://127.0.0.1:5")[0] == 200
    assert (
        asked(served, "Host: LOCALHOST", "Origin: http://localhost", "Sec-Fetch-Site: same-origin")[0] == 200
    )
    assert asked(served, "Host: [::1]:80", "Origin: http://[::1]")[0] == 200


@pytest.mark.parametrize("origin", ["http://127.0.0.1:6", "https://127.0.0.1:5", "http://localhost:5"])
def test_an_open_server_refuses_the_page_of_another_server_on_this_machine(
    served: Served, origin: str
) -> None:
    """Every notebook and preview here is such a page: another port, another scheme, another name."""
    assert asked(served, "Host: 127.0.0.1:5", f"Origin: {origin}")[0] == 403


@pytest.mark.parametrize("relation", ["cross-site", "same-site", "odd"])
def test_an_open_server_heeds_what_the_browser_says_of_the_page(served: Served, relation: str) -> None:
    """A page can leave the origin out of some requests, and not this header."""
    assert asked(served, "Host: 127.0.0.1", f"Sec-Fetch-Site: {relation}")[0] == 403
    assert asked(served, "Host: 127.0.0.1", "Sec-Fetch-Site: none")[0] == 200


FORWARDED = ["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https"]
FORWARDED += ["Forwarded: for=127.0.0.1", "Via: 1.1 proxy", "X-Real-IP: 127.0.0.1", "CF-Connecting-IP: ::1"]
FORWARDED += ["X-Forwarded-Host: localhost", "True-Client-IP: 127.0.0.1", "X-Forwarded-For:"]


@pytest.mark.parametrize("header", FORWARDED)
def test_an_open_server_refuses_what_came_through_a_proxy(served: Served, header: str) -> None:
    """A proxy on this machine connects from loopback, under any name; its clients are anywhere."""
    status, _, data = asked(served, "Host: 127.0.0.1", header)
    assert status == 403
    assert "inpaint keys create" in json.loads(data)["error"]


@pytest.mark.parametrize(
    ("client", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.7", False), ("", False)],
)
def test_an_open_server_refuses_another_machines_connection(client: str, allowed: bool) -> None:
    """Whatever ``Host`` the other machine writes."""
    headers = [(b"host", b"localhost")]
    request = Request({"type": "http", "scheme": "http", "headers": headers, "client": (client, 5)})
    with nullcontext() if allowed else pytest.raises(ForbiddenError):
        OriginCheck().refuse_other_machines(request)


def test_health_is_answered_under_any_host_name(served: Served) -> None:
    """A probe may use any host name."""
    status, _, data = answer(served.raw("GET /livez HTTP/1.1", "Host: pod-7.cluster.local"))
    assert (status, data) == (200, b"ok")


def test_the_first_key_locks_the_server_without_a_restart(serve: Serve) -> None:
    """A key that an operator creates is required from then on, also after the last one is revoked."""
    served = serve()
    assert served.client.get("/v1/get-user-credits").status_code == 200
    token = served.key()
    assert served.client.get("/v1/get-user-credits").status_code == 401
    served.parts.keys.revoke(token.split("_")[1])
    assert served.client.get("/v1/get-user-credits").status_code == 401


def test_no_auth_lets_every_client_in(serve: Serve) -> None:
    """The operator chose so with --no-auth, even if keys exist, and behind a proxy, too."""
    served = serve(no_auth=True, public_url="https://paint.example.org/api")
    served.key()
    for host in ("10.0.0.5:8000", "[fd00::5]", "gpu-box", "gpu.local:8000", "paint.example.org"):
        assert asked(served, f"Host: {host}", "X-Forwarded-For: 203.0.113.9")[0] == 200, host
    assert asked(served, "Host: paint.example.org", "Origin: https://paint.example.org")[0] == 200


def test_no_auth_lets_no_other_sites_page_in(serve: Serve) -> None:
    """A page that a person opens must not paint, nor read under a name that was made to lead here."""
    served = serve(no_auth=True, allowed_hosts=("Paint.example.net",))
    assert asked(served, "Host: 10.0.0.5", "Origin: https://example.org")[0] == 403
    assert asked(served, "Host: 10.0.0.5", "Sec-Fetch-Site: cross-site")[0] == 403
    status, _, data = asked(served, "Host: evil.example", "Origin: http://evil.example")
    assert status == 403
    assert "INPAINT_ALLOWED_HOSTS" in json.loads(data)["error"]
    assert asked(served, "Host: paint.example.net", "Origin: http://paint.example.net")[0] == 200


def test_a_site_that_the_operator_names_may_call(serve: Serve) -> None:
    """CORS is off by default and can be allowed by a setting."""
    served = serve(cors_origins=("https://app.example.com",))
    for origin, status, allowed in (
        ("https://app.example.com", 200, True),
        ("https://example.org", 403, False),
    ):
        response = served.client.get("/v1/get-user-credits", headers={"origin": origin})
        assert response.status_code == status
        assert ("access-control-allow-origin" in response.headers) == allowed
    preflight = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    assert served.client.options(V1, headers=preflight).status_code == 200


def test_without_the_setting_there_is_no_cors_header(served: Served) -> None:
    """The server sends no CORS header at all."""
    response = served.client.get("/livez", headers={"origin": "http://127.0.0.1"})
    assert not [name for name in response.headers if name.startswith("access-control")]


# Headers of every answer, metrics and logs.


def test_every_answer_keeps_browsers_careful(served: Served) -> None:
    """Pictures, errors, health checks and internal errors carry the same security headers."""
    assert isinstance(served.engine, FakeEngine)
    paths = ("/livez", "/nothing", "/metrics", "/openapi.json", "/", "/web/nothing.js")
    answers = [served.client.get(path) for path in paths]
    answers += [served.client.post(V1, json=fields) for fields in (body(), {}, body(samples=99))]
    answers += [served.client.post(V1, content=b"x"), served.client.put(V1)]
    served.engine.failures.append(RuntimeError("a bug"))
    answers.append(served.client.post(V1, json=body()))
    assert answers[-1].status_code == 500
    for response in answers:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["x-request-id"]
        assert "server" not in response.headers


def test_a_bug_in_the_middle_of_an_answer_cuts_it_off() -> None:
    """Half a picture followed by an error's text would be worse than a broken connection."""

    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    async def send(message: Any) -> None:
        sent.append(message["type"])

    sent: list[str] = []
    app = RequestMiddleware(breaks, Metrics(), lambda _: pytest.fail("a second answer"))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        asyncio.run(app({"type": "http", "method": "GET", "headers": []}, None, send))  # type: ignore[arg-type]
    assert sent == ["http.response.start"]


def test_a_stored_picture_is_private_and_never_html(served: Served) -> None:
    """A browser must not guess another type for bytes that an unknown client chose."""
    request_id = served.client.post(V2, json=body()).json()["request_id"]
    path = f"/v2/requests/{request_id}"
    eventually(lambda: served.client.get(path).json().get("output"))
    response = served.client.get(served.client.get(path).json()["output"])
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"].startswith("private")


def test_metrics_need_their_scope(locked: Served) -> None:
    """The metrics reveal how much other keys paint."""
    with locked.calling(key=locked.key()) as client:
        assert client.get("/metrics").status_code == 403
    with locked.calling(key=locked.key(scopes=("metrics",))) as client:
        assert client.get("/metrics").status_code == 200


NAMES = [
    'inpaint_requests_total{route="/v1/sdxl-inpaint",status="200"}',
    'inpaint_requests_total{route="/v1/sdxl-inpaint",status="400"}',
    'inpaint_requests_total{route="unknown",status="404"}',
    'inpaint_requests_total{route="/v2/requests/{request_id}/status",status="404"}',
    'inpaint_request_seconds_count{route="/v1/sdxl-inpaint"}',
    'inpaint_stage_seconds_count{stage="fetch"}',
    'inpaint_stage_seconds_count{stage="read"}',
    'inpaint_stage_seconds_count{stage="encode"}',
    'inpaint_stage_seconds_count{stage="denoise"}',
    'inpaint_stage_seconds_count{stage="decode"}',
    'inpaint_stage_seconds_count{stage="write"}',
    "inpaint_queue_wait_seconds_count",
    "inpaint_images_total",
    "inpaint_steps_total",
    "inpaint_ready",
    "inpaint_waiting",
    "inpaint_running",
    "inpaint_backlog_seconds",
    "inpaint_restarts_total",
    "inpaint_row_steps_total",
    "inpaint_unet_calls_total",
    "inpaint_out_of_memory_total",
]


def test_metrics_have_the_names_that_dashboards_use(served: Served) -> None:
    """Ids are never part of a label: they would fill the memory of Prometheus."""
    served.client.post(V1, json=body(samples=2))
    served.client.post(V1, json={})
    served.client.get("/somewhere/else")
    served.client.get(f"/v2/requests/{'0' * 32}/status")
    eventually(lambda: all(name in served.client.get("/metrics").text for name in NAMES))
    response = served.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "0" * 32 not in response.text
    assert "somewhere" not in response.text


def test_the_description_of_the_api_holds_its_body_and_needs_a_key(served: Served, locked: Served) -> None:
    """Generators of clients read it."""
    found = served.client.get("/openapi.json").json()
    assert "InpaintBody" in found["components"]["schemas"]
    assert V1 in found["paths"]
    assert locked.client.get("/openapi.json").status_code == 401


def test_logs_hold_no_key_no_prompt_and_no_url(
    serve: Serve, picture_host: PictureHost, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs are shipped elsewhere and kept for long; even for a failure they name only the request."""
    served = serve()
    assert isinstance(served.engine, FakeEngine)
    token = served.key()
    secret = token.split("_")[2]
    picture = picture_host.put("/secret-path.png", PHOTO) + "?signature=secret-query"
    gone = f"{picture_host.url}/secret-gone.png?signature=secret-query"
    served.engine.failures += [OutOfMemoryError("too large"), RuntimeError("a bug")]
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events, served.calling(key=token) as client:
        words = {"prompt": "secret-prompt", "negative_prompt": "secret-negative", "image": picture}
        statuses = [client.post(V1, json=body(**words)).status_code for _ in range(3)]
        statuses.append(client.post(V1, json=body(**words, samples=99)).status_code)
        statuses.append(client.post(V1, json=body(**words | {"image": gone})).status_code)
        statuses.append(client.post(V1, json=body(**words | {"image": f"{gone} x"})).status_code)
        request_id = client.post(V2, json=body(**words)).json()["request_id"]
        client.post(V2, json=body(**words), headers={"Idempotency-Key": "secret-idempotency"})
        eventually(lambda: client.get(f"/v2/requests/{request_id}").json().get("output"))
        output = client.get(f"/v2/requests/{request_id}").json()["output"]
        client.get(output)
        client.get("/v1/get-user-credits?prompt=secret-query")
        served.client.get("/v1/get-user-credits", headers={"x-api-key": token + "x"})
    assert statuses == [503, 500, 200, 400, 502, 422]
    assert {event["event"] for event in events} >= {"request", "bug"}
    everything = repr(events) + caplog.text.replace(str(served.settings.data), "")
    own_client = [line for line in everything.splitlines() if "HTTP Request:" in line]  # the test's own
    for line in own_client:
        everything = everything.replace(line, "")
    for private in ("secret-", secret, output.partition("token=")[2], b64(PHOTO)[:40]):
        assert private not in everything, private


def test_the_api_process_imports_no_torch() -> None:
    """The HTTP process has no GPU and must start in a second."""
    code = "import sys, server.app, server.uvicorn_server, server.start; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
