"""The test for public addresses, and name lookups that cannot delay each other."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from server.fetch.addresses import Lookups, is_public

_NOT_PUBLIC = """
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.0
127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0
172.31.255.255 192.0.0.0 192.0.0.192 192.0.0.255 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1
192.168.0.0 192.168.255.255 192.175.48.1 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.0
239.255.255.255 240.0.0.0 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1
::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1
1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:: 2001:0:7f00:1::1 2001:1ff:ffff::1 2001:db8::1 2002::
2002:7f00:1:: 2002:808:808::1 2620:4f:8000::1 3fff:: 3fff:fff:ffff::1 4000:: 5f00::1 fc00::1
fd00:ec2::254 fe80::1 fe80::1%eth0 2606:4700::1%eth0 fec0::1 ff02::1 2606:4700::5efe:7f00:1
2606:4700::200:5efe:7f00:1
"""
NOT_PUBLIC = _NOT_PUBLIC.split()

_PUBLIC = """
1.0.0.0 9.255.255.255 11.0.0.0 93.184.215.14 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255
192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 ::ffff:93.184.215.14
2000::1 2001:200::1 2001:4860:4860::8888 2001:db7::1 2001:db9::1 2003::1 2606:4700::1 2620:4f:7fff::1
3ffe::1 3fff:1000::1 2606:4700::100:5efe:7f00:1
"""
PUBLIC = _PUBLIC.split()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_no_address_of_a_private_or_special_network_is_public(address: str) -> None:
    """A caller cannot reach an operator's network or cloud metadata; each network is tested at its edges."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_next_to_those_networks_are_public(address: str) -> None:
    """A caller whose pictures are just outside a private network can still use them."""
    assert is_public(ip_address(address))


def test_a_mapped_address_is_the_one_that_the_kernel_would_dial() -> None:
    """An address that is compared with the connection's peer has only one spelling."""
    found = asyncio.run(Lookups(lambda *_: ["::ffff:93.184.215.14", "93.184.215.14"]).find("a.test", 80))
    assert found == (ip_address("93.184.215.14"),)


def test_an_unknown_name_has_no_addresses() -> None:
    """A typing error in a URL is the caller's problem and no crash."""

    def unknown(host: str, port: int) -> Iterable[str]:
        raise OSError("Name or service not known")

    assert asyncio.run(Lookups(unknown).find("a.test", 80)) == ()
    assert asyncio.run(Lookups().find("a" * 64 + ".test", 80)) == ()  # getaddrinfo's own UnicodeError


def test_numbers_and_loopback_names_need_no_network() -> None:
    """The default resolver is the system's, including its hosts file."""
    assert asyncio.run(Lookups().find("localhost", 80))[0].is_loopback


def test_lookups_are_bounded_and_a_slot_lasts_as_long_as_its_thread() -> None:
    """A caller with many dead names cannot fill the process with threads by giving up early."""
    release, begun = threading.Event(), threading.Semaphore(0)
    running = []

    def hangs(host: str, port: int) -> Iterable[str]:
        running.append(host)
        begun.release()
        release.wait(10)
        return ["93.184.215.14"]

    async def scenario() -> None:
        lookups = Lookups(hangs, threads=2)
        first = [asyncio.create_task(lookups.find(f"{i}.test", 80)) for i in range(2)]
        for _ in first:
            await asyncio.to_thread(begun.acquire)
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)
        third = asyncio.create_task(lookups.find("third.test", 80))
        done, _ = await asyncio.wait([third], timeout=0.1)
        assert not done
        assert len(running) == 2
        release.set()
        assert await third

    asyncio.run(scenario())


def test_a_resolver_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    """An operator who stops the server does not wait for a dead name server."""
    code = """if True:
        import asyncio, threading
        from server.fetch.addresses import Lookups
        lookups = Lookups(lambda *_: threading.Event().wait())
        try:
            asyncio.run(asyncio.wait_for(lookups.find("a.test", 80), 0.05))
        except TimeoutError:
            print("given up")
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert (done.stdout, done.stderr) == ("given up\n", "")


def test_a_lookup_that_ends_after_the_loop_says_nothing() -> None:
    """A late lookup leaves no traceback in the operator's log at shutdown."""
    release, ended = threading.Event(), threading.Event()

    def late(host: str, port: int) -> Iterable[str]:
        release.wait(10)
        ended.set()
        return []

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Lookups(late).find("a.test", 80), 0.01)

    asyncio.run(give_up())
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "lookup"]
    release.set()
    thread.join(10)
    assert ended.is_set()
