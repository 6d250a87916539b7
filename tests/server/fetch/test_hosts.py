"""Hosts of pictures that misbehave, redirect, or pose as others."""

import asyncio
import gzip
import itertools
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadGatewayError, TooLargeError, UrlError
from server.fetch.fetcher import UNFETCHED, Fetcher
from server.fetch.policy import MALFORMED
from tests.support.examples import examples
from tests.support.hostile_urls import PUBLIC, PUBLIC_2
from tests.support.loopback import (
    CHUNKED,
    HEAD,
    PICTURE,
    Switchboard,
    broken,
    fetcher,
    ok,
    policy,
    pours,
    public,
    redirect,
    says,
    serve,
    silent,
)


async def stops_half_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"Content-Length: 10\r\n\r\n12345")
    await silent(reader, writer)


@pytest.mark.parametrize(
    "handler",
    [
        silent,
        pours(b"", (bytes([byte]) for byte in HEAD * 9), pause_s=0.02),
        pours(HEAD + b"\r\n", itertools.repeat(b"x"), pause_s=0.02),
        pours(CHUNKED, itertools.repeat(b"1\r\nx\r\n"), pause_s=0.02),
        stops_half_way,
        pours(b"", itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), pause_s=0.02),
    ],
    ids=["never answers", "drips headers", "drips a body", "drips chunks", "stops half-way", "drips 100s"],
)
def test_the_deadline_is_one_for_the_whole_fetch(handler: Any) -> None:
    """A byte now and then does not keep a fetch alive, although it resets timeouts that count per read."""
    begun = time.monotonic()
    assert broken(handler, UrlError, timeout_s=0.2) == UNFETCHED
    assert time.monotonic() - begun < 20  # without a deadline it would never end


def test_redirects_share_the_deadline() -> None:
    """Three slow redirects share one deadline."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        await says(redirect("/next"))(reader, writer)

    assert broken(slow, UrlError, timeout_s=0.25, redirects=3) == UNFETCHED


def test_a_tls_handshake_that_never_ends_is_hung_up_on() -> None:
    """The deadline holds before the first HTTP byte as well, and the socket is closed."""

    async def scenario() -> None:
        async with serve(silent) as port:
            with pytest.raises(UrlError, match=UNFETCHED):
                await fetcher(policy(port, timeout_s=0.2)).fetch(f"https://127.0.0.1:{port}/")

    asyncio.run(scenario())


def test_a_body_announced_too_long_is_not_read() -> None:
    """A ``Content-Length`` of 10 GB is refused before the body is read."""
    head = HEAD + b"Content-Length: 10000000000\r\n\r\n"
    assert "1,000,000 bytes" in broken(pours(head, []), TooLargeError, timeout_s=2)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_an_end_is_cut_at_the_cap(chunked: bool) -> None:
    """A host that never stops costs no more memory and traffic than the largest picture."""
    poured = 0

    def drops() -> Iterator[bytes]:
        nonlocal poured
        while True:
            poured += 10_000
            yield b"2710\r\n" + b"x" * 10_000 + b"\r\n" if chunked else b"x" * 10_000

    broken(pours(CHUNKED if chunked else HEAD + b"\r\n", drops()), TooLargeError)
    assert poured < 20_000_000  # the cap of 1 MB, and what the kernel buffers


def test_the_caller_may_lower_the_cap_but_not_raise_it() -> None:
    """The rest of a request's budget after its first picture bounds the second."""

    async def scenario() -> None:
        async with serve(says(ok())) as port:
            tight = fetcher(policy(port, max_bytes=len(PICTURE) - 1))
            loose = fetcher(policy(port, max_bytes=len(PICTURE)))
            url = f"http://127.0.0.1:{port}/"
            assert await loose.fetch(url, max_bytes=10**9) == PICTURE
            for over in (tight.fetch(url, max_bytes=10**9), loose.fetch(url, max_bytes=len(PICTURE) - 1)):
                with pytest.raises(TooLargeError):
                    await over

    asyncio.run(scenario())


def test_a_compressed_answer_is_refused_unread() -> None:
    """10 kB of gzip that would be 10 GB of zeros are never unpacked; we asked for ``identity``."""
    bomb = gzip.compress(bytes(10_000_000))
    for encoding in ("gzip", "br", "deflate, gzip", "GZIP"):
        broken(says(ok(bomb, f"Content-Encoding: {encoding}")), BadGatewayError)


def test_a_body_is_handed_over_as_it_came() -> None:
    """A bomb that hides its encoding stays as it is, and the decoder of pictures refuses it."""
    bomb = gzip.compress(bytes(1_000_000))

    async def scenario() -> None:
        async with serve(says(ok(bomb))) as port:
            assert await fetcher(policy(port)).fetch(f"http://127.0.0.1:{port}/") == bomb

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "handler",
    [
        says(ok(PICTURE, *(f"X-{i}: y" for i in range(10_000)))),
        says(ok(PICTURE, *(f"X-{i}: y" for i in range(100)))),
        says(ok(PICTURE, "X: " + "y" * 200_000)),
        pours(HEAD, (b"X-%d: y\r\n" % i * 999 for i in itertools.count())),
        pours(b"", itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 999)),
        pours(CHUNKED, itertools.repeat(b"1\r\nx\r\n" * 999)),
        pours(CHUNKED, itertools.repeat(b"1;" + b"e" * 100 + b"\r\nx\r\n")),
    ],
    ids=["10,000", "103", "one huge", "endless", "endless 100s", "tiny chunks", "chunk extensions"],
)
def test_an_answer_that_is_mostly_wrapping_is_refused(handler: Any) -> None:
    """Thousands of headers or chunks would keep the event loop busy for every other client."""
    assert "headers" in broken(handler, BadGatewayError)


@pytest.mark.parametrize(
    "content_type", ["text/html", "TEXT/HTML; charset=utf-8", "application/json", "text/plain", "imagery/png"]
)
def test_an_answer_of_another_type_is_the_hosts_fault(content_type: str) -> None:
    """A login page instead of a picture gets an error that says so."""
    assert "other than a picture" in broken(says(ok(content_type=content_type)), BadGatewayError)


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial", "304 Not", "404 No", "500 Oh"])
def test_an_error_status_is_the_hosts_fault(status: str) -> None:
    """A caller learns that the host refused, and with which status."""
    assert status[:3] in broken(says(ok(status=status)), BadGatewayError)


def test_an_answer_that_breaks_off_is_the_hosts_fault() -> None:
    """Half a picture is never passed on as a whole one."""
    broken(pours(HEAD + b"Content-Length: 10\r\n\r\n", [b"12345"]), BadGatewayError)
    broken(pours(CHUNKED, [b"5\r\n12345\r\n"]), BadGatewayError)
    broken(pours(CHUNKED, [b"zz\r\n"]), BadGatewayError)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"-ERR unknown\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        HEAD,
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ],
    ids=lambda raw: ascii(raw[-30:]),
)
def test_what_is_not_http_could_not_be_fetched(raw: bytes) -> None:
    """A port that speaks another protocol looks like a closed one."""
    assert broken(pours(raw, []), UrlError) == UNFETCHED


# ---------------------------------------------------------------- redirects


def test_redirects_are_not_followed_by_default() -> None:
    """The error says what to do instead, and the redirect's target is not even parsed."""
    for location in ("/next", "http://127.0.0.1/", "nonsense:"):
        assert "redirects" in broken(says(redirect(location)), UrlError)


def test_a_redirect_is_read_as_strictly_as_a_url() -> None:
    """Joining two URLs would otherwise drop a tab silently, and fetch a URL that the host did not write."""
    assert broken(says(redirect("/b\t.png"), ok()), UrlError, redirects=1) == MALFORMED


def test_a_redirect_loop_ends_after_the_allowed_number() -> None:
    """A host that redirects in circles gets redirects + 1 requests."""
    heads: list[str] = []
    assert "redirects" in broken(says(redirect("/a.png"), heads=heads), UrlError, redirects=3)
    assert len(heads) == 4


@pytest.mark.parametrize(
    "location", ["/b.png?x=1", "b.png?x=1", "//public.test/b.png?x=1", "http://public.test/b.png?x=1"]
)
def test_an_allowed_redirect_is_followed(location: str) -> None:
    """A picture that has moved is found if the operator allows redirects."""
    heads: list[str] = []

    async def scenario() -> None:
        async with serve(says(redirect(location), ok(), heads=heads)) as port:
            found = await fetcher(public(redirects=1), Switchboard(port)).fetch("http://public.test/a.png")
            assert found == PICTURE

    asyncio.run(scenario())
    assert heads[1].startswith("GET /b.png?x=1 HTTP/1.1\r\nHost: public.test\r\n")


# ---------------------------------------------------------------- TLS


def certificate(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext, list[str | None]]:
    """Return the server's context, a client's that trusts it, and the list of names that clients ask for."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert(*names).configure_cert(server)
    authority.configure_trust(client)
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    return server, client, asked


def test_tls_keeps_the_name_although_an_address_is_dialled() -> None:
    """SNI, the certificate's name and ``Host`` are the URL's: shared hosts work and others cannot pose."""
    server, client, asked = certificate("public.test")
    heads: list[str] = []

    async def scenario() -> None:
        async with serve(says(ok(), heads=heads), server) as port:
            network = Switchboard(port)
            assert (
                await fetcher(public(), network, ssl_context=client).fetch("https://public.test/") == PICTURE
            )
            assert network.dialled == [PUBLIC]

    asyncio.run(scenario())
    assert asked == ["public.test"]
    assert "Host: public.test\r\n" in heads[0]


def test_a_certificate_for_an_address_is_good_for_that_address() -> None:
    """A URL with an address in it is checked against the certificate too."""
    server, client, _ = certificate(PUBLIC)

    async def scenario() -> None:
        async with serve(says(ok()), server) as port:
            assert (
                await fetcher(public(), Switchboard(port), ssl_context=client).fetch(f"https://{PUBLIC}/")
                == PICTURE
            )

    asyncio.run(scenario())


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_of_another_name_or_signer_is_refused(trusted: bool) -> None:
    """An attacker between us and the host cannot replace the picture."""
    server, client, _ = certificate("elsewhere.test" if trusted else "public.test")
    heads: list[str] = []

    async def scenario() -> None:
        async with serve(says(ok(), heads=heads), server) as port:
            parts = {"ssl_context": client} if trusted else {"ssl_context": certificate("public.test")[1]}
            with pytest.raises(UrlError, match=UNFETCHED):
                await fetcher(public(), Switchboard(port), **parts).fetch("https://public.test/")

    asyncio.run(scenario())
    assert heads == []


def test_the_default_checks_certificates() -> None:
    """By default certificates are checked against the system's authorities, names included."""
    context = Fetcher(public())._ssl_context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_redirect_from_https_to_http_is_refused() -> None:
    """A caller who asks for an encrypted fetch never gets a plain one."""
    server, client, _ = certificate("public.test")
    plain_heads: list[str] = []

    async def scenario() -> None:
        async with (
            serve(says(ok(), heads=plain_heads)) as plain,
            serve(says(redirect(f"http://{PUBLIC_2}/")), server) as port,
        ):
            network = Switchboard(plain, {PUBLIC: port})
            with pytest.raises(UrlError, match=UNFETCHED):
                await fetcher(public(redirects=3), network, ssl_context=client).fetch("https://public.test/")

    asyncio.run(scenario())
    assert plain_heads == []


# ---------------------------------------------------------------- random answers

_LINES = (
    b"HTTP/1.1_|200|302|100|_OK~|~|Content-Length:_|Location:_|5|-1|Transfer-Encoding:_chunked~"
    b"|Content-Type:_image/png~|http://|[|//|\x00|\xff"
)
ANSWERS = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(_LINES.replace(b"_", b" ").replace(b"~", b"\r\n").split(b"|")),
        max_size=14,
    ).map(b"".join),
    st.builds(
        lambda location: b"HTTP/1.1 302 F\r\nLocation: " + location + b"\r\n\r\n", st.binary(max_size=30)
    ),
    st.builds(lambda tail: CHUNKED + tail, st.binary(max_size=60)),
)


@examples(150)
@given(raw=ANSWERS)
def test_no_answer_at_all_breaks_us(raw: bytes) -> None:
    """Any answer gives bytes or one of our errors, and no exception of the libraries below."""

    async def scenario() -> None:
        async with serve(pours(raw, [])) as port:
            network = Switchboard(port)
            try:
                found = await fetcher(public(redirects=1), network).fetch("http://public.test/")
            except (UrlError, BadGatewayError, TooLargeError):
                return
            assert isinstance(found, bytes)

    asyncio.run(scenario())
