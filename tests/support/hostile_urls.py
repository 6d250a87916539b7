"""URLs that a caller might send to make the server look inside, and the resolver that they need.

Every ``:P`` is to be replaced by a colon and the port of a canary.
"""

import socket
from collections.abc import Iterable

from tests.server.fetch.test_addresses import NOT_PUBLIC

PUBLIC, PUBLIC_2 = "93.184.215.14", "93.184.215.15"
OWN = "inpaint.example.org"
NAMES = {
    "public.test": [PUBLIC],
    "xn--bcher-kva.test": [PUBLIC],
    "two.test": [PUBLIC, PUBLIC_2],
    OWN: [PUBLIC],
    "localhost": ["127.0.0.1", "::1"],
    "private.test": ["10.0.0.1"],
    "mixed.test": [PUBLIC, "10.0.0.1"],
    "mixed6.test": [PUBLIC, "fe80::1%eth0"],
    "nonsense.test": ["not an address"],
    "empty.test": [],
    "metadata.google.internal": ["169.254.169.254"],
}


def answer(host: str, port: int) -> Iterable[str]:
    """A resolver that knows ``NAMES``, and reads numbers as the C library does."""
    if host in NAMES:
        return NAMES[host]
    return [socket.inet_ntoa(socket.inet_aton(host))]  # OSError for anything else


LITERALS = [
    f"http://[{address}]:P/" if ":" in address else f"http://{address}:P/"
    for address in NOT_PUBLIC
    if "%" not in address
]
HOSTS = [
    "http://localhost:P/",
    "http://LOCALHOST.:P/",
    "http://public.test.:P/",
    "http://0:P/",
    "http://127.1:P/",
    "http://2130706433:P/",
    "http://0x7f000001:P/",
    "http://0x7f.1:P/",
    "http://0177.0.0.1:P/",
    "http://93.184.215.0016:P/",
    "http://1572395790:P/",  # a public address as one number
    "http://metadata.google.internal/",
    "http://private.test:P/",
    "http://mixed.test:P/",
    "http://mixed6.test:P/",
    "http://unknown.test:P/",
    "http://empty.test:P/",
    "http://nonsense.test:P/",
    f"http://{OWN}/v2/requests/1",
    f"http://{OWN.upper()}:P/",
    "http://" + "a." * 126 + "test/",
    "http://" + "a" * 64 + ".test/",
]
SYNTAX = [
    "",
    "http:",
    "http://",
    "http:///x",
    "http://:80/",
    "http:public.test/",
    "//public.test/x",
    "/etc/passwd",
    "etc/passwd",
    "file:///etc/passwd",
    "file://public.test/etc/passwd",
    "gopher://public.test/",
    "ftp://public.test/",
    "jar:http://public.test/a.jar!/",
    "ws://public.test/",
    "httpx://public.test/",
    "data:text/html;base64,AAAA",
    "javascript:alert(1)",
    "http://public.test/" + "a" * 9_000,
    "http://public.test/" + "a" * 100_000,
    "http://" + "a" * 100_000 + "/",
    "http://127.0.0.1:80\\@1.1.1.1/",
    "http://1.1.1.1\\@127.0.0.1:80/",
    "http://public.test/a\\b",
    "http://user:pass@public.test/",
    "http://user@public.test/",
    "http://@public.test/",
    "http://:@public.test/",
    "http://public.test@127.0.0.1:P/",
    "http://127.0.0.1:P@public.test/",
    "http://[fe80::1%25eth0]:P/",
    "http://[fe80::1%eth0]:P/",
    "http://[2606:4700::1%25eth0]:P/",
    "http://[public.test]:P/",
    "http://[::1:P/",
    "http://::1:P/",
    "http://[1.1.1.1]:P/",
    "http://[]:P/",
    "http://%6cocalhost:P/",
    "http://127.0.0.1%2f@public.test/",
    "http://public.test%00.evil.test/",
    "http://127。0。0。1:P/",
    "http://127．0．0．1:P/",
    "http://１２７.0.0.1:P/",
    "http://①②⑦.⓪.⓪.①:P/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:P/",
    "http://ｌｏｃａｌｈｏｓｔ:P/",
    "http://loc\u00adalhost:P/",
    "http://local\u200dhost:P/",
    "http://-.test!:P/",
    "http://a..test:P/",
    "http://public.test:0/",
    "http://public.test:22/",
    "http://public.test:6379/",
    "http://public.test:65536/",
    "http://public.test:99999999/",
    "http://public.test:-80/",
    "http://public.test:+80/",
    "http://public.test:8_0/",
    "http://public.test:８０/",
    "http://public.test:/",
    "http://public.test: 80/",
    "http://public.test:80:80/",
    " http://public.test/",
    "http://public.test/ ",
    "http://public.test/a b",
    "http://public .test/",
    "http://public.test/\r\nHost: localhost",
    "http://public.test\r\n/",
    "http://public.test/\x00",
    "http://public\x00.test/",
    "http://public.test/\t",
    "\thttp://public.test/",
    "http://public.test/\x7f",
    "http://public.test/\u2028",
    "http://public.test/\ud800",
    "http://public\ud800.test/",
]
HOSTILE = [*LITERALS, *HOSTS, *SYNTAX]
