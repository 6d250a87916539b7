"""The process that runs SAM: it looks at pictures and answers clicks, away from engines and HTTP.

:class:`server.engines.selector_client.SelectorClient` starts it as ``python -m server.engines.selector FD``.
It ends when the other end of the socket is closed.
"""

import os
import queue
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from PIL import Image

from inpaint.cpu import prepare_threads
from inpaint.errors import DeviceError, InpaintError, OutOfMemoryError
from inpaint.selection.sam import Prompt
from server.engines.messages import Link, Message, error_message

if TYPE_CHECKING:
    from inpaint.selection.sam import Sam


def serve(sam: "Sam", link: Link, messages: "queue.SimpleQueue[Message]") -> NoReturn:
    """Answer one message after the other: a picture to look at, or a click in one."""
    from inpaint.gpu_errors import translated

    while True:
        message = messages.get()
        try:
            link.send(_answer(sam, message))
        except InpaintError as error:
            link.send(error_message("failed", message.id, error))
        except RuntimeError as error:  # torch's, such as memory that ran out: this click fails, not the next
            known = translated(error, "not enough memory to select an object ({})")
            problem = known or DeviceError(f"the selection failed ({type(error).__name__})")
            link.send(error_message("failed", message.id, problem))
        del message  # else its picture stays until the next one comes


def _answer(sam: "Sam", message: Message) -> Message:
    key = message.fields["key"]
    if message.images:
        sam.embed(key, message.images[0])
    if not sam.holds(key):
        return Message("unknown", message.id)
    if message.kind == "embed":
        return Message("done", message.id)
    points = tuple((x, y, bool(inside)) for x, y, inside in message.fields["points"])
    box = message.fields["box"]
    prompt = Prompt(points, None if box is None else tuple(box), message.fields["variant"])
    logits, score = sam.decide(key, prompt)
    return Message("done", message.id, {"score": score}, (Image.fromarray(logits),))


def run(fd: int) -> None:
    """Run until the other end of the socket ``fd`` is closed."""
    prepare_threads()
    link = Link(socket.socket(fileno=fd))
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, messages), name="inpaint-messages", daemon=True).start()
    fields = messages.get().fields
    from inpaint.selection.sam import Sam

    try:
        sam = Sam.load(Path(fields["folder"]), fields["device"])
    except (InpaintError, OutOfMemoryError) as error:
        link.send(error_message("unfit", 0, error))
        link.after_sent(lambda: os._exit(2))
        threading.Event().wait()
        return
    link.send(Message("ready", fields={"side": sam.side}))
    serve(sam, link, messages)


def _read(link: Link, messages: "queue.SimpleQueue[Message]") -> None:
    for message in link.messages():
        messages.put(message)
        del message
    os._exit(0)  # the server is gone: do not wait for the click that is being answered


if __name__ == "__main__":
    run(int(sys.argv[1]))
