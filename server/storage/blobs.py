"""Pictures as files, one folder a request: a local folder by default, any store that fsspec knows by URL.

A store's settings are fsspec's, as ``FSSPEC_S3_ENDPOINT_URL``, and its driver's, as ``AWS_ACCESS_KEY_ID``.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import fsspec  # type: ignore[import-untyped]
import structlog
from fsspec.asyn import AsyncFileSystem  # type: ignore[import-untyped]
from fsspec.config import conf  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from inpaint.errors import BusyError, InpaintError, OutputError, RequestError
from inpaint.files import write_atomically
from server.errors import NotFoundError

_RETRY_AFTER_S = 5.0
_DEADLINE_S = 60.0  # of one order; a PUT that waits for "100 Continue" is held by no timeout of its driver
# s3fs would try five times what its driver tries five times, 15 seconds each.
_S3 = {"connect_timeout": 3, "read_timeout": 20, "retries": {"total_max_attempts": 2, "mode": "standard"}}
_REFUSED = (FileNotFoundError, PermissionError, FileExistsError)  # without an errno, as s3fs raises them
_OVERLOADED = {errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)}  # as s3fs translates 5xx
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # no separators, no hidden files, no ".."

log = structlog.get_logger()


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
            self._fs, self._root = fsspec.url_to_fs(plain, use_listings_cache=False, **_options(plain))
        except (ImportError, ValueError) as error:
            missing = isinstance(error, ImportError) and plain.startswith(("s3:", "s3a:"))
            hint = "; run: pip install 'sdxl-inpaint[s3]'" if missing else ""
            raise RequestError("blobs_url", f"{url!r} cannot be used: {error}{hint}") from error
        if hasattr(self._fs, "retries"):
            self._fs.retries = 1
        self._in_time = {"timeout": _DEADLINE_S} if isinstance(self._fs, AsyncFileSystem) else {}

    def put(self, request_id: str, name: str, data: bytes) -> None:
        """Keep a file, whole or not at all; one of that name is replaced.

        Raises:
            OutputError: the store does not take it.
            BusyError: the store is away.
        """
        path = self._path(request_id, name)
        assert path is not None, f"not a name for a file: {request_id}/{name}"
        with self._asked("does not take files"):
            if isinstance(self._fs, LocalFileSystem):
                folder = Path(path).parent
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(Path(path), data)
            else:
                self._fs.pipe_file(
                    path, data, **self._in_time
                )  # object stores show a new object when it is whole

    def get(self, request_id: str, name: str) -> bytes:
        """A file's bytes.

        Raises:
            NotFoundError: there is no such file, or no file could have that name.
            OutputError: the store does not give it.
            BusyError: the store is away.
        """
        path = self._path(request_id, name)
        with self._asked("does not give files"):
            try:
                if path is None:
                    raise FileNotFoundError
                data: bytes = self._fs.cat_file(path, **self._in_time)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise NotFoundError("there is no such picture, or it has expired") from error
        return data

    def delete(self, request_id: str) -> None:
        """Delete everything of a request; nothing happens where there is nothing.

        Raises:
            OutputError: the store does not let go of it.
            BusyError: the store is away.
        """
        path = self._path(request_id)
        assert path is not None, f"not a name for a folder: {request_id}"
        with self._asked("does not delete files"):
            try:
                self._fs.rm(path, recursive=True, **self._in_time)
            except FileNotFoundError:
                return

    @contextmanager
    def _asked(self, refusal: str) -> Iterator[None]:
        """Whatever a driver raises becomes one sentence. Many of their errors are no OSError."""
        try:
            yield
        except InpaintError:
            raise
        except Exception as error:
            local = isinstance(self._fs, LocalFileSystem)
            if isinstance(error, OSError) and (local or not _away(error)):
                raise OutputError(f"the picture store {refusal}: {error.strerror or error}") from error
            if local:
                raise  # a bug
            log.error("the picture store is away", error=f"{type(error).__name__}: {error}")
            problem = "The server's picture store does not answer; try again."
            raise BusyError(problem, _RETRY_AFTER_S) from error

    def _path(self, *names: str) -> str | None:
        """The place of these names in the store; None where one of them could lead out of it."""
        return "/".join((self._root, *names)) if all(map(_NAME.fullmatch, names)) else None


def _options(url: str) -> dict[str, Any]:
    """A store that hangs must not hold a thread for minutes; what the operator set wins."""
    if not url.startswith(("s3:", "s3a:")):
        return {}
    return {"config_kwargs": _S3 | conf.get("s3", {}).get("config_kwargs", {})}


def _away(error: OSError) -> bool:
    if isinstance(error, _REFUSED):
        return False
    no_answer = isinstance(error, ConnectionError | TimeoutError) or error.errno is None
    return no_answer or error.errno in _OVERLOADED
