"""Pictures as files, one folder a request: a local folder by default, any store that fsspec knows by URL."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from inpaint.errors import OutputError, RequestError
from server.problems import NotFoundError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # no separators, no hidden files, no ".."


class Blobs:
    """The pictures of every request. Safe from any thread."""

    def __init__(self, url: str) -> None:
        """Open nothing yet, make no folder.

        Raises:
            RequestError: the URL names no store, or its driver is not installed.
        """
        # fsspec takes the path of a file URL as it stands, with %20 for a space.
        plain = url2pathname(urlsplit(url).path) if url.startswith("file:") else url
        try:
            self._fs, self._root = fsspec.url_to_fs(plain, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise RequestError("blobs_url", f"{url!r} cannot be used: {error}") from error

    def put(self, request_id: str, name: str, data: bytes) -> None:
        """Keep a file, whole or not at all; one of that name is replaced.

        Raises:
            OutputError: the store does not take it.
        """
        path = self._path(request_id, name)
        assert path is not None, f"not a name for a file: {request_id}/{name}"
        try:
            if isinstance(self._fs, LocalFileSystem):
                _put_file(Path(path), data)
            else:
                self._fs.pipe_file(path, data)  # object stores show a new object when it is whole
        except OSError as error:
            raise OutputError(f"the picture store does not take files: {error.strerror or error}") from error

    def get(self, request_id: str, name: str) -> bytes:
        """A file's bytes.

        Raises:
            NotFoundError: there is no such file, or no file could have that name.
        """
        path = self._path(request_id, name)
        try:
            if path is None:
                raise FileNotFoundError
            data: bytes = self._fs.cat_file(path)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFoundError("there is no such picture, or it has expired") from error
        return data

    def delete(self, request_id: str) -> None:
        """Delete everything of a request; nothing happens where there is nothing."""
        path = self._path(request_id)
        assert path is not None, f"not a name for a folder: {request_id}"
        try:
            self._fs.rm(path, recursive=True)
        except FileNotFoundError:
            return

    def _path(self, *names: str) -> str | None:
        """The place of these names in the store; None where one of them could lead out of it."""
        return "/".join((self._root, *names)) if all(map(_NAME.fullmatch, names)) else None


def _put_file(path: Path, data: bytes) -> None:
    """Aside, onto the disk, then in place of what was there: a reader or a crash never meets half a file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
