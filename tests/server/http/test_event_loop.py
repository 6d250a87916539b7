"""No request stops the event loop: bombs in every field, in both kinds of body, on every route.

While one caller's body is looked at, every other caller waits, the probes of Kubernetes among them.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.errors import InpaintError, RequestError
from server.dialects.segmind_checks import read_fields
from server.dialects.segmind_request import InpaintBody
from tests.support.server_process import ServerProcess, body, picture, program
from tests.support.watchdog import Watchdog

ROUTES = ("/v1/sdxl-inpaint", "/v2/sdxl-inpaint", "/v2/info", "/v2/picture", "/v2/select", "/v2/erase")
FIELDS = [*InpaintBody.model_fields, "imageUrl", "unknown"]
QUICK = ("loras", "prompt", "seed", "extend")  # one of each kind: list, text, number, numbers
BLOCKED_MS, GROWN_MB = 50.0, 50.0  # at most, by one request
SIZE = 2_000_000
TEXTS = {
    "commas": "a," * (SIZE // 2),
    "numbers": "0," * (SIZE // 2),
    "digits": "9" * SIZE,
    "brackets": "(" * (SIZE // 2) + ")" * (SIZE // 2),
    "spaces": " " * SIZE,
    "tags": "<lora:a:1>" * (SIZE // 10),
    "colons": "data:" * (SIZE // 5),
    "not ascii": "é" * (SIZE // 2),
}
VALUES: dict[str, str] = {  # JSON
    "a list": json.dumps([0] * 90_000),
    "a list of texts": json.dumps(["x" * 100] * 20_000),
    "deep lists": "[" * 900 + "]" * 900,
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "escaped commas": '"' + "\\u002c" * (SIZE // 6) + '"',
    "a long number": "9" * 4000,
    "a long fraction": "0." + "9" * SIZE,
    "an exponent": "1e" + "9" * 300,
    **{name: json.dumps(text) for name, text in TEXTS.items()},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[ServerProcess]:
    """A server with a stub engine, whose event loop is watched."""
    settings = {"rate": "1000000/minute", "segmind_lenient": True}
    with ServerProcess(program(data, watch=True), **settings) as server:
        server.wait_ready()
        assert server.client.post(ROUTES[0], json=body()).status_code == 200
        yield server


def as_json(field: str, value: str) -> tuple[str, bytes]:
    plain = json.dumps(body() | {"seed": 5})
    return "application/json", f'{plain[:-1]}, "{field}": {value}, "pad": "{"x" * 20_000}"}}'.encode()


def as_form(field: str, text: str) -> tuple[str, bytes]:
    parts = {"image": picture(), "mask": picture(colour="white"), "prompt": b"x"} | {field: text.encode()}
    shown = b"".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in parts.items()
    )
    return "multipart/form-data; boundary=b", shown + b"--b--\r\n"


def bombs(field: str) -> Iterator[tuple[str, str, bytes]]:
    """Every bomb in one field: its name, and the body's type and bytes."""
    for name, value in VALUES.items():
        yield f"{name}, JSON", *as_json(field, value)
    for name, text in TEXTS.items():
        yield f"{name}, form", *as_form(field, text)


@pytest.mark.parametrize(
    "field", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FIELDS]
)
def test_no_bomb_stops_the_loop_or_fills_the_memory(field: str, server: ServerProcess, data: Path) -> None:
    """One form field with two million commas once stopped every caller for seconds."""
    found = []
    for number, (name, kind, content) in enumerate(bombs(field)):
        route = ROUTES[number % len(ROUTES)]
        seen = []
        for _ in range(3):
            watchdog = Watchdog(server.pid, data / "slow")
            answer = server.client.post(route, content=content, headers={"content-type": kind})
            seen.append((watchdog.blocked_ms(), watchdog.grown_mb()))
            assert answer.status_code < 500, (name, route, answer.text)
            assert len(answer.content) < 20_000 or answer.status_code == 200, (
                name,
                "the value was sent back",
            )
            if seen[-1] <= (BLOCKED_MS, GROWN_MB) and seen[-1][1] <= GROWN_MB:
                break
        # What the request itself costs is the least of three: a garbage collection may fall into one of them.
        blocked, grown = (min(values) for values in zip(*seen, strict=True))
        if blocked > BLOCKED_MS or grown > GROWN_MB:
            found.append((name, route, blocked, round(grown)))
    assert not found


@pytest.mark.parametrize("field", sorted(set(InpaintBody.model_fields) - {"image", "mask"}))
@pytest.mark.parametrize("nested", [False, True])
def test_long_text_is_refused_before_anything_looks_at_it(
    field: str, nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a later version parses there takes bounded time."""
    monkeypatch.setattr(InpaintBody, "model_validate", lambda _: pytest.fail("it was looked at"))
    text: object = "x" * 10_001
    with pytest.raises(RequestError) as refused:
        read_fields({"prompt": "x", field: [{"name": text}] if nested else text})
    assert refused.value.field == field
    assert len(str(refused.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.binary(max_size=20), max_size=6), st.booleans())
def test_any_value_in_any_field_is_read_or_refused_in_words(fields: dict[str, object], lenient: bool) -> None:
    """Whatever a client's program puts there by mistake."""
    plain = {"image": "aGVsbG8=", "mask": "aGVsbG8=", "prompt": "x"}
    refused: InpaintError | None = None
    try:
        read_fields(plain | fields, lenient=lenient)
    except InpaintError as error:
        refused = error
    assert len(str(refused)) < 400
