"""The page to paint masks on: the files of ``server/web``, as they lie there.

They are open without a key, because the page is what asks for one; they hold nothing of anybody's. All are
read once, when the application is made, so that a path can only name one of them and nothing beside them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response

from server.errors import NotFoundError

WEB = Path(__file__).parents[1] / "web"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}
# blob: and data: are the caller's own pictures and the previews; nothing comes from or goes to elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # asked for again, so that an upgrade is seen; the ETag makes it cheap
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file of the page."""

    data: bytes
    content_type: str
    etag: str


def read_files(folder: Path = WEB) -> dict[str, File]:
    """Every file of the page by its path below ``web/``; those of unknown kinds are no part of it."""
    return dict(_files(folder))


def _files(folder: Path) -> Iterator[tuple[str, File]]:
    for path in sorted(folder.rglob("*")):
        if (kind := CONTENT_TYPES.get(path.suffix)) and path.is_file():
            data = path.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            yield path.relative_to(folder).as_posix(), File(data, kind, etag)


def add_page(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files below ``/web/``."""
    files = read_files()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        """The page."""
        return _answer(request, files["index.html"])

    @app.get("/web/{path:path}", include_in_schema=False)
    async def file(request: Request, path: str) -> Response:
        """A file of the page."""
        if path not in files:
            raise NotFoundError("there is no such file")
        return _answer(request, files[path])


def _answer(request: Request, file: File) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.data, headers=headers | {"Content-Type": file.content_type})
