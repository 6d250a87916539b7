"""The one place that opens a caller's URL: which URLs it refuses, and that it fetches the others."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import UrlError
from server.fetch.fetcher import UNFETCHED, Fetcher, Policy
from server.fetch.policy import MALFORMED, Target
from server.settings import Settings
from tests.support.examples import examples
from tests.support.hostile_urls import HOSTILE, OWN, PUBLIC, PUBLIC_2
from tests.support.loopback import (
    CHUNKED,
    HEAD,
    LOOPBACK,
    PICTURE,
    Canary,
    Switchboard,
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


@pytest.fixture
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


# ---------------------------------------------------------------- URLs that are never dialled


def short(url: str) -> str:
    return ascii(url[:50])


@pytest.mark.parametrize("url", HOSTILE, ids=short)
def test_a_url_that_leads_inside_is_refused_without_a_connection(url: str, canary: Canary) -> None:
    """No URL makes an operator's server contact its own network: here every address is the canary's."""
    network = Switchboard(canary.port)

    async def scenario() -> None:
        rules = public(canary.port)
        with pytest.raises(UrlError) as caught:
            await fetcher(rules, network).fetch(url.replace(":P", f":{canary.port}"))
        assert str(caught.value) in (UNFETCHED, MALFORMED)

    begun = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - begun < 2.5  # refused immediately, not after its deadline of 5 s
    assert network.dialled == []
    assert canary.received() == []


def test_the_canary_notices_a_request(canary: Canary) -> None:
    """The test above would notice: a public name is dialled and its request arrives at the canary."""
    with pytest.raises(UrlError, match=UNFETCHED):
        asyncio.run(
            fetcher(public(canary.port, timeout_s=0.2), Switchboard(canary.port)).fetch("http://public.test/")
        )
    assert canary.received()[0].startswith(b"GET / HTTP/1.1\r\nHost: public.test\r\n")


def test_loopback_is_refused_on_the_real_network_too(canary: Canary) -> None:
    """The same holds with the system's resolver and sockets, as an operator runs it."""
    rules = public(canary.port, timeout_s=2.0)
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"):
        with pytest.raises(UrlError):
            asyncio.run(Fetcher(rules).fetch(f"http://{host}:{canary.port}/"))
    assert canary.received() == []


REDIRECTS = [  # without those that HTTP's rules for Location repair: spaces around it, "http:///x" as a path
    url
    for url in HOSTILE
    if "://" in url and "///" not in url and not url.endswith("://")
    and url.isprintable() and url.isascii() and url == url.strip() and len(url) < 200
]  # fmt: skip


@pytest.mark.parametrize("url", [*REDIRECTS, "//127.0.0.1:P/", "\\\\127.0.0.1:P/"], ids=short)
def test_a_redirect_that_leads_inside_is_refused_without_a_connection(url: str, canary: Canary) -> None:
    """A public host cannot redirect us to addresses that its owner cannot reach himself."""
    location = url.replace(":P", f":{canary.port}")
    code = (301, 302, 303, 307, 308)[len(url) % 5]

    async def scenario() -> None:
        async with serve(says(redirect(location, code))) as port:
            network = Switchboard(canary.port, {PUBLIC: port})
            rules = public(canary.port, redirects=3, timeout_s=1.0)
            with pytest.raises(UrlError) as caught:
                await fetcher(rules, network).fetch("http://public.test/")
            assert str(caught.value) in (UNFETCHED, MALFORMED)
            assert network.dialled == [PUBLIC]

    asyncio.run(scenario())
    assert canary.received() == []


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_checked(code: int, canary: Canary) -> None:
    """None of the five redirect codes bypasses the address check."""

    async def scenario() -> None:
        async with serve(says(redirect(f"http://127.0.0.1:{canary.port}/", code))) as port:
            network = Switchboard(canary.port, {PUBLIC: port})
            with pytest.raises(UrlError, match=UNFETCHED):
                await fetcher(public(canary.port, redirects=3), network).fetch("http://public.test/")

    asyncio.run(scenario())
    assert canary.received() == []


def test_a_name_is_resolved_once_and_that_address_is_dialled(canary: Canary) -> None:
    """DNS rebinding: a name that resolves to a public address first and to 127.0.0.1 second gains nothing."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])

    async def scenario() -> None:
        async with serve(says(ok())) as port:
            network = Switchboard(canary.port, {PUBLIC: port})
            assert (
                await fetcher(public(), network, lambda *_: next(answers)).fetch("http://rebind.test/")
                == PICTURE
            )
            assert network.dialled == [PUBLIC]

    asyncio.run(scenario())
    assert next(answers) == ["127.0.0.1"]
    assert canary.received() == []


def test_a_name_that_rebinds_between_redirects_is_refused(canary: Canary) -> None:
    """Each redirect resolves and checks again."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])

    async def scenario() -> None:
        async with serve(says(redirect("/again"))) as port:
            network = Switchboard(canary.port, {PUBLIC: port})
            with pytest.raises(UrlError, match=UNFETCHED):
                await fetcher(public(redirects=3), network, lambda *_: next(answers)).fetch(
                    "http://rebind.test/"
                )

    asyncio.run(scenario())
    assert canary.received() == []


def test_nothing_is_sent_to_a_peer_that_is_not_the_address_checked(canary: Canary) -> None:
    """The last check is of the peer's address as the kernel knows it."""
    with pytest.raises(UrlError, match=UNFETCHED):
        asyncio.run(
            fetcher(public(timeout_s=0.5), Switchboard(canary.port, honest=True)).fetch("http://public.test/")
        )
    assert canary.received() == [b""]


def test_refused_unknown_silent_and_closed_look_alike(canary: Canary) -> None:
    """No caller learns from our errors which names and ports exist inside."""
    closed = socket.create_server(("127.0.0.1", 0))
    closed_port = closed.getsockname()[1]
    closed.close()
    texts = set()
    for url in (
        "http://private.test/",
        "http://unknown.test/",
        "http://public.test:22/",
        f"http://127.0.0.1:{canary.port}/",
        f"http://127.0.0.1:{closed_port}/",
    ):
        with pytest.raises(UrlError) as caught:
            asyncio.run(fetcher(policy(80, canary.port, closed_port, timeout_s=0.2)).fetch(url))
        texts.add(str(caught.value))
    assert texts == {UNFETCHED}


def test_no_address_is_in_an_error_and_no_query_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Errors reveal nothing of the internal network, and logs nothing of a caller's signed URL."""
    caplog.set_level(logging.DEBUG, "server")
    with pytest.raises(UrlError) as caught:
        asyncio.run(fetcher(public()).fetch("http://private.test/picture.png?signature=secret"))
    assert "10.0" not in str(caught.value)
    assert "private.test" in caplog.text
    assert "secret" not in caplog.text


# ---------------------------------------------------------------- the operator's policy


def test_the_policy_comes_from_the_settings_and_no_setting_opens_loopback() -> None:
    """Every setting for fetching counts, and none of them can switch the address check off."""
    rules = Policy.from_settings(
        Settings(
            fetch_timeout_s=3,
            fetch_max_bytes=7,
            fetch_redirects=2,
            fetch_ports=(443,),
            fetch_hosts=("Bücher.test", "CDN.test"),
            fetch_denied_networks=("93.184.0.0/16", "2606:4700::/32"),
            public_url="https://Inpaint.example.org/api",
        )
    )
    assert rules == Policy(
        timeout_s=3,
        max_bytes=7,
        redirects=2,
        ports=(443,),
        hosts=("xn--bcher-kva.test", "cdn.test"),
        denied_networks=(ip_network("93.184.0.0/16"), ip_network("2606:4700::/32")),
        denied_hosts=(OWN,),
        allowed_networks=(),
    )
    assert not [name for name in Settings.model_fields if "fetch" in name and "allow" in name]


@pytest.mark.parametrize(
    "rules",
    [
        public(denied_networks=(ip_network("93.184.0.0/16"),)),
        public(hosts=("elsewhere.test",)),
        policy(443),
        policy(80, allowed_networks=LOOPBACK, denied_networks=(ip_network(f"{PUBLIC}/32"), *LOOPBACK)),
    ],
)
def test_what_the_operator_denies_is_not_dialled(rules: Policy) -> None:
    """An operator can deny networks, hosts and ports of his own."""
    network = Switchboard(0)
    with pytest.raises(UrlError, match=UNFETCHED):
        asyncio.run(fetcher(rules, network).fetch("http://public.test/"))
    assert network.dialled == []


def test_hosts_on_the_allow_list_are_fetched_in_any_spelling() -> None:
    """An operator who lists a host once need not think of its other spellings."""

    async def scenario() -> None:
        async with serve(says(ok())) as port:
            rules = public(hosts=("xn--bcher-kva.test",))
            assert await fetcher(rules, Switchboard(port)).fetch("http://BÜCHER.test/") == PICTURE

    asyncio.run(scenario())


# ---------------------------------------------------------------- fetches from a well-behaved host


def test_a_picture_is_fetched() -> None:
    """A plain fetch works on real sockets."""

    async def scenario() -> None:
        async with serve(says(ok())) as port:
            fetches = fetcher(policy(port))
            assert await fetches.fetch(f"http://127.0.0.1:{port}/a%20b.png?x=%C3%BC#fragment") == PICTURE
            await fetches.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("content_type", ["image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream", ""])
def test_pictures_under_any_likely_type_are_fetched(content_type: str) -> None:
    """Stores that do not know content types still serve pictures."""

    async def scenario() -> None:
        async with serve(says(ok(content_type=content_type))) as port:
            assert await fetcher(policy(port)).fetch(f"http://127.0.0.1:{port}/") == PICTURE

    asyncio.run(scenario())


def test_a_chunked_body_and_one_that_ends_with_the_connection_are_fetched() -> None:
    """Ordinary hosts send both kinds of body."""
    chunks = [b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 50 + [b"0\r\n\r\n"]

    async def scenario() -> None:
        async with serve(pours(CHUNKED, chunks)) as port:
            assert await fetcher(policy(port)).fetch(f"http://127.0.0.1:{port}/") == b"x" * 204_800
        async with serve(pours(HEAD + b"\r\n", [PICTURE])) as port:
            assert await fetcher(policy(port)).fetch(f"http://127.0.0.1:{port}/") == PICTURE

    asyncio.run(scenario())


def test_the_request_says_no_more_than_it_must() -> None:
    """No cookies, credentials or referrer reach a host."""
    heads: list[str] = []

    async def scenario() -> None:
        async with serve(says(ok(PICTURE, "Set-Cookie: a=b; Path=/"), heads=heads)) as port:
            fetches = fetcher(policy(port))
            for _ in range(2):
                await fetches.fetch(f"http://127.0.0.1:{port}/a.png?b#c")
            expected = (
                f"GET /a.png?b HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: sdxl-inpaint\r\n"
                "Accept: image/*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
            )
            assert heads == [expected, expected]

    asyncio.run(scenario())


def test_ambient_proxies_are_ignored(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """``HTTP_PROXY`` in an operator's shell would otherwise dial in our place, past every check."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    test_a_picture_is_fetched()
    assert canary.received() == []


def test_the_second_address_is_tried_when_the_first_is_dead() -> None:
    """A host with a broken IPv6 route is still reached."""

    async def scenario() -> None:
        async with serve(says(ok())) as port:
            network = Switchboard(0, {PUBLIC_2: port})
            assert await fetcher(public(), network).fetch("http://two.test/") == PICTURE
            assert network.dialled == [PUBLIC, PUBLIC_2]

    asyncio.run(scenario())


def test_a_name_with_many_addresses_is_dialled_four_times_at_most() -> None:
    """A caller's own name server cannot turn one request into a hundred connections."""
    network = Switchboard(0)
    many = [f"93.184.215.{i}" for i in range(100)]
    with pytest.raises(UrlError, match=UNFETCHED):
        asyncio.run(fetcher(public(), network, lambda *_: many).fetch("http://many.test/"))
    assert len(network.dialled) == 4


def test_twenty_slow_fetches_do_not_delay_another() -> None:
    """One caller's dead links do not delay other callers."""

    async def scenario() -> None:
        async with serve(silent) as slow, serve(says(ok())) as fast:
            fetches = fetcher(policy(slow, fast))
            stuck = [asyncio.create_task(fetches.fetch(f"http://127.0.0.1:{slow}/{i}")) for i in range(20)]
            assert await fetches.fetch(f"http://127.0.0.1:{fast}/") == PICTURE
            assert not any(task.done() for task in stuck)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)

    asyncio.run(scenario())


def test_a_resolver_that_hangs_does_not_delay_another() -> None:
    """Twenty names whose name server is silent reach their deadline; a twenty-first is found meanwhile."""
    release = threading.Event()

    def hangs(host: str, port: int) -> Iterable[str]:
        if host.startswith("hangs"):
            release.wait(10)
        return [PUBLIC]

    async def scenario() -> None:
        async with serve(says(ok())) as port:
            fetches = fetcher(public(timeout_s=2.0), Switchboard(port), hangs)
            stuck = [asyncio.create_task(fetches.fetch(f"http://hangs{i}.test/")) for i in range(20)]
            assert await fetches.fetch("http://public.test/") == PICTURE
            assert not any(task.done() for task in stuck)
            ends = await asyncio.gather(*stuck, return_exceptions=True)
            assert {str(end) for end in ends} == {UNFETCHED}

    try:
        asyncio.run(scenario())
    finally:
        release.set()


# ---------------------------------------------------------------- random URLs

_PARTS = r"""
http https HTTP file :// : / // \ @ % [ ] # ? . 。 - _ 0x ::1 [::1] 10.1 80 443 22 PORT 127.0.0.1 localhost
[::ffff:7f00:1] 169.254.169.254 2130706433 public.test mixed.test xn-- xn--a ü ß ① %2e %00
"""
PARTS = st.sampled_from([*_PARTS.split(), " ", "\t", "\r\n", "\u200d", "\u202e", "\ud800", "a" * 64])
URLS = st.one_of(
    st.text(max_size=80),
    st.lists(PARTS, max_size=12).map("".join),
    st.builds(
        "http://{}{}".format, st.text(max_size=30), st.sampled_from(["", "/", ":PORT/", "@localhost/"])
    ),
    st.builds(
        "{}://{}:PORT/{}".format, st.sampled_from(["http", "https"]), st.ip_addresses(), st.text(max_size=9)
    ),
    st.builds("http://[{}]:PORT/".format, st.ip_addresses(v=6)),
    st.builds("http://{}:PORT/".format, st.integers(0, 2**32)),
)


@examples(200)
@given(url=URLS)
def test_no_url_at_all_reaches_the_inside_or_breaks_us(url: str) -> None:
    """Any text gives one of our errors, and dials nothing that the standard library calls private."""
    network = Switchboard(0)  # every address is dead; only the log of dialled ones counts
    with pytest.raises(UrlError) as caught:
        asyncio.run(fetcher(public(8080), network).fetch(url.replace("PORT", "8080")))
    assert str(caught.value) in (UNFETCHED, MALFORMED)
    assert all(ip_address(dialled).is_global for dialled in network.dialled)


def test_parsing_keeps_what_is_dialled() -> None:
    """The host that is checked, resolved, dialled and named in TLS is one value."""
    target = Target.parse("HTTPS://BÜCHER.test/ä?q#f")
    assert (target.host, target.port, target.url.raw_path) == ("xn--bcher-kva.test", 443, b"/%C3%A4?q")
    assert Target.parse("http://[2606:4700::1]:8080/").host == "2606:4700::1"
