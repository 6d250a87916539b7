"""The attacks and bad pictures of the hosted API's tests, sent in through every dialect.

After every test (``unharmed``) nothing must have been dialled, painted, queued or charged, and the memory
that it took must be within the cap. That a request is good but for its attack is shown by
``test_every_dialect``.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.inpaint.images.test_bombs import DECODE_BOMBS
from tests.support.bad_pictures import BAD_PICTURES, odd_pictures
from tests.support.dialects import MASK, PHOTO, SIZE, WAYS, Way, form
from tests.support.hostile_urls import HOSTS, LITERALS, SYNTAX
from tests.support.loopback import Canary
from tests.support.odd_pictures import BIG_MASKS, BIG_METADATA
from tests.support.served import (
    FakeEngine,
    PictureHost,
    Served,
    answer,
    b64,
    file_of,
    opened,
    server_for,
)
from tests.support.traps import BOMBS

pytest_plugins = ["tests.support.served_fixtures", "tests.support.attacked_fixtures"]

NEW = WAYS[1:]  # the first is the hosted API, which these attacks were written for
EACH = pytest.mark.parametrize("way", NEW, ids=lambda way: way.name)
FIELDS = pytest.mark.parametrize("field", ["image", "mask"])
Unharmed = Callable[[], Any]


# Pictures and URLs.


@EACH
@FIELDS
def test_urls_that_lead_inside_are_refused_for_free(
    way: Way, field: str, caller: httpx2.Client, canary: Canary, unharmed: Unharmed
) -> None:
    """No dialect has a way of its own to the network that the server is in."""
    for url in (*LITERALS[::8], *HOSTS, *SYNTAX):
        if url:  # nothing at all is a field that was not sent
            way.refusal(way.post(caller, **{field: url.replace(":P", f":{canary.port}")}))


@EACH
@FIELDS
def test_our_own_url_with_a_wrong_token_is_refused_for_free(
    way: Way, field: str, caller: httpx2.Client, metered: Served, unharmed: Unharmed
) -> None:
    """It is recognised, and opens nothing."""
    url = f"{metered.url}/v2/requests/{'0' * 32}/images/0?token=x"
    sentence = way.refusal(way.post(caller, **{field: url}))
    assert "this server does not have" in sentence


@EACH
@FIELDS
def test_bad_pictures_are_refused_for_free(
    field: str, way: Way, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """One sentence that names the field, in the dialect's words."""
    for name, data in BAD_PICTURES.items():
        if data:  # an empty file is a field that was not sent
            sentence = way.refusal(way.post(caller, **{field: data}))
            assert sentence.startswith(f"{way.fields[field]}: "), name


@EACH
@FIELDS
@pytest.mark.parametrize("name", ["a million comments", "scans"])
def test_a_file_built_to_be_slow_is_refused_for_free(
    name: str, field: str, way: Way, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """Also where a dialect decodes pictures in another order."""
    assert "too many chunks or scans" in way.refusal(way.post(caller, **{field: DECODE_BOMBS[name]()}))


@EACH
@pytest.mark.parametrize(
    "text", ["", " ", "@@@", "data:,", "data:image/png;base64,", "null", "[object File]"]
)
def test_no_picture_at_all_is_refused_for_free(
    text: str, way: Way, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """What JavaScript makes of a file that was not read, and an empty form."""
    way.refusal(way.post(caller, image=text))
    way.refusal(way.post(caller, image=None))


@EACH
def test_a_mask_without_anything_to_repaint_is_refused_for_free(
    way: Way, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """Black is kept in every dialect."""
    black = file_of(Image.new("L", SIZE))
    assert way.refusal(way.post(caller, mask=black)).startswith(f"{way.fields['mask']}: ")


@EACH
def test_odd_pictures_are_painted_and_nothing_rides_along(way: Way, metered: Served) -> None:
    """Unusual files are no attacks; data hidden in them does not come out again."""
    with metered.calling(key=metered.key(balance=1)) as client:
        for name, data in odd_pictures(SIZE).items():
            response = way.post(client, image=data)
            assert response.status_code == 200, (name, response.text[:300])
            file = way.painted(response)
            painted = opened(file)
            assert (painted.size, getattr(painted, "n_frames", 1)) == (SIZE, 1), name
            assert b"script" not in file, name
            assert b"PK\3\4" not in file, name


@EACH
def test_large_metadata_are_no_attack(way: Way, metered: Served) -> None:
    """As pictures and as masks."""
    with metered.calling(key=metered.key(balance=1)) as client:
        for name in BIG_MASKS:
            response = way.post(client, image=BIG_METADATA[name](), mask=BIG_MASKS[name]())
            assert response.status_code == 200, (name, response.text[:300])


# Fields and bodies.


@EACH
def test_bodies_that_are_traps_are_refused_for_free(
    way: Way, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """Whether or not the dialect reads bodies of their kind."""
    for kind, data in BOMBS.values():
        way.refusal(caller.post(way.path, content=data, headers={"content-type": kind}))


@EACH
def test_a_trap_in_a_good_body_is_refused_or_harmless(way: Way, metered: Served) -> None:
    """Nested lists, huge numbers and long text in a field that the dialect knows, or does not."""
    nested: Any = []
    for _ in range(25):
        nested = [nested]
    numbers = ["9" * 4000, "1e999999", "-1e-400", "NaN", "Infinity", "0x10", "٣", "1_000", " 7 ", "true"]
    with metered.calling(key=metered.key(balance=5)) as client:
        for field in (
            "seed",
            "n",
            "steps",
            "output_format",
            "unknown",
            "alwayson_scripts",
        ):
            for value in (nested, {"a": nested}, "x" * 100_000, *numbers):
                response = way.post(client, **{field: value})
                if response.status_code != 200:
                    way.refusal(response)


@EACH
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_long_text_is_refused_for_free(
    field: str, way: Way, caller: httpx2.Client, unharmed: Unharmed
) -> None:
    """A megabyte of prompt would keep a core busy for minutes; the sentence is short."""
    for text in ("a " * 500_000, "(" * 100_000, "\0"):
        response = way.post(caller, **{field: text})
        assert field in way.refusal(response)


@EACH
def test_a_compressed_body_is_not_unpacked(way: Way, caller: httpx2.Client, unharmed: Unharmed) -> None:
    """10 kB that would become 10 GB stay 10 kB."""
    kind, data = way.content()
    headers = {"content-type": kind, "content-encoding": "gzip"}
    way.refusal(caller.post(way.path, content=data, headers=headers))


@EACH
def test_a_form_of_many_files_is_refused_or_its_first_picture_counts(way: Way, metered: Served) -> None:
    """Names that climb out of a folder are no paths, and lists of pictures are no crash."""
    many = {f"image{n}": PHOTO for n in range(20)} | {"image": PHOTO, "mask": MASK, "prompt": "x"}
    climbing = form({"image": PHOTO, "mask": MASK, "prompt": "x"}).replace(b"picture.png", b"../../x.png")
    lists = form({"image[]": PHOTO, "mask[]": MASK, "prompt[]": "x", "seed[]": "1", "[]": PHOTO})
    with metered.calling(key=metered.key(balance=1)) as client:
        for data in (form(many), climbing, lists, form({})):
            headers = {"content-type": "multipart/form-data; boundary=b"}
            response = client.post(way.path, content=data, headers=headers)
            if response.status_code != 200:
                way.refusal(response)


NO_PICTURES = [None, 7, True, 1.5, [], {}, [[]], [None], [7], {"image": "x"}, [{}], ["", ""]]


@EACH
@FIELDS
def test_a_picture_of_another_type_is_refused_or_absent(field: str, way: Way, metered: Served) -> None:
    """JSON may hold anything where a picture belongs; a mask may be missing in some dialects."""
    plain: dict[str, object] = {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "x"}
    with metered.calling(key=metered.key(balance=1)) as client:
        for value in NO_PICTURES:
            fields = plain | {field: value}
            fields["init_images"] = value if field == "image" else [b64(PHOTO)]
            response = client.post(way.path, json=fields)
            if field == "image" or response.status_code != 200:
                way.refusal(response)


# Time, size, keys and heads.


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Serve with a small cap on bodies and a short deadline for them."""
    data = tmp_path_factory.mktemp("narrow")
    with server_for(data, picture_host, max_body_bytes=200_000, body_timeout_s=0.3) as served:
        yield served


def said_on(way: Way, found: tuple[int, dict[str, str], bytes]) -> str:
    """Return the sentence of a raw answer."""
    return way.said(json.loads(found[2]))


@EACH
def test_a_body_that_drips_ends_in_time(way: Way, narrow: Served) -> None:
    """And its connection is closed; the next client is served."""
    head = (f"POST {way.path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {way.content()[0]}")
    started = time.monotonic()
    connection = narrow.raw(*head, "Content-Length: 100000")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            try:
                connection.sendall(b"-")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    found = answer(connection)
    stop.set()
    dripping.join()
    assert "did not arrive within" in said_on(way, found)
    assert 400 <= found[0] < 500
    assert found[1]["connection"] == "close"
    assert time.monotonic() - started < 20
    assert way.post(narrow.client).status_code == 200


@EACH
def test_a_body_that_is_too_large_is_not_read(way: Way, narrow: Served) -> None:
    """Declared or not."""
    kind = way.content()[0]
    head = (f"POST {way.path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}")
    found = answer(narrow.raw(*head, "Content-Length: 900000000"))
    assert (found[0], "at most" in said_on(way, found)) == (413, True)
    chunks = narrow.client.post(way.path, content=iter([b"x" * 100_000] * 3), headers={"content-type": kind})
    assert "at most" in way.refusal(chunks, 413)


@EACH
def test_a_chunked_body_is_read(way: Way, narrow: Served) -> None:
    """Some clients cannot say how long their forms are."""
    kind, data = way.content()
    pieces = iter([data[at : at + 7] for at in range(0, len(data), 7)])
    response = narrow.client.post(way.path, content=pieces, headers={"content-type": kind, "accept": "*/*"})
    assert response.status_code == 200, response.text


@EACH
def test_without_a_key_nothing_is_read(way: Way, metered: Served, unharmed: Unharmed) -> None:
    """The refusal comes before the body, in the dialect's shape; a wrong key is refused alike."""
    head = (f"POST {way.path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {way.content()[0]}")
    found = answer(metered.raw(*head, "Content-Length: 20000000"))
    assert (found[0], bool(said_on(way, found))) == (401, True)
    for headers in ({"authorization": "Bearer wrong"}, {"authorization": "Basic d3Jvbmc6"}, {"api-key": "é"}):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        way.refusal(metered.client.post(way.path, headers=raw), 401)


@EACH
def test_a_key_without_credits_or_for_something_else_paints_nothing(way: Way, metered: Served) -> None:
    """Credits are checked once the picture is known; clients are told not to repeat."""
    engine = metered.engine
    assert isinstance(engine, FakeEngine)
    painted = len(engine.requests)
    with metered.calling(key=metered.key()) as poor:
        response = way.post(poor)
        assert way.refusal(response)
        assert response.headers["x-should-retry"] == "false"
    with metered.calling(key=metered.key(balance=1, scopes=("metrics",))) as other:
        way.refusal(way.post(other), 403)
    assert len(engine.requests) == painted


@EACH
def test_paths_and_methods_that_are_not_there_are_refused_in_its_shape(way: Way, metered: Served) -> None:
    """With and without a key, and nothing is painted by another method."""
    with metered.calling(key=metered.key(balance=1)) as client:
        for path in (f"{way.path}/", f"{way.path}/x", f"{way.path}x", f"{way.path}/%00", f"{way.path}/../x"):
            for method in ("GET", "POST", "DELETE"):
                way.refusal(client.request(method, path), 404, 405)
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            way.refusal(client.request(method, way.path), 405)


@EACH
def test_other_sites_pages_are_refused_in_its_shape(way: Way, narrow: Served) -> None:
    """A form on any web page reaches an open server from a visitor's browser."""
    kind, data = way.content()
    for origin in ("https://example.com", "null"):
        headers = {"origin": origin, "content-type": kind}
        way.refusal(narrow.client.post(way.path, content=data, headers=headers), 403)
