"""The page's files over HTTP: no key, strict headers, and no other file on the disk."""

import re
from pathlib import Path

import pytest

from server.http.page import WEB, read_files
from tests.support.served import Serve, Served, answer

pytest_plugins = ["tests.support.served_fixtures"]

FILES = sorted(read_files())


def test_the_page_is_at_the_root_and_asks_for_no_key(serve: Serve) -> None:
    """The page needs no key because it asks for one; the API behind it stays closed."""
    served = serve()
    served.key()
    response = served.client.get("/")
    assert response.status_code == 200
    assert response.content == (WEB / "index.html").read_bytes()
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert served.client.get("/v2/sdxl-inpaint").status_code == 401
    assert served.client.get("/web/index.html").status_code == 200


@pytest.mark.parametrize("path", FILES)
def test_every_file_has_its_type_and_the_strict_policy(served: Served, path: str) -> None:
    """A browser must neither guess a type nor load anything that we did not ship."""
    response = served.client.get(f"/web/{path}")
    assert response.content == (WEB / path).read_bytes()
    kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
    assert response.headers["content-type"] == kinds.get(Path(path).suffix, response.headers["content-type"])
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_an_upgrade_is_seen_and_an_unchanged_file_is_not_sent_again(served: Served) -> None:
    """After an upgrade a cached old page must not call the new server."""
    first = served.client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = served.client.get("/", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    changed = served.client.get("/", headers={"If-None-Match": '"yesterday"'})
    assert (changed.status_code, changed.content) == (200, first.content)


OUTSIDE = [
    "../app.py",
    "..%2fapp.py",
    "%2e%2e/app.py",
    "js/../../app.py",
    "js/..%2f..%2fsettings.py",
    "%2fetc/passwd",
    "/etc/passwd",
    "..\\app.py",
    "index.html%00.js",
    "",
    "js",
    "js/",
    "nothing.js",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_other_file_can_be_read(served: Served, path: str) -> None:
    """A path names a file of the page or nothing."""
    # Sent raw, because a client library would normalise the path.
    lines = (f"GET /web/{path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close")
    status, _, data = answer(served.raw(*lines))
    assert status == 404
    assert b"error" in data


def test_files_of_unknown_kinds_are_no_part_of_the_page(tmp_path: Path) -> None:
    """An editor's backup or a stray program in the page's folder is not published."""
    for name in ("index.html", "page.js~", "secret.py", ".env"):
        (tmp_path / name).write_text("x")
    assert list(read_files(tmp_path)) == ["index.html"]


def test_the_page_can_be_switched_off(serve: Serve) -> None:
    """An operator who wants only the API switches the page off."""
    served = serve(page=False)
    assert served.client.get("/").status_code == 404
    assert served.client.get("/web/index.html").status_code == 404
    assert served.client.get("/v2/sdxl-inpaint").status_code == 200


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith((".html", ".css", ".js"))])
def test_the_page_names_no_other_host(path: str) -> None:
    """The page works offline: no font, script or picture comes from elsewhere, even in unused branches."""
    text = (WEB / path).read_text("utf-8")
    found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    assert [url for url in found if url != "http://www.w3.org"] == []  # SVG's namespace, which is no request
