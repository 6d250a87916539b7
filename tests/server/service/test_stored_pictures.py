"""Stored pictures in other formats: two conversions at a time, each made once and counted."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from server.service import stored_pictures
from tests.server.service.test_threads import Door, door, painted
from tests.support.served import Serve, Served, eventually, opened

pytest_plugins = ["tests.support.served_fixtures"]
__all__ = ["door"]

Background = Callable[..., "Future[Any]"]


def files(served: Served) -> set[str]:
    """Return the names of all files in the picture store."""
    folder = Path(served.settings.data) / "pictures"
    return {path.name for path in folder.glob("*/*")}


def test_two_conversions_run_at_a_time_and_a_third_is_503(
    serve: Serve, background: Background, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller with one picture's URL could keep every core busy, and take 100 MB for each."""
    monkeypatch.setattr(stored_pictures, "convert", door.before(stored_pictures.convert))
    served = serve()
    key = served.key()
    picture, other = painted(served, key), painted(served, key)
    two = [background(served.client.get, f"{picture}&format={name}") for name in ("jpeg", "webp")]
    eventually(lambda: door.entered == 2)
    refused = served.client.get(f"{other}&format=webp")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert served.client.get(picture).status_code == 200, "as it was stored"
    same = background(served.client.get, f"{picture}&format=webp")  # waits for the one that is made
    door.open()
    assert [answer.result().status_code for answer in (*two, same)] == [200, 200, 200]
    assert door.entered == 2
    assert served.client.get(f"{other}&format=webp").status_code == 200


def test_a_picture_is_converted_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second download of a WebP costs what a download costs."""
    served = serve()
    picture = painted(served, served.key())
    first = served.client.get(f"{picture}&format=webp")
    monkeypatch.setattr(stored_pictures, "convert", lambda *_: pytest.fail("it was converted again"))
    second = served.client.get(f"{picture}&format=webp")
    assert first.content == second.content
    assert second.headers["content-type"] == "image/webp"
    assert opened(second.content).format == "WEBP"
    assert files(served) >= {"0.png", "0.webp"}


def test_conversions_count_in_the_rate_of_the_key_that_painted(serve: Serve) -> None:
    """A URL needs no key, but what it costs has an owner; as it is stored a picture costs nothing."""
    served = serve(rate="3/minute")
    key = served.key()
    picture = painted(served, key)  # the first
    assert served.client.get(f"{picture}&format=webp").status_code == 200
    assert served.client.get(f"{picture}&format=webp").status_code == 200, "it was kept"
    assert served.client.get(f"{picture}&format=jpeg").status_code == 200
    (folder,) = (served.settings.data / "pictures").iterdir()
    (folder / "0.jpeg").unlink()
    with served.calling(key=key) as owner:
        for client, url in ((served.client, picture), (owner, picture.partition("?")[0] + "?")):
            refused = client.get(f"{url}&format=jpeg")
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
    assert served.client.get(picture).status_code == 200


def test_a_conversion_needs_room_in_the_budget_of_pixels(serve: Serve) -> None:
    """It decodes the picture, which may have 25 megapixels."""
    served = serve(max_decoded_pixels=1000)
    picture = painted(served, served.key())
    with_others = served.running.service.preparation.pixels.hold(1)
    served.do(with_others.__enter__)
    assert served.client.get(f"{picture}&format=webp").status_code == 503
    served.do(with_others.__exit__, None, None, None)
    assert served.client.get(f"{picture}&format=webp").status_code == 200


@pytest.mark.parametrize("settings", [{"pictures_ttl_s": 60.0}, {"max_stored_bytes_per_key": 1500}])
def test_a_converted_picture_is_not_kept_where_it_would_stay(
    serve: Serve, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would delete a file that is written after its folder was, or count one beyond the limit."""
    monkeypatch.setattr(stored_pictures, "convert", lambda *_: b"x" * 2000)
    served = serve(**settings)
    picture = painted(served, served.key())
    assert served.client.get(f"{picture}&format=webp").content == b"x" * 2000
    assert files(served) == {"0.png", "image.png", "mask.png"}
