"""Messages between a server and its engines' processes: a JSON head, then pictures as raw bytes.

Nothing is pickled, so a message cannot run code, and every part is sent after its length. Each link has a
writer thread and a reader thread; sending never blocks.
"""

import io
import json
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from PIL import Image

from inpaint import errors
from inpaint.errors import InpaintError, PaintError, RequestError
from inpaint.request import SETTINGS, InpaintRequest, InpaintResult
from server.engines.patched import Patched

_HEAD = struct.Struct("!I")  # bytes of JSON that follow


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A message of one ``kind`` about the request ``id`` (0: none), with JSON ``fields`` and pictures."""

    kind: str
    id: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[Image.Image, ...] = ()


class Link:
    """An end of the socket between a pool and a worker."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._outgoing: queue.SimpleQueue[Message | Callable[[], None] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="inpaint-link", daemon=True)
        self._writer.start()

    def send(self, message: Message) -> None:
        """Queue a message; drop it if the other side is gone."""
        self._outgoing.put(message)

    def after_sent(self, action: Callable[[], None]) -> None:
        """Run ``action`` in the writer thread once everything queued so far is sent."""
        self._outgoing.put(action)

    def messages(self) -> Iterator[Message]:
        """Yield the other side's messages until it is gone or this side is closed."""
        with self._sock, self._sock.makefile("rb") as file:
            with suppress(OSError, EOFError):  # both mean that the other side is gone
                while True:
                    yield _read(file)
            self.close()
            self._writer.join()  # before its file descriptor is used again

    def close(self) -> None:
        """Close both directions; the other side's ``messages()`` ends too."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._outgoing.put(None)

    def _write(self) -> None:
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Send the next message; in a call of its own, which keeps none while it waits for another."""
        item = self._outgoing.get()
        if item is None:
            return False
        if isinstance(item, Message):
            with suppress(OSError):
                for part in _parts(item):
                    self._sock.sendall(part)
        else:
            item()
        return True


def pack(message: Message) -> bytes:
    """Encode a message, for an object store."""
    return b"".join(_parts(message))


def unpack(data: bytes) -> Message:
    """Decode a message from :func:`pack`."""
    return _read(io.BytesIO(data))


def _parts(message: Message) -> Iterator[bytes]:
    blobs = [image.tobytes() for image in message.images]
    images = [(image.mode, *image.size, len(blob)) for image, blob in zip(message.images, blobs, strict=True)]
    head = json.dumps([message.kind, message.id, message.fields, images]).encode("ascii")
    yield _HEAD.pack(len(head)) + head
    yield from blobs


def _read(file: BinaryIO) -> Message:
    (length,) = _HEAD.unpack(_exactly(file, _HEAD.size))
    kind, request_id, fields, images = json.loads(_exactly(file, length))
    pictures = tuple(
        Image.frombytes(mode, (width, height), _exactly(file, size)) for mode, width, height, size in images
    )
    return Message(kind, request_id, fields, pictures)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def request_message(
    request_id: int, request: InpaintRequest, watchers: int, key: str, left_s: float
) -> Message:
    """Make the ``submit`` message of a request.

    Args:
        request_id: names the request in further messages.
        request: prepared by :func:`server.engines.ticket.prepare`.
        watchers: number of listeners that want previews.
        key: whose share of the engine's time it takes.
        left_s: seconds within which its pictures are wanted.
    """
    settings = {name: getattr(request, name) for name in SETTINGS}
    fields = {"settings": settings, "watchers": watchers, "key": key, "left_s": left_s}
    return Message("submit", request_id, fields, (request.image, request.mask))


def request_from(message: Message) -> InpaintRequest:
    """Read the request of a ``submit`` message."""
    image, mask = message.images
    return InpaintRequest(image=image, mask=mask, **message.fields["settings"])


def result_message(request_id: int, result: InpaintResult, original: Image.Image | None = None) -> Message:
    """Make the ``done`` message of a request, with its pictures.

    Args:
        request_id: names the request.
        result: its painted pictures.
        original: the request's picture, if the receiver has it: then only what differs from it is sent.
    """
    fields = {
        "seeds": result.seeds,
        "box": result.box,
        "warnings": result.warnings,
        "timings": dict(result.timings),
        "boxes": result.boxes,
    }
    images, box = tuple(result.images), result.changed
    if original is not None and all((i.mode, i.size) == (original.mode, original.size) for i in images):
        fields["patch"], images = box, tuple(image.crop(box) for image in images)
    return Message("done", request_id, fields, images)


def result_from(message: Message, original: Image.Image | None = None) -> InpaintResult:
    """Read the pictures of a ``done`` message; ``original`` is the request's, if the sender counts on it."""
    fields = message.fields
    box, *boxes = (
        (left, top, right, bottom) for left, top, right, bottom in [fields["box"], *fields["boxes"]]
    )
    warnings = tuple(fields["warnings"])
    images: Sequence[Image.Image] = message.images
    if "patch" in fields:
        assert original is not None, "only what differs from the request's picture was sent"
        left, top, right, bottom = fields["patch"]
        images = Patched(original, (left, top, right, bottom), message.images)
    return InpaintResult(images, fields["seeds"], box, warnings, fields["timings"], tuple(boxes))


def error_message(kind: str, request_id: int, error: InpaintError) -> Message:
    """Make a message of an error, of a request or of the worker itself."""
    args = [error.field, error.problem] if isinstance(error, RequestError) else [str(error)]
    return Message(kind, request_id, {"error": type(error).__name__, "args": args})


def error_from(message: Message) -> InpaintError:
    """Read the error of a message; a class outside ``inpaint.errors`` becomes a PaintError."""
    cls = getattr(errors, message.fields["error"], PaintError)
    error = cls(*message.fields["args"])
    assert isinstance(error, InpaintError)
    return error
