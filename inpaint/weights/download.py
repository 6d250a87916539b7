"""Download of one file from the hub into a ``.part`` file, resuming where an earlier attempt stopped.

huggingface_hub is the transport (addresses, mirrors, tokens, proxies, its error answers), but does not write
the file: since 1.18 it cannot resume in a new process, and it compares sizes only. This module hashes what it
writes; the caller compares the digest.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from inpaint.errors import FetchError, ModelError
from inpaint.weights.lock import LockedFile, Source
from inpaint.weights.verify import digest_of

if TYPE_CHECKING:
    import httpx2

FRUITLESS_ATTEMPTS = 3  # connections in a row that end without a single byte, before we give up
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on the hub, and the model that it belongs to."""

    name: str  # of the model, for errors
    source: Source
    file: LockedFile

    @property
    def url(self) -> str:
        """The file's URL at the pinned commit, on the hub or on the mirror that HF_ENDPOINT names."""
        from huggingface_hub import hf_hub_url

        # Read here, since huggingface_hub reads the environment only once, when it is imported.
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        return str(
            hf_hub_url(self.source.repo, self.file.path, revision=self.source.commit, endpoint=endpoint)
        )

    def wrong(self, what: str) -> ModelError:
        """Return the error for a hub that serves something else than the lock names."""
        return ModelError(
            f"{self.name}: {self.file.path} {what}; nothing was installed: "
            "the mirror or proxy in HF_ENDPOINT may alter files, or weights.lock is wrong"
        )


def check_offer(remote: Remote) -> None:
    """Compare the hub's headers for a file with the lock, before gigabytes of it are fetched.

    Raises:
        FetchError: the hub did not answer, or has no such file or revision.
        ModelError: commit, size or digest differ from the lock's.
    """
    from huggingface_hub import get_hf_file_metadata

    with hub_errors(remote.name):
        offer = get_hf_file_metadata(remote.url)
    commit, size = remote.source.commit, remote.file.size
    # A plain mirror may leave these headers out; in the end the digest of the received bytes decides.
    if offer.commit_hash is not None and offer.commit_hash != commit:
        raise remote.wrong(f"is offered at revision {offer.commit_hash} instead of {commit}")
    if offer.size is not None and offer.size != size:
        raise remote.wrong(f"is offered with {offer.size} bytes instead of {size}")
    # Large files have their sha256 as entity tag; small ones have git's sha1, which the lock does not know.
    if offer.etag is not None and len(offer.etag) == 64 and offer.etag != remote.file.sha256:
        raise remote.wrong(f"is offered with sha256 {offer.etag} instead of {remote.file.sha256}")


def download(remote: Remote, part: Path, report: Callable[[int], None]) -> str:
    """Complete the file ``part`` and return its sha256; bytes that are already there are not fetched again.

    Args:
        remote: the file to fetch.
        part: the local file to begin or continue; it stays when this fails, for the next attempt.
        report: called with the number of bytes of this file that are there.

    Raises:
        FetchError: the connection kept failing, or the disk could not be written.
        ModelError: the hub's file has another size than the lock says.
    """
    with disk_errors(part), part.open("a+b", buffering=0) as file:
        written = Written(file)
        fruitless = 0
        while written.size < remote.file.size:
            before = written.size
            report(before)
            cut = _attempt(remote, written, report)
            fruitless = 0 if written.size > before else fruitless + 1
            if fruitless == FRUITLESS_ATTEMPTS:
                raise resumable(remote.name, f"{remote.file.path} stopped arriving ({cut})")
            if fruitless:
                time.sleep(_PAUSE_S)
        os.fsync(file.fileno())  # before its final name: a power cut must not leave a full-sized hole
    return written.sha256


class Written:
    """A file that is appended to, with its size in bytes and the digest of its whole content."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._file = file
        self._digest = digest_of(file)
        self.size = file.tell()

    @property
    def sha256(self) -> str:
        """The sha256 of the content so far, 64 hex digits."""
        return self._digest.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Write all of ``chunk``; on an OSError the bytes that were written stay and count."""
        rest = memoryview(chunk)
        while rest:
            count = self._file.write(rest)
            self._digest.update(rest[:count])
            self.size += count
            rest = rest[count:]

    def restart(self) -> None:
        """Empty the file."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.size = 0


def _attempt(remote: Remote, written: Written, report: Callable[[int], None]) -> str:
    """Append the bytes of one connection, and return why it ended."""
    from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    # Compressed bodies have no ranges, and their length is not the file's.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if written.size:
        headers["Range"] = f"bytes={written.size}-"
    try:
        with (
            hub_errors(remote.name, cuts_pass=True),
            http_stream_backoff(
                "GET",
                remote.url,
                headers=headers,
                timeout=HF_HUB_DOWNLOAD_TIMEOUT,
                retry_on_exceptions=(),
                retry_on_status_codes=(408, 429),
            ) as response,
        ):
            if response.status_code == 416:  # the file has no bytes from there on
                raise remote.wrong(f"ends after {written.size} bytes instead of {remote.file.size}")
            hf_raise_for_status(response)
            _check_answer(remote, response, written)
            for chunk in response.iter_bytes():
                written.append(chunk)
                report(written.size)
                if written.size > remote.file.size:
                    written.restart()
                    raise remote.wrong(f"goes on after its {remote.file.size} bytes")
    except _cuts() as error:
        return str(error) or type(error).__name__
    return "the hub ended it early"


def _check_answer(remote: Remote, response: "httpx2.Response", written: Written) -> None:
    """Check that the answer continues ``written``, or empty it for a full answer; refuse another size."""
    if response.status_code == 206:
        given, _, total = response.headers.get("Content-Range", "").partition("/")
        if not given.startswith(f"bytes {written.size}-"):
            raise resumable(remote.name, f"the hub answered with another part of {remote.file.path}")
    else:  # a server without ranges sends all of it again
        written.restart()
        encoded = "Content-Encoding" in response.headers
        total = "*" if encoded else response.headers.get("Content-Length", "*")
    if total.isdecimal() and int(total) != remote.file.size:
        raise remote.wrong(f"has {total} bytes instead of {remote.file.size}")


def _cuts() -> "tuple[type[Exception], ...]":
    """Return the errors of a broken connection, after which another attempt may succeed."""
    import httpx2

    return (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)


@contextmanager
def hub_errors(name: str, *, cuts_pass: bool = False) -> Iterator[None]:
    """Turn the transport's errors into FetchErrors; ``cuts_pass`` lets broken connections' own through."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise FetchError(f"{name}: HF_HUB_OFFLINE is set; unset it for `inpaint models fetch`") from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise FetchError(
            f"{name}: the hub has no {error.response.request.url} any more; "
            "look for a newer sdxl-inpaint, or set HF_ENDPOINT to a mirror that has it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FetchError(
            f"{name}: the hub refuses this repository; if it is gated, accept its licence on the hub and "
            "set HF_TOKEN"
        ) from error
    except ImportError as error:  # of socksio, which speaks the protocol
        variable = _proxy_variable()
        raise FetchError(
            f"{name}: {variable} names a SOCKS proxy, which needs another package: pip install socksio; or "
            f"unset {variable}, or let it name an HTTP proxy"
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        if cuts_pass and isinstance(error, _cuts()):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = re.sub(r"\?[^\s']*", "", reason)  # a CDN's address carries a signature in its query
        raise resumable(name, f"the hub did not deliver ({reason})") from error


def _proxy_variable() -> str:
    """Return the variable that names the proxy for the hub, as the transport reads them."""
    names = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY")
    return next((name for name in names if os.environ.get(name)), "a setting")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing below ``path`` into a FetchError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full; free some space, or set INPAINT_MODELS to a folder on another disk"
        else:
            remedy = f"{error.strerror or error}; set INPAINT_MODELS to a folder that can be written"
        raise FetchError(f"cannot write {path}: {remedy}, then run the same command again") from error


def resumable(name: str, what: str) -> FetchError:
    """Return the error for an interrupted download, which the same command resumes when run again."""
    return FetchError(
        f"{name}: {what}; check the network or set HF_ENDPOINT to a mirror, then run the same command again: "
        "it continues where this one stopped"
    )
