"""What programs in browsers may read, and what careless clients are told."""

import gzip
import json

import httpx2
import pytest

from tests.server.dialects.test_segmind_v2 import submitted
from tests.support.served import Serve, Served, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
PAGE = "http://localhost:3000"
# A browser shows these to a page in any case, by the Fetch standard; those of OTHERS are not for pages.
SHOWN = {
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
}
OTHERS = {"date", "server", "vary", "x-content-type-options", "content-security-policy", "referrer-policy",
"connection",
          "transfer-encoding", "allow", "accept-encoding"}  # fmt: skip


@pytest.fixture
def named(serve: Serve) -> Served:
    """Serve with one page of another site allowed."""
    served = serve(cors_origins=(PAGE,))
    eventually(lambda: served.client.get("/readyz").status_code == 200)
    return served


def exposed(response: httpx2.Response) -> set[str]:
    """Return the headers that a page may read."""
    return {name.strip().lower() for name in response.headers["access-control-expose-headers"].split(",")}


ASKED = {
    "a picture": ("POST", V1, {}),
    "base64": ("POST", V1, {"base64": True}),
    "near": ("POST", V1, {"pace": "near"}),
    "a wrong field": ("POST", V1, {"strength": 5}),
    "queued": ("POST", V2, {}),
    "the offer": ("GET", V2, {}),
    "credits": ("GET", "/v1/get-user-credits", {}),
    "no such route": ("GET", "/nowhere", {}),
    "no such request": ("GET", "/v2/requests/" + "0" * 32, {}),
    "a wrong method": ("PUT", V1, {}),
}


@pytest.mark.parametrize("what", ASKED)
def test_a_page_may_read_every_header_of_ours(what: str, named: Served) -> None:
    """The seed, the warnings and the credits are in headers alone."""
    method, path, fields = ASKED[what]
    sent = {"json": body(**fields)} if method == "POST" else {}
    response = named.client.request(method, path, headers={"origin": PAGE}, **sent)  # type: ignore[arg-type]
    ours = {name for name in response.headers if not name.startswith("access-control")} - SHOWN - OTHERS
    assert ours <= exposed(response)
    assert "x-request-id" in ours
    if what == "a picture":
        assert {"x-seed-value", "x-output-metadata", "x-remaining-credits"} <= ours


def test_a_page_may_read_when_to_try_again(serve: Serve) -> None:
    """A refusal for the rate says for how long."""
    served = serve(cors_origins=(PAGE,), rate="1/hour")
    answers = [served.client.post(V1, json=body(), headers={"origin": PAGE}) for _ in range(2)]
    assert answers[-1].status_code == 429
    assert "retry-after" in answers[-1].headers
    assert "retry-after" in exposed(answers[-1])


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3001", "https://localhost:3000"]
)
def test_other_pages_read_nothing(origin: str, named: Served) -> None:
    """No header, and no answer."""
    response = named.client.post(V1, json=body(), headers={"origin": origin})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    assert named.client.options(V1, headers=preflight).status_code == 400


@pytest.mark.parametrize("wanted", ["content-type,x-api-key", "idempotency-key", "authorization"])
def test_the_preflight_of_a_named_page(wanted: str, named: Served) -> None:
    """A browser asks before it sends JSON or a key."""
    preflight = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": wanted,
    }
    response = named.client.options(V1, headers=preflight)
    assert response.status_code == 200
    assert wanted in response.headers["access-control-allow-headers"]


@pytest.mark.parametrize("path", [f"/{V1}", f"/{V2}", f"//{V1}", "/v1//sdxl-inpaint"])
def test_two_slashes_are_explained(path: str, named: Served) -> None:
    """A base URL that ends with a slash is the most frequent mistake of clients."""
    status, sentence = raw(named, path)
    assert status == 404
    assert sentence == (
        "there is no such route or model: its path has two slashes in a row; perhaps the base URL ends with "
        "one"
    )


def raw(served: Served, path: str) -> tuple[int, str]:
    """Post to a path as it is: clients tidy paths up."""
    from tests.support.served import answer

    data = json.dumps(body()).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    )
    status, _, found = answer(served.raw(*lines, send=data))
    return status, json.loads(found).get("error", "")


@pytest.mark.parametrize(
    "path", ["/V1/sdxl-inpaint", "/sdxl-inpaint", "/v1/sdxl-inpainting", f"/v1{V1}", f"{V1}/"]
)
def test_another_wrong_path_is_404(path: str, named: Served) -> None:
    """Without the hint, which would be wrong there."""
    assert raw(named, path) == (404, "there is no such route or model")


PACKED = {
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "br": bytes,
    "deflate": bytes,
    "gzip, identity": gzip.compress,
    "zstd": bytes,
}


@pytest.mark.parametrize("route", [V1, V2, "/v2/info", "/v2/picture", "/v2/select", "/v2/erase"])
@pytest.mark.parametrize("coding", PACKED)
def test_a_compressed_body_is_415_and_says_so(coding: str, route: str, named: Served) -> None:
    """``is not valid JSON`` was said of JSON."""
    headers = {"content-type": "application/json", "content-encoding": coding}
    data = PACKED[coding](json.dumps(body()).encode())
    response = named.client.post(route, content=data, headers=headers)
    assert response.status_code == 415
    assert response.json()["error"].startswith("Content-Encoding: ")
    assert response.json()["error"].endswith("is not read here; send the body uncompressed")
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "Identity", "IDENTITY", ""])
def test_a_body_that_is_said_to_be_uncompressed_is_read(coding: str, named: Served) -> None:
    """Some clients say so."""
    headers = {"content-type": "application/json", "content-encoding": coding}
    assert named.client.post(V1, content=json.dumps(body()), headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/livez", V2, "/web/index.html"])
def test_head_is_200_for_monitors(path: str, named: Served) -> None:
    """An uptime monitor takes 405 for an outage."""
    response = named.client.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_a_queued_request_is_followed_by_a_page(named: Served) -> None:
    """Its status and its events carry the same headers."""
    request_id = submitted(named.client)
    for path in (f"/v2/requests/{request_id}", f"/v2/requests/{request_id}/status"):
        response = named.client.get(path, headers={"origin": PAGE})
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in exposed(response)
