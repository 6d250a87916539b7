"""Credentials as other programs' clients send them, what an open server makes of them, and who may repeat."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from server.http.origin import OriginCheck
from tests.support.served import FakeEngine, PictureHost, Serve, Served, answer, body, server_for

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2, CREDITS = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint", "/v1/get-user-credits"
MISSING = "Missing Authorization or x-api-key in header"
BAD = "Unauthorized. API key is invalid or may have expired."
Headers = dict[str, str]


def basic(text: str | bytes, scheme: str = "Basic") -> Headers:
    """Return the header of Basic credentials."""
    data = text if isinstance(text, bytes) else text.encode()
    return {"authorization": f"{scheme} {base64.b64encode(data).decode()}"}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Any:
    """Serve with keys; every test creates its own."""
    with server_for(tmp_path_factory.mktemp("locked"), picture_host) as served:
        served.key()
        yield served


TAKEN: dict[str, Callable[[str], Headers]] = {
    "basic, as the password": lambda key: basic(f"user:{key}"),
    "basic, as the password of nobody": lambda key: basic(f":{key}"),
    "basic, as the user": lambda key: basic(f"{key}:"),
    "basic, as the user, without a colon": lambda key: basic(key),
    "basic, in small letters": lambda key: basic(f"user:{key}", "basic"),
    "basic, in capitals": lambda key: basic(f"user:{key}", "BASIC"),
    "basic, after two spaces": lambda key: {
        "authorization": f"Basic  {base64.b64encode(key.encode()).decode()}"
    },
    "api-key, as for Azure": lambda key: {"api-key": key},
    "an empty x-api-key next to a bearer": lambda key: {"x-api-key": "", "authorization": f"Bearer {key}"},
    "an empty x-api-key next to api-key": lambda key: {"x-api-key": "", "api-key": key},
    "api-key next to empty credentials": lambda key: {"api-key": key, "authorization": ""},
    "api-key next to the bare word": lambda key: {"api-key": key, "authorization": "Basic"},
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_key_is_taken_as_clients_send_it(how: str, locked: Served) -> None:
    """A1111's clients know only Basic, Azure's only api-key; some send an empty header with either."""
    headers = TAKEN[how](locked.key())
    assert locked.client.get(CREDITS, headers=headers).status_code == 200
    assert locked.client.post(V1, json=body(), headers=headers).status_code == 200


UNKNOWN: list[Headers] = [
    {"api-key": "wrong"},
    basic("user:wrong"),
    basic("wrong:"),
    basic("wrong"),
    basic("user:inp_0123456789ab_" + "0" * 48),
    basic("user:a:b"),
    basic("user:\0"),
    basic("user:é🔑"),
    basic("x" * 9_000),
]
ABSENT: list[Headers] = [
    {"authorization": ""},
    {"authorization": "Basic"},  # the bare word; spaces at its end are no part of a header
    {"authorization": "Basic !!!"},
    {"authorization": "Basic YQ"},  # its padding is missing
    {"authorization": "Digest username=a"},
    basic(":"),
    basic(b"\xff\xfe:\xff"),
    basic(": "),
    {"api-key": ""},
]


@pytest.mark.parametrize("headers", UNKNOWN, ids=str)
def test_a_key_that_is_unknown_is_refused(headers: Headers, locked: Served) -> None:
    """However it is sent, in the hosted API's words."""
    response = locked.client.post(V1, json=body(), headers=headers)
    assert (response.status_code, response.json()) == (401, {"error": BAD})


@pytest.mark.parametrize("headers", ABSENT, ids=str)
def test_credentials_without_a_key_are_none(headers: Headers, locked: Served) -> None:
    """The sentence says which header a key belongs in, and nothing is a bug."""
    response = locked.client.post(V1, json=body(), headers=headers)
    assert (response.status_code, response.json()) == (401, {"error": MISSING})


def test_a_wrong_password_does_not_make_the_user_a_key(locked: Served) -> None:
    """Only an empty password does: else a key would be taken from where people write their names."""
    assert locked.client.get(CREDITS, headers=basic(f"{locked.key()}:x")).status_code == 401


def test_one_header_is_read_and_not_the_best_of_all(locked: Served) -> None:
    """A proxy that sets one of them must be able to rely on it."""
    key = locked.key()
    for headers in ({"x-api-key": "wrong", "api-key": key}, {"api-key": "wrong"} | basic(f"user:{key}")):
        assert locked.client.get(CREDITS, headers=headers).status_code == 401


@pytest.mark.parametrize("headers", [{}, *UNKNOWN, *ABSENT, {"x-api-key": "wrong"}], ids=str)
def test_an_open_server_ignores_credentials(headers: Headers, served: Served) -> None:
    """Clients send whatever is configured, or an empty header, also where no key is needed."""
    assert served.client.post(V1, json=body(), headers=headers).status_code == 200


def test_an_open_server_takes_the_bare_word_with_a_space(served: Served) -> None:
    """As written by a client whose user has configured neither name nor password."""
    status, _, _ = answer(served.raw(f"GET {CREDITS} HTTP/1.1", "Host: 127.0.0.1", "Authorization: Basic "))
    assert status == 200


# A server called from a container.

CONTAINERS = ["host.docker.internal", "HOST.DOCKER.INTERNAL", "host.containers.internal:8000"]


def called(served: Served, *headers: str) -> tuple[int, dict[str, Any]]:
    status, _, data = answer(served.raw(f"GET {CREDITS} HTTP/1.1", *headers))
    return status, json.loads(data)


@pytest.mark.parametrize("host", CONTAINERS)
def test_a_program_in_a_container_learns_how_to_call(host: str, served: Served, locked: Served) -> None:
    """Most people run these clients in Docker; a plain refusal told them nothing."""
    status, said = called(served, f"Host: {host}")
    assert status == 403
    assert said["error"].startswith(f"{host.lower().partition(':')[0]} is how a container calls this machine")
    assert "inpaint keys create" in said["error"]
    assert "--host 0.0.0.0" in said["error"]
    assert called(locked, f"Host: {host}", f"x-api-key: {locked.key()}")[0] == 200


def test_a_name_that_only_looks_like_a_containers_is_a_strangers(served: Served) -> None:
    """Its refusal must not teach a stranger's page to be let in."""
    status, said = called(served, "Host: host.docker.internal.example.com")
    assert status == 403
    assert "container" not in said["error"]


def test_without_authentication_a_container_is_let_in() -> None:
    """With --no-auth everybody is who can reach the address; nobody can register a name in .internal."""
    for host in ("host.docker.internal:8000", "host.containers.internal"):
        scope = {"type": "http", "scheme": "http", "headers": [(b"host", host.encode())], "client": None}
        OriginCheck().refuse_other_names(Request(scope))


# Who should not call again.


def test_a_client_without_credits_is_told_not_to_repeat(serve: Serve) -> None:
    """OpenAI's SDKs repeat a 429 twice; no credits come of it."""
    served = serve(metering=True, price=1.0)
    with served.calling(key=served.key()) as client:
        for route in (V1, V2):
            response = client.post(route, json=body())
            assert (response.status_code, response.headers["x-should-retry"]) == (406, "false")
            assert "retry-after" not in response.headers


def test_a_client_whose_request_took_too_long_is_told_not_to_repeat(serve: Serve) -> None:
    """It would be painted twice more, and end at the deadline each time."""
    engine = FakeEngine()
    engine.held = True
    response = serve(engine, deadline_s=0.2).client.post(V1, json=body())
    assert (response.status_code, response.headers["x-should-retry"]) == (504, "false")


def test_other_clients_may_repeat(serve: Serve, tmp_path: Path) -> None:
    """A full or starting server and a rate pass; what is wrong with a request is left to its client."""
    starting = serve(FakeEngine(loaded=False), data=tmp_path / "starting").client.post(V1, json=body())
    narrow = serve(rate="1/minute")
    answers = [narrow.client.post(V1, json=fields) for fields in (body(samples=9), body())]
    assert [starting.status_code, *(response.status_code for response in answers)] == [503, 400, 429]
    for response in (starting, *answers):
        assert "x-should-retry" not in response.headers
    assert int(starting.headers["retry-after"]) >= 1
    assert int(answers[1].headers["retry-after"]) >= 1
