"""Request bodies that are slow, endless, nested, or not what their content type says."""

import asyncio
import json
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request

from inpaint.errors import RequestError
from server.dialects.segmind import digest_of
from server.http.body import Fields, parse_fields
from server.service.threads import Threads
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
    file_of,
    server_for,
    white_box,
)

pytest_plugins = ["tests.support.served_fixtures"]

V1 = "/v1/sdxl-inpaint"
HEAD = (f"POST {V1} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
CAP = 200_000


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Serve with a small cap on bodies and a short deadline for them."""
    data = tmp_path_factory.mktemp("narrow")
    with server_for(data, picture_host, max_body_bytes=CAP, body_timeout_s=0.3) as served:
        yield served


# How much, and for how long.


def test_a_body_that_does_not_arrive_is_400_in_time(narrow: Served) -> None:
    """The connection is closed as well, else the rest of the body could arrive a byte at a time for ever."""
    started = time.monotonic()
    connection = narrow.raw(*HEAD, "Content-Length: 1000", send=b'{"image":')
    status, headers, data = answer(connection)
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(data)["error"] == "body: did not arrive within 0.3 seconds"
    assert time.monotonic() - started < 20


def test_a_body_that_drips_is_400_in_time(narrow: Served) -> None:
    """The deadline is for the whole body, not for each read."""
    connection = narrow.raw(*HEAD, "Content-Length: 100000")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert answer(connection)[0] == 400
    stop.set()
    dripping.join()


def test_a_body_that_breaks_off_disturbs_no_other_client(narrow: Served) -> None:
    """The server answers other clients as before."""
    narrow.raw(*HEAD, "Content-Length: 1000", send=b'{"image":').close()
    assert narrow.client.post(V1, json=body()).status_code == 200


def test_a_body_said_to_be_too_large_is_not_waited_for(narrow: Served) -> None:
    """The answer comes before the body's first byte."""
    status, _, data = answer(narrow.raw(*HEAD, f"Content-Length: {CAP + 1}"))
    assert status == 413
    assert "at most" in json.loads(data)["error"]


def test_a_body_of_unknown_length_is_cut_at_the_cap(narrow: Served) -> None:
    """Chunked bodies declare no length, so their bytes are counted."""
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 50 * CAP:
            sent += 10_000
            yield b"x" * 10_000

    response = narrow.client.post(V1, content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert narrow.client.post(V1, json=body()).status_code == 200


def test_a_body_at_the_cap_is_read(narrow: Served) -> None:
    """A body of exactly the largest size is accepted, chunked or not."""
    padded = json.dumps(body()).encode()
    padded += b" " * (CAP - len(padded))
    headers = {"content-type": "application/json"}
    assert narrow.client.post(V1, content=padded, headers=headers).status_code == 200
    assert narrow.client.post(V1, content=iter([padded]), headers=headers).status_code == 200
    assert narrow.client.post(V1, content=padded + b" ", headers=headers).status_code == 413


def test_a_text_field_of_a_form_may_be_as_large_as_the_body(served: Served) -> None:
    """The framework's parser stops at 1 MB; pictures as base64 in a form are larger."""
    size = (700, 600)
    noise = Image.frombytes("RGB", size, random.Random(1).randbytes(3 * 700 * 600))
    form = {"image": b64(file_of(noise)), "mask": b64(file_of(white_box(size))), "prompt": "x"}
    assert len(form["image"]) > 1_600_000
    assert served.client.post(V1, data=form, files={"_": b""}).status_code == 200


# JSON.


@pytest.mark.parametrize(
    "text", ['{"a":' * 100_000, "[" * 100_000, '{"image":' + "[" * 5000 + "]" * 5000 + "}"]
)
def test_deeply_nested_json_is_400(served: Served, text: str) -> None:
    """Deep nesting must not crash the parser."""
    response = served.client.post(V1, content=text, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"].startswith("body:")


@pytest.mark.parametrize("field", ["seed", "loras", "unknown"])
@pytest.mark.parametrize("size", [0, 20_000])  # the larger body is parsed in a thread, whose stack is another
def test_json_is_at_most_32_deep(served: Served, field: str, size: int) -> None:
    """Code that calls itself over a caller's lists ended at Python's limit, with status 500."""
    for depth, allowed in ((31, True), (32, False), (500, False), (960, False)):
        for value in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            text = f'{json.dumps(body())[:-1]}, "{field}": {value}, "pad": "{"x" * size}"}}'
            response = served.client.post(V1, content=text, headers={"content-type": "application/json"})
            if allowed and field == "unknown":
                assert response.status_code == 200
                continue
            assert response.status_code == 400
            assert response.json()["error"].startswith("body: is nested deeper") == (not allowed)


@pytest.mark.parametrize("unit", ["[],", "{},", '"",', "1,"])
def test_millions_of_tiny_values_cost_no_memory(unit: str) -> None:
    """60 MB of empty lists would be 1.3 GB once parsed, so they are counted first."""
    text = f'{{"x":[{unit * 2_000_000}0]}}'.encode()
    tracemalloc.start()
    with pytest.raises(RequestError, match="too many values"):
        asyncio.run(_parsed("application/json", text))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_prompt_full_of_commas_is_text(served: Served) -> None:
    """The limit on values must not hit what people write."""
    assert served.client.post(V1, json=body(prompt="a, [b], " * 1000)).status_code == 200


@pytest.mark.parametrize("number", ["1" * 5000, "-" + "9" * 400, "1e999999"])
def test_a_huge_number_is_400(served: Served, number: str) -> None:
    """Python would take long to parse it, or make it infinite."""
    text = json.dumps(body()).replace('"seed": 7', f'"seed": {number}')
    response = served.client.post(V1, content=text, headers={"content-type": "application/json"})
    assert response.status_code == 400


def test_a_huge_wrong_value_is_named_in_a_short_sentence(served: Served) -> None:
    """An error never sends a caller's megabytes back."""
    for value in ("x" * 5_000_000, list(range(10_000)), {"a": "x" * 100_000}):
        text = served.client.post(V1, json=body(samples=value)).json()["error"]
        assert text.startswith("samples: must be a whole number from 1 to 4, not ")
        assert len(text) < 150
        assert text.endswith("a list") == isinstance(value, list)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_json_in_another_unicode_encoding_is_read_or_refused(served: Served, encoding: str) -> None:
    """No encoding causes a 500."""
    text = json.dumps(body(prompt="é")).encode(encoding)
    response = served.client.post(V1, content=text, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400)


# Forms.

FORM = "multipart/form-data; boundary=b"


def part(name: str, value: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers, "", ""]
    return b"--b\r\n" + "\r\n".join(lines).encode() + value + b"\r\n"


BROKEN = [
    ("multipart/form-data", b"--b\r\n"),
    ("multipart/form-data; boundary=", b"--b--\r\n"),
    ("multipart/form-data; boundary=" + "b" * 5000, b"x"),
    ("multipart/form-data; boundary=\xff", b"x"),
    (FORM, b"no boundary here"),
    (FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
    (FORM, b"--b\r\n\r\nx\r\n--b--\r\n"),
    (FORM, b"--b\r\nbroken\r\n\r\n"),
    (FORM, b"".join(part(f"f{i}", b"x") for i in range(65)) + b"--b--\r\n"),
    (FORM + "; charset=punycode", part("prompt", b"x") + b"--b--\r\n"),
    (FORM + "; charset=undefined", part("prompt", b"x") + b"--b--\r\n"),
]


@pytest.mark.parametrize(("kind", "data"), BROKEN)
def test_a_broken_form_is_400(served: Served, kind: str, data: bytes) -> None:
    """The error is one sentence, like every other."""
    headers = [(b"content-type", kind.encode("latin-1"))]
    response = served.client.post(V1, content=data, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"].startswith("body:")


def test_a_form_cut_off_in_the_middle_is_no_request(served: Served) -> None:
    """Half a picture must not be painted."""
    assert isinstance(served.engine, FakeEngine)
    whole = part("prompt", b"x") + part("mask", b64(MASK).encode()) + part("image", b64(PHOTO).encode())
    response = served.client.post(V1, content=whole[:-20], headers={"content-type": FORM})
    assert response.status_code == 400
    assert served.engine.requests == []


def test_a_form_field_may_be_any_text(served: Served) -> None:
    """Text is read as UTF-8 whether or not the form declares it; other bytes cause no 500."""
    assert isinstance(served.engine, FakeEngine)
    pictures = part("image", b64(PHOTO).encode()) + part("mask", b64(MASK).encode())
    for kind in (FORM, FORM + "; charset=utf-8", FORM + "; charset=UTF-8"):
        data = pictures + part("prompt", "Ümläut".encode()) + b"--b--\r\n"
        assert served.client.post(V1, content=data, headers={"content-type": kind}).status_code == 200
        assert served.engine.requests[-1].prompt == "Ümläut"
    data = pictures + part("prompt", b"\xff\xfe") + b"--b--\r\n"
    assert served.client.post(V1, content=data, headers={"content-type": FORM}).status_code == 200


def test_of_fields_with_one_name_the_first_counts(served: Served) -> None:
    """OpenAI edits the first picture, to which the mask belongs."""
    assert isinstance(served.engine, FakeEngine)
    pictures = part("image", b64(PHOTO).encode()) + part("mask", b64(MASK).encode())
    data = pictures + part("prompt", b"first") + part("prompt", b"second") + b"--b--\r\n"
    assert served.client.post(V1, content=data, headers={"content-type": FORM}).status_code == 200
    assert served.engine.requests[-1].prompt == "first"


def test_a_name_with_brackets_is_a_list(served: Served) -> None:
    """Some clients always send ``image[]``, even for one picture; ``loras[]`` are names."""
    file = 'Content-Disposition: form-data; name="image[]"; filename="image.png"'
    files = b"".join(b"--b\r\n" + f"{file}\r\n\r\n".encode() + data + b"\r\n" for data in (PHOTO, MASK))
    data = (
        part("loras[]", b"ink") + files + part("x", b"1") + part("x", b"2") + part("[]", b"") + b"--b--\r\n"
    )
    assert asyncio.run(_parsed(FORM, data)) == {
        "loras[]": ["ink"],
        "image[]": [PHOTO, MASK],
        "x": "1",
        "[]": [""],
    }


@pytest.mark.parametrize("kind", ["application/json", FORM, "text/plain", ""])
def test_a_request_that_needs_no_body_may_have_none(served: Served, kind: str) -> None:
    """Clients label an empty body as JSON, or as nothing; a refinement needs none."""
    headers = {"content-type": kind} if kind else {}
    response = served.client.post(f"/v2/requests/{'0' * 32}/refine", content=b"", headers=headers)
    assert response.status_code == 404, response.text


@pytest.mark.parametrize(
    ("kind", "status", "says"),
    [
        ("application/json", 400, "body: is not valid JSON"),
        (FORM, 400, "image: is required"),
        ("", 406, "Invalid content type"),
    ],
)
def test_a_request_that_needs_a_body_says_so(served: Served, kind: str, status: int, says: str) -> None:
    """One sentence, whatever the empty body is called."""
    response = served.client.post(V1, content=b"", headers={"content-type": kind} if kind else {})
    assert response.status_code == status
    assert response.json()["error"].startswith(says)


async def _parsed(kind: str, data: bytes) -> Fields:
    request, threads = Request({"type": "http", "headers": [(b"content-type", kind.encode())]}), Threads()
    try:
        return await parse_fields(request, data, threads)
    finally:
        threads.close()


def test_a_charset_costs_no_time() -> None:
    """Python's punycode decoder is quadratic: 1 MB would block every client for minutes."""
    data = part("prompt", b"a" * 1_000_000 + b"-" + b"b" * 1_000_000) + b"--b--\r\n"
    started = time.monotonic()
    with pytest.raises(RequestError, match="UTF-8"):
        asyncio.run(_parsed(f"{FORM}; charset=punycode", data))
    assert time.monotonic() - started < 20


# The digest that distinguishes a retry from a reused idempotency key.


def test_a_digest_is_of_what_was_asked_for() -> None:
    """Order and encoding do not count; names, values and their types do."""
    plain: Fields = {"prompt": "a", "samples": 1, "image": b"\x00\x01"}
    assert digest_of(plain) == digest_of(dict(reversed(plain.items())))
    others: list[dict[str, Any]] = [
        {"prompt": "b"},
        {"samples": 2},
        {"samples": "1"},
        {"image": b"\x00"},
        {"x": None},
        {"prompt": "a5"},
    ]
    assert len({digest_of(plain | other) for other in others} | {digest_of(plain)}) == 7
    assert digest_of({"a": "bc", "d": ""}) != digest_of({"a": "b", "cd": ""})
    assert digest_of({"a": "\ud800"})


def test_files_in_a_list_count_in_a_digest(served: Served) -> None:
    """A form may hold any number of ``image[]``; with an idempotency key it was an internal error."""
    lists: list[list[object]] = [[], [b"a"], [b"b"], [b"a", b"b"], [b"b", b"a"], ["a"]]
    assert len({digest_of({"image[]": files}) for files in lists}) == len(lists)
    files = {"image": PHOTO, "mask": MASK, "image[]": PHOTO}
    answers = [
        served.client.post(V1, data={"prompt": "x"}, files=files, headers={"idempotency-key": "of a list"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content


def test_small_and_large_json_bodies_are_both_served(serve: Serve) -> None:
    """A JSON body works just below and just above the size that is parsed off the event loop."""
    served = serve()
    for padding in (0, 20_000):
        assert served.client.post(V1, json=body(x="x" * padding)).status_code == 200
