"""Requests of an attacker who wants to reach the internal network, fill the memory, or paint without paying.

After every test (``unharmed``) nothing must have been dialled, painted, queued or charged, and the memory
that it took must be within the cap. The complete list of URLs is in the fetcher's own tests, slow and endless
bodies are in ``test_body``; these tests show that both routes refuse them.
"""

import json
import socket
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.inpaint.images.test_bombs import DECODE_BOMBS
from tests.support.bad_pictures import BAD_PICTURES, odd_pictures
from tests.support.hostile_urls import HOSTILE, HOSTS, LITERALS, SYNTAX
from tests.support.loopback import Canary
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    Served,
    answer,
    b64,
    body,
    file_of,
    opened,
    white_box,
)
from tests.support.traps import BOMBS, GOOD

pytest_plugins = ["tests.support.served_fixtures", "tests.support.attacked_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
FIELDS = pytest.mark.parametrize("field", ["image", "mask"])
Unharmed = Callable[[], Any]
ROUTES = pytest.mark.parametrize("route", [V1, V2])


def refusal(response: httpx2.Response, *statuses: int) -> str:
    """Check a refusal's status and shape, and return its sentence."""
    assert response.status_code in statuses, response.text[:300]
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


# URLs.

URLS = [*LITERALS[::4], *HOSTS, *SYNTAX]


@FIELDS
@pytest.mark.parametrize("url", URLS, ids=lambda url: ascii(url)[:60])
def test_a_url_that_leads_inside_is_refused_for_free(
    url: str, field: str, caller: httpx2.Client, canary: Canary, unharmed: Unharmed
) -> None:
    """No picture's URL reaches the network that the server is in."""
    url = url.replace(":P", f":{canary.port}")
    response = caller.post(V1, content=json.dumps(body(**{field: url})), headers=JSON)
    refusal(response, 400, 422)


JSON = {"content-type": "application/json"}


@FIELDS
def test_a_url_is_judged_the_same_however_it_is_sent(
    field: str, caller: httpx2.Client, canary: Canary, unharmed: Unharmed
) -> None:
    """Forms and the queue check URLs as v1 does."""
    url = f"http://127.0.0.1:{canary.port}/"
    for route in (V1, V2):
        words = {refusal(caller.post(route, json=body(**{field: url})), 422)}
        words.add(refusal(caller.post(route, data=body(**{field: url}), files={"x": b"x"}), 422))
        alias = {f"{field}Url": url, field: None}
        words.add(refusal(caller.post(route, json=body(**alias)), 422))
        assert len(words) == 1
        assert "127.0.0.1" not in words.pop()


@FIELDS
@pytest.mark.parametrize(
    "value",
    [
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/png,rawbytes",
        "data:;base64,AAAA",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,",
        "@@@ not base64 @@@",
        "AAAA\0AAAA",
        "AAA=AAA=",
        "é" * 1000,
        "\u202eAAAA",
        "",
        " ",
        "null",
        ["http://127.0.0.1/"],
        {"url": "http://127.0.0.1/"},
        7,
        True,
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_what_is_no_picture_is_refused_for_free(
    value: object, field: str, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """A caller learns which of the two fields is wrong."""
    assert field in refusal(caller.post(V1, json=body(**{field: value})), 400)


# Pictures.


@FIELDS
@pytest.mark.parametrize("data", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_bad_picture_is_refused_for_free(
    data: bytes, field: str, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """Any bad file costs one sentence and less than 100 MB."""
    assert refusal(caller.post(V1, json=body(**{field: b64(data)})), 400).startswith(f"{field}: ")
    files = {"image": PHOTO, "mask": MASK} | {field: data}
    for route in (V1, V2):
        assert refusal(caller.post(route, data={"prompt": "x"}, files=files), 400).startswith(f"{field}: ")


@FIELDS
@pytest.mark.parametrize("name", ["a million private chunks", "a million comments", "scans"])
def test_a_file_built_to_be_slow_is_refused_for_free(
    name: str, field: str, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """Each of these files blocked the interpreter for seconds, or a core for minutes."""
    files = {"image": PHOTO, "mask": MASK} | {field: DECODE_BOMBS[name]()}
    assert "too many chunks or scans" in refusal(caller.post(V1, data={"prompt": "x"}, files=files), 400)


@pytest.mark.parametrize("name", odd_pictures())
def test_an_odd_picture_is_painted_and_nothing_rides_along(name: str, metered: Served) -> None:
    """Unusual pictures are no attacks; data hidden in them does not come out again."""
    with metered.calling(key=metered.key(balance=1)) as client:
        asked = body(image=b64(odd_pictures()[name]), output_format="png")
        response = client.post(V1, json=asked)
    assert response.status_code == 200, response.text[:200]
    painted = opened(response.content)
    assert painted.size == SIZE
    assert getattr(painted, "n_frames", 1) == 1
    assert b"script" not in response.content
    assert b"PK\3\4" not in response.content


@pytest.mark.parametrize("mask", [0, 127], ids=["black", "dark grey"])
def test_a_mask_without_white_is_refused_for_free(
    mask: int, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """A caller who inverted the mask's colours is not charged."""
    dark = b64(file_of(Image.new("L", SIZE, mask)))
    assert "nothing to repaint" in refusal(caller.post(V1, json=body(mask=dark)), 400)


@ROUTES
@pytest.mark.parametrize("grey", [1, 7])
def test_a_soft_mask_too_dark_to_repaint_is_refused_for_free(
    route: str, grey: int, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """The engine would refuse it, so nothing is charged or queued for it."""
    faint = b64(file_of(Image.new("L", SIZE, grey)))
    text = refusal(caller.post(route, json=body(mask=faint, soft=True)), 400)
    assert text.startswith("mask: nothing to repaint")
    assert "greys from 8 up count" in text


def test_a_mask_that_is_clear_everywhere_is_refused_for_free(
    caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """White that is fully transparent is not white."""
    clear = b64(file_of(Image.new("LA", SIZE, (255, 0))))
    assert "nothing to repaint" in refusal(caller.post(V1, json=body(mask=clear)), 400)


@pytest.mark.parametrize("size", [(SIZE[0] + 1, SIZE[1]), SIZE[::-1], (16, 16), (512, 512)], ids=str)
def test_a_mask_of_another_size_is_refused_for_free(
    size: tuple[int, int], caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """The error names both sizes."""
    mask = b64(file_of(white_box(size)))
    text = refusal(caller.post(V1, json=body(mask=mask)), 400)
    assert f"{size[0]}×{size[1]}" in text
    assert f"{SIZE[0]}×{SIZE[1]}" in text


# Bodies.


@ROUTES
@pytest.mark.parametrize(("kind", "data"), BOMBS.values(), ids=BOMBS)
def test_a_body_that_is_a_trap_is_refused_for_free(
    kind: str, data: bytes, route: str, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """No body costs more memory than its own size."""
    refusal(caller.post(route, content=data, headers={"content-type": kind}), 400)


def test_of_two_values_the_last_one_counts_everywhere(metered: Served) -> None:
    """A filter in front would be useless if it read one value while the server paints another."""
    twice = '{"prompt": "first", ' + GOOD[1:]
    with metered.calling(key=metered.key(balance=1)) as client:
        assert client.post(V1, content=twice, headers=JSON).status_code == 200
    engine = metered.engine
    assert isinstance(engine, FakeEngine)
    assert engine.requests[-1].prompt == body()["prompt"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "zstd"])
def test_a_compressed_body_is_not_unpacked(encoding: str, caller: httpx2.Client, unharmed: Unharmed) -> None:
    """10 kB that would become 10 GB stay 10 kB."""
    packed = zlib.compress(GOOD.encode(), wbits=31)
    response = caller.post(V1, content=packed, headers={**JSON, "content-encoding": encoding})
    refusal(response, 415)


# Heads.


def _raw(metered: Served, token: str, *lines: str, data: bytes = b"") -> int:
    """Return the status of a hand-written request; 0 if the connection was closed without an answer."""
    connection = metered.raw(*lines, f"x-api-key: {token}", "Host: 127.0.0.1", send=data)
    try:
        return answer(connection)[0]
    except (IndexError, ConnectionError):
        return 0


@pytest.fixture(scope="module")
def token(metered: Served) -> str:
    """Return a key with credits."""
    return metered.key(balance=1)


PATHS = [
    "/v2/requests/../../etc/passwd",
    "/v2/requests/..%2f..%2fetc%2fpasswd",
    "/v2/requests/%2e%2e",
    "/v2/requests/%00",
    "/v2/requests/" + "0" * 31 + "%00",
    "/v2/requests/" + "0" * 32 + "%0a",
    "/v2/requests/" + "0" * 32 + "/",
    "/v2/requests/" + "0" * 32 + "/images/..%2f0",
    "/v2/requests/" + "0" * 32 + "/images/-1",
    "/v2/requests/" + "0" * 32 + "/images/" + "9" * 4000,
    "/v2/requests/" + "0" * 32 + "/images/0?token=%00",
    "/v2/requests/" + "0" * 32 + "/images/0?token=" + "a" * 10_000,
    "/v2/requests/" + "0" * 32 + "/images/0?token=%F0%9F%8E%A8",
    "/v2/requests/%D9%A0" + "0" * 31,
    "/v2/requests/" + "%EF%BC%90" * 32,
    "/v2/requests/" + "A" * 32,
    "/v2/requests/" + "a" * 50_000,
    "/v2/requests/%FF%FE",
    "/v2/requests/%ED%A0%80",
    "/v2/requests/' OR 1=1 --".replace(" ", "%20"),
    "/v1/requests/" + "0" * 33,
    "/v1/../v1/sdxl-inpaint",
    "//v1/sdxl-inpaint",
    "/v1/sdxl-inpaint/",
    "/v1/sdxl-inpaint%00",
    "/v1/%73dxl-inpaint/..",
    "http://127.0.0.1/v2/requests/x",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:60])
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_an_id_is_an_id_and_no_path(
    method: str, path: str, metered: Served, token: str, unharmed: Unharmed
) -> None:
    """Ids lead to files, so only those of requests may be accepted."""
    status = _raw(metered, token, f"{method} {path} HTTP/1.1", "Content-Length: 0")
    assert status in (400, 401, 404, 405, 414, 431)


HEADS: dict[str, list[str]] = {
    "10 000 headers": [f"x-{i}: {i}" for i in range(10_000)],
    "1 MB of header": ["x-a: " + "a" * 10**6],
    "an id that breaks the line": ["x-request-id: a\rb\nSet-Cookie: c=1"],
    "a header without a name": [": a"],
    "a header that is folded": ["x-a: b\r\n c"],
    "a space before the colon": ["x-a : b"],
    "a zero byte": ["x-a: a\0b"],
    "two lengths": ["Content-Length: 5", "Content-Length: 6"],
    "length and chunks": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "chunks, perhaps": ["Transfer-Encoding: xchunked"],
    "a negative length": ["Content-Length: -1"],
    "a length in other digits": ["Content-Length: \xb2"],
    "a length beyond all": ["Content-Length: " + "9" * 400],
    "another protocol": ["Upgrade: h2c", "Connection: Upgrade", "Content-Length: 0"],
}


@pytest.mark.parametrize("lines", HEADS.values(), ids=HEADS)
def test_a_head_that_is_a_trick_is_refused_for_free(
    lines: list[str], metered: Served, token: str, unharmed: Unharmed
) -> None:
    """Headers that two parsers could read differently are refused."""
    head = f"POST {V1} HTTP/1.1", *lines, "Content-Type: application/json"
    status = _raw(metered, token, *head, data=b"0\r\n\r\n")  # the end, where it is read as chunks
    assert status in (0, 400, 406, 411, 413, 414, 431)
    assert metered.client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "value",
    ["\xff\xfe", "'; DROP TABLE requests; --", "../../x", "a" * 20_000, "\t\x0b", "%00", "é"],
    ids=ascii,
)
def test_an_idempotency_key_may_be_any_bytes(value: str, metered: Served) -> None:
    """The key is only compared; it is no path, no query and no log line."""
    token = metered.key(balance=1)
    data = GOOD.encode()
    head = [f"POST {V2} HTTP/1.1", f"Content-Length: {len(data)}", "Content-Type: application/json"]
    connection_ids = set()
    for _ in range(2):
        lines = [*head, f"x-api-key: {token}", "Host: 127.0.0.1", f"Idempotency-Key: {value}"]
        with metered.raw(*lines, send=data) as connection:
            status, _, answered = answer(connection)
        assert status in (200, 400, 431)
        connection_ids.add(json.loads(answered)["request_id"] if status == 200 else str(status))
    assert len(connection_ids) == 1


@ROUTES
def test_an_idempotency_key_has_at_most_200_characters(
    route: str, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """The description says so, and a proxy that shortens headers would make two keys the same."""
    text = refusal(caller.post(route, json=body(), headers={"idempotency-key": "k" * 201}), 400)
    assert text == "Idempotency-Key: must have at most 200 characters"


def test_an_idempotency_key_of_200_characters_is_taken(metered: Served) -> None:
    """The limit itself is allowed."""
    with metered.calling(key=metered.key(balance=1)) as client:
        assert client.post(V2, json=body(), headers={"idempotency-key": "k" * 200}).status_code == 200


def test_thousands_of_idle_connections_keep_no_client_out(metered: Served) -> None:
    """Many open connections that send nothing do not block other clients."""
    idle = [socket.create_connection(("127.0.0.1", metered.port)) for _ in range(300)]
    try:
        for connection in idle[::3]:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: ")
        assert metered.client.get("/livez").status_code == 200
    finally:
        for connection in idle:
            connection.close()


def test_all_of_these_urls_are_in_the_list_that_the_fetcher_is_tested_with() -> None:
    """URLs that are only sampled here are all tested with the fetcher."""
    assert set(URLS) <= set(HOSTILE)
