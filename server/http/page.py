"""The page to paint masks on: the files of ``server/web``, served unchanged.

They need no key, because the page is what asks for one, and they hold no user's data.
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
    ".webmanifest": "application/manifest+json",
}
_WORKER = "service-worker.js"
# blob: and data: are the user's own pictures and the previews. No other host is loaded from or sent to.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # revalidate every time, to see an upgrade; the ETag makes it cheap
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file of the page, and the headers that depend on it."""

    data: bytes
    content_type: str
    etag: str


# Not a subclass of Starlette's StaticFiles: with our headers, content types and suffixes it was ten lines
# shorter and lost two promises. It reads the disk at each request, so an upgrade under a running server pairs
# the new page with the old API; here every file is read once, and a path can name one of them or nothing. Its
# ETag is made of mtime and size, which a changed file may keep where images are built with fixed timestamps.
def read_files(folder: Path = WEB) -> dict[str, File]:
    """Read every file below ``folder`` that has a known suffix, by its path relative to it."""
    return dict(_files(folder))


def _files(folder: Path) -> Iterator[tuple[str, File]]:
    for path in sorted(folder.rglob("*")):
        if (content_type := CONTENT_TYPES.get(path.suffix)) and path.is_file():
            data = path.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            yield path.relative_to(folder).as_posix(), File(data, content_type, etag)


def add_page(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files below ``/web/``."""
    files = read_files()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        """Return the page itself."""
        return _answer(request, files["index.html"])

    @app.get("/web/{path:path}", include_in_schema=False)
    async def file(request: Request, path: str) -> Response:
        """Return one file of the page."""
        if path not in files:
            raise NotFoundError("the page has no such file")
        answer = _answer(request, files[path])
        if path == _WORKER:  # it is for the page, which is outside its folder
            answer.headers["Service-Worker-Allowed"] = "/"
        return answer


def _answer(request: Request, file: File) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.data, headers=headers | {"Content-Type": file.content_type})
