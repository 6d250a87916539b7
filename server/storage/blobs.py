"""The picture store, one folder a request: a local folder by default, or any store that fsspec knows by URL.

A store is configured with fsspec's variables, such as ``FSSPEC_S3_ENDPOINT_URL``, and those of its driver,
such as ``AWS_ACCESS_KEY_ID``.
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
_DEADLINE_S = 60.0  # of one call; the driver has no timeout for a PUT that waits for "100 Continue"
# By default s3fs tries five times what its driver tries five times, 15 seconds each.
_S3 = {"connect_timeout": 3, "read_timeout": 20, "retries": {"total_max_attempts": 2, "mode": "standard"}}
_REFUSED = (FileNotFoundError, PermissionError, FileExistsError)  # without an errno, as s3fs raises them
_OVERLOADED = {errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO)}  # as s3fs translates 5xx
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}  # of a disk; it may get better
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # no separators, no hidden files, no ".."

log = structlog.get_logger()


class Blobs:
    """The files of every request in the picture store. Safe from any thread."""

    def __init__(self, url: str) -> None:
        """Check the URL; open nothing yet, and create no folder.

        Raises:
            RequestError: the URL names no store, or its driver is not installed.
        """
        # fsspec does not decode the path of a file URL: %20 would stay %20.
        plain = url2pathname(urlsplit(url).path) if url.startswith("file:") else url
        try:
            self._fs, self._root = fsspec.url_to_fs(plain, use_listings_cache=False, **_options(plain))
        except (ImportError, ValueError) as error:
            missing = isinstance(error, ImportError) and plain.startswith(("s3:", "s3a:"))
            hint = "; run: pip install 'sdxl-inpaint[s3]'" if missing else ""
            raise RequestError("INPAINT_BLOBS_URL", f"{url!r} cannot be used: {error}{hint}") from error
        if hasattr(self._fs, "retries"):
            self._fs.retries = 1
        self._timeout = {"timeout": _DEADLINE_S} if isinstance(self._fs, AsyncFileSystem) else {}

    def put(self, request_id: str, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; it replaces one of the same name.

        Raises:
            OutputError: the store refuses it.
            BusyError: the store is unreachable, or its disk is full.
        """
        path = self._path(request_id, name)
        assert path is not None, f"not a name for a file: {request_id}/{name}"
        with self._store_errors("does not take files"):
            if isinstance(self._fs, LocalFileSystem):
                folder = Path(path).parent
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(Path(path), data)
            else:  # an object store shows a new object only when it is complete
                self._fs.pipe_file(path, data, **self._timeout)

    def get(self, request_id: str, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            NotFoundError: there is no such file, or no file could have that name.
            OutputError: the store refuses to read it.
            BusyError: the store is unreachable.
        """
        path = self._path(request_id, name)
        with self._store_errors("does not give files"):
            try:
                if path is None:
                    raise FileNotFoundError
                data: bytes = self._fs.cat_file(path, **self._timeout)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise NotFoundError("there is no such picture, or it has expired") from error
        return data

    def delete(self, request_id: str) -> None:
        """Delete every file of a request; a request without files is no error.

        Raises:
            OutputError: the store refuses to delete them.
            BusyError: the store is unreachable.
        """
        path = self._path(request_id)
        assert path is not None, f"not a name for a folder: {request_id}"
        with self._store_errors("does not delete files"):
            try:
                self._fs.rm(path, recursive=True, **self._timeout)
            except FileNotFoundError:
                return

    @contextmanager
    def _store_errors(self, refusal: str) -> Iterator[None]:
        """Turn any exception of a store's driver into one of ours; many drivers' errors are not OSErrors."""
        try:
            yield
        except InpaintError:
            raise
        except Exception as error:
            local = isinstance(self._fs, LocalFileSystem)
            if local and isinstance(error, OSError) and error.errno in _FULL:
                raise BusyError(
                    "The server's disk is full or cannot be written; try again.", _RETRY_AFTER_S
                ) from error
            if isinstance(error, OSError) and (local or not _is_unreachable(error)):
                raise OutputError(f"the picture store {refusal}: {error.strerror or error}") from error
            if local:
                raise  # a bug
            log.error("the picture store is unreachable", error=f"{type(error).__name__}: {error}")
            problem = "The server's picture store does not answer; try again."
            raise BusyError(problem, _RETRY_AFTER_S) from error

    def _path(self, *names: str) -> str | None:
        """Return the path of these names in the store; None if one of them could lead out of it."""
        return "/".join((self._root, *names)) if all(map(_NAME.fullmatch, names)) else None


def _options(url: str) -> dict[str, Any]:
    """Return short timeouts for S3, whose default can hold a thread for minutes; the operator's own win."""
    if not url.startswith(("s3:", "s3a:")):
        return {}
    return {"config_kwargs": _S3 | conf.get("s3", {}).get("config_kwargs", {})}


def _is_unreachable(error: OSError) -> bool:
    if isinstance(error, _REFUSED):
        return False
    no_answer = isinstance(error, ConnectionError | TimeoutError) or error.errno is None
    return no_answer or error.errno in _OVERLOADED
