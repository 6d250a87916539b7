"""Request bodies that are traps: each made to cost a parser memory, time or its mind."""

import json
import zlib

from tests.support.served import PHOTO, body


def form(parts: list[tuple[str, bytes]], boundary: str = "b") -> bytes:
    """Return a multipart form."""
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


FORM = "multipart/form-data; boundary=b"
NEST = 200_000
GOOD = json.dumps(body())
BOMBS: dict[str, tuple[str, bytes]] = {
    "a million fields": (
        "application/json",
        b"{" + b",".join(b'"%x":0' % i for i in range(10**6)) + b"}",
    ),
    "deep lists": ("application/json", b'{"a":' * NEST + b"1" + b"}" * NEST),
    "deep objects": ("application/json", b"[" * NEST + b"]" * NEST),
    "a number of a million digits": ("application/json", b'{"seed":' + b"9" * 10**6 + b"}"),
    "a number beyond all": ("application/json", GOOD[:-1].encode() + b',"strength":1e999}'),
    "not a number": ("application/json", GOOD[:-1].encode() + b',"strength":NaN}'),
    "a string of backslashes": ("application/json", b'{"prompt":"' + b"\\" * (10**6 + 1) + b'"}'),
    "gzip": ("application/json", zlib.compress(GOOD.encode())),
    "not utf-8": ("application/json", b'{"prompt":"\xff\xfe"}'),
    "10 000 parts": (FORM, form([(f"k{i}", b"v") for i in range(10_000)])),
    "10 000 times one part": (FORM, form([("prompt", b"v")] * 10_000)),
    "wrong boundary": ("multipart/form-data; boundary=other", form([("prompt", b"x")])),
    "no boundary": ("multipart/form-data", form([("prompt", b"x")])),
    "endless boundary": (f"multipart/form-data; boundary={'b' * 5000}", form([("prompt", b"x")])),
    "boundaries only": (FORM, b"--b\r\n" * 200_000),
    "a part's header without end": (FORM, b"--b\r\nContent-Disposition: " + b"a" * 10**6),
    "a part of many headers": (FORM, b"--b\r\n" + b"A: b\r\n" * 100_000 + b"\r\n\r\n--b--"),
    "a file name that climbs": (
        FORM,
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../x"\r\n\r\nx\r\n--b--\r\n',
    ),
    "a form inside a form": (FORM, form([("image", form([("image", PHOTO)]))])),
}
