"""This server's own picture URLs as inputs: read from the picture store, for every caller with the URL.

The URL guard would refuse them, since they lead to this machine. What only looks like one is fetched as any
other URL, and so refused.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from server.storage.requests import Store
from tests.server.dialects.test_segmind_v2 import ended, submitted
from tests.support.hostile_urls import answer as resolver
from tests.support.loopback import Canary, Switchboard, fetcher, public
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    b64,
    body,
    opened,
    server_for,
)

pytest_plugins = ["tests.support.served_fixtures"]

V1, INFO = "/v1/sdxl-inpaint", "/v2/info"
GONE = "is the URL of a picture that this server does not have, or no longer"
FIELDS = pytest.mark.parametrize("field", ["image", "mask"])


def painted(client: httpx2.Client, **fields: object) -> str:
    """Return the URL of a picture that was painted."""
    plain: dict[str, object] = {"output_format": "png"}
    return str(ended(client, submitted(client, **plain | fields)).json()["output"])


def masked(client: httpx2.Client) -> str:
    """Return the URL of a painted picture that is a mask: its right half is bright."""
    return painted(client, image=b64(MASK), seed=6)


@FIELDS
def test_a_painted_picture_is_an_input(field: str, served: Served) -> None:
    """A chat program edits what it has just shown, and knows only its URL."""
    url = painted(served.client) if field == "image" else masked(served.client)
    data = httpx2.get(url, trust_env=False).content
    engine = served.engine
    assert isinstance(engine, FakeEngine)
    sent = served.client.post(V1, json=body(**{field: b64(data)}, output_format="png"))
    named = served.client.post(V1, json=body(**{field: url}, output_format="png"))
    assert (sent.status_code, named.status_code) == (200, 200), named.text
    assert named.content == sent.content
    for asked in ({f"{field}Url": url, field: None}, {field: f'"{url}"'}):
        assert served.client.post(V1, json=body(**asked)).status_code == 200
    form = {"image": b64(PHOTO), "mask": b64(MASK), "prompt": "x"} | {field: url}
    assert served.client.post(V1, data=form, files={"x": b""}).status_code == 200
    assert ended(served.client, submitted(served.client, **{field: url})).json()["status"] == "COMPLETED"


def test_both_pictures_may_be_our_own(served: Served) -> None:
    """And one of them may be a URL elsewhere or a file."""
    fields = {"image": painted(served.client), "mask": masked(served.client), "output_format": "png"}
    response = served.client.post(V1, json=body(**fields))
    assert opened(response.content).size == SIZE


def test_each_picture_of_a_request_has_its_own_url(served: Served) -> None:
    """The number in the URL counts; one behind the last is no picture."""
    url = painted(served.client, samples=2)
    colours = [opened(httpx2.get(each, trust_env=False).content) for each in (url, _numbered(url, 1))]
    facts = [served.client.post(INFO, json={"image": _numbered(url, n)}) for n in (0, 1, 2, 999)]
    assert [each.status_code for each in facts] == [200, 200, 400, 400]
    assert facts[2].json()["error"] == f"image: {GONE}"
    assert colours[0].getpixel((40, 5)) != colours[1].getpixel((40, 5))
    painting = served.client.post(V1, json=body(image=_numbered(url, 1), output_format="png"))
    assert painting.status_code == 200


def _numbered(url: str, number: int) -> str:
    return re.sub(r"/images/\d+", f"/images/{number}", url)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Serve with keys."""
    with server_for(tmp_path_factory.mktemp("locked"), picture_host) as served:
        served.key()
        yield served


def test_the_url_is_enough_for_another_key(locked: Served) -> None:
    """As it is to see the picture; without a key nobody paints, whatever the URL."""
    with locked.calling(key=locked.key()) as owner, locked.calling(key=locked.key()) as other:
        url = painted(owner)
        assert other.post(V1, json=body(image=url)).status_code == 200
        assert other.post(INFO, json={"image": url}).json()["width"] == SIZE[0]
        assert locked.client.post(V1, json=body(image=url)).status_code == 401


@FIELDS
def test_another_token_opens_nothing(field: str, locked: Served) -> None:
    """Not the owner's key, not a picture's of the same owner; and unknown ids look the same."""
    with locked.calling(key=locked.key()) as owner:
        url, second = painted(owner), painted(owner)
        token, other = (each.partition("token=")[2] for each in (url, second))
        wrong = [url.replace(token, each) for each in (other, token[:-1], f"{token}a", "x", "_" * 100)]
        wrong.append(re.sub("requests/[0-9a-f]{32}", f"requests/{'0' * 32}", url))
        for each in wrong:
            response = owner.post(V1, json=body(**{field: each}))
            assert (response.status_code, response.json()) == (400, {"error": f"{field}: {GONE}"})


def test_what_is_not_painted_yet_is_no_picture(serve: Serve) -> None:
    """Its URL can be guessed from its id, but it names nothing."""
    engine = FakeEngine()
    served = serve(engine)
    url = painted(served.client)
    engine.held = True
    request_id = submitted(served.client)
    token = served.parts.store.get(request_id, "").fields["token"]
    asked = f"{url.partition('/v2/')[0]}/v2/requests/{request_id}/images/0?token={token}"
    assert served.client.post(INFO, json={"image": asked}).json() == {"error": f"image: {GONE}"}


def test_an_expired_picture_is_gone(serve: Serve) -> None:
    """In the words for a URL that never was one."""
    served = serve()
    url = painted(served.client)
    assert served.client.post(INFO, json={"image": url}).status_code == 200
    served.parts.blobs.delete(url.split("/requests/")[1][:32])
    swept = served.client.post(INFO, json={"image": url})
    assert (swept.status_code, swept.json()) == (400, {"error": f"image: {GONE}"})


def test_a_sweep_takes_the_picture_and_its_url(serve: Serve) -> None:
    """The sweeper of the next start deletes it."""
    first = serve()
    url, port = painted(first.client), first.port
    first.stop()
    second = serve(pictures_ttl_s=0.001, requests_ttl_s=0.001)
    moved = url.replace(f":{port}/", f":{second.port}/")
    response = second.client.post(V1, json=body(image=moved))
    assert (response.status_code, response.json()) == (400, {"error": f"image: {GONE}"})


# What only looks like one of our URLs.

LOOKALIKES: dict[str, Callable[[str, str], str]] = {
    "a host that begins alike": lambda base, path: (
        f"{base.replace('127.0.0.1', '127.0.0.1.evil.test')}{path}"
    ),
    "a port that begins alike": lambda base, path: f"{base}0{path}",
    "a user in front of another host": lambda base, path: f"{base}@evil.test{path}",
    "another host with ours in its path": lambda base, path: f"http://evil.test/{base}{path}",
    "another host with ours in its query": lambda base, path: f"http://evil.test/?{base}{path}",
    "another scheme": lambda base, path: f"{base.replace('http', 'https')}{path}",
    "another name of this machine": lambda base, path: f"{base.replace('127.0.0.1', 'localhost')}{path}",
    "another address of this machine": lambda base, path: f"{base.replace('127.0.0.1', '127.1')}{path}",
    "a doubled slash": lambda base, path: f"{base}/{path}",
    "a way around": lambda base, path: f"{base}/x/..{path}",
    "another route": lambda base, path: f"{base}{path.replace('/images/0', '')}",
    "another version": lambda base, path: f"{base}{path.replace('/v2/', '/v1/')}",
    "no token": lambda base, path: f"{base}{path.partition('?')[0]}",
    "an empty token": lambda base, path: f"{base}{path.partition('=')[0]}=",
    "a further parameter": lambda base, path: f"{base}{path}&format=webp",
    "a fragment": lambda base, path: f"{base}{path}#x",
    "a line behind it": lambda base, path: f"{base}{path}\n",
    "an id in capitals": lambda base, path: f"{base}{path.replace('requests/', 'requests/A')}",
    "a number in other digits": lambda base, path: f"{base}{path.replace('/images/0', '/images/٠')}",
    "a number below the first": lambda base, path: f"{base}{path.replace('/images/0', '/images/-1')}",
    "a token of another alphabet": lambda base, path: f"{base}{path}é",
}


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost
) -> Iterator[tuple[Served, Switchboard]]:
    """Serve with a fetcher that reaches no network, and what it dialled."""
    canary = Canary()
    network = Switchboard(canary.port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.app.Fetcher", lambda rules: fetcher(public(), network, resolver))
        served = server_for(tmp_path_factory.mktemp("guarded"), picture_host)
    with served:
        yield served, network
    assert canary.received() == []
    canary.close()


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids that the picture store is asked for from now on."""
    ids: list[str] = []
    plain = Store.get_by_token

    def get_by_token(store: Store, request_id: str, token: str) -> Any:
        ids.append(request_id)
        return plain(store, request_id, token)

    monkeypatch.setattr(Store, "get_by_token", get_by_token)
    return ids


@FIELDS
@pytest.mark.parametrize("how", LOOKALIKES)
def test_a_url_that_looks_alike_is_fetched_and_so_refused(
    how: str, field: str, guarded: tuple[Served, Switchboard], looked_up: list[str]
) -> None:
    """Else a caller could name our pictures by another host's URL, or a host's by ours."""
    served, network = guarded
    url = painted(served.client)
    base, path = served.url, url.removeprefix(served.url)
    asked = LOOKALIKES[how](base, path)
    assert asked != url
    looked_up.clear()
    response = served.client.post(V1, json=body(**{field: asked}))
    assert response.status_code in (400, 422), response.text
    assert GONE not in response.text
    assert (looked_up, network.dialled) == ([], [])
    assert served.client.post(V1, json=body(image=url)).status_code == 200
    assert len(looked_up) == 1


def test_behind_a_proxy_our_urls_are_the_public_ones(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers name the public URL, so clients send that one; the inner one is a stranger's."""
    network = Switchboard(0)
    monkeypatch.setattr("server.app.Fetcher", lambda rules: fetcher(public(), network, resolver))
    public_url = "https://paint.example.org/api"
    served = serve(public_url=f"{public_url}/")
    url = painted(served.client)
    assert url.startswith(f"{public_url}/v2/requests/")
    assert served.client.post(V1, json=body(image=url)).status_code == 200
    for other in (served.url, f"{public_url}s", "http://paint.example.org/api", "https://paint.example.org"):
        refused = served.client.post(V1, json=body(image=url.replace(public_url, other)))
        assert refused.status_code == 422, other
    assert served.client.get(url.replace(public_url, served.url)).status_code == 200
