"""Name lookups, and the test for public addresses. Opens no connection and knows no policy.

Python's ``is_global`` is not used: on 3.11 it calls 192.0.0.192, multicast, ``::127.0.0.1``, NAT64, 6to4 and
``fec0::1`` global.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Iterable[str]]  # (host, port) → addresses as text; blocks; raises OSError

# The IANA special-purpose registry, including its "globally reachable" rows, where no pictures are hosted.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 is a cloud's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent, although the number is public
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_UNICAST_6 = IPv6Network("2000::/3")  # all that IANA has allocated
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo (an IPv4 address inside), ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)


def unmapped(address: Address) -> Address:
    """Return the ``a.b.c.d`` of ``::ffff:a.b.c.d``, which the kernel would dial; others unchanged."""
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return inner or address


def is_public(address: Address) -> bool:
    """Return whether ``address`` is on the public internet; of an IPv4-mapped one the IPv4 address counts."""
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.scope_id is not None or address not in _UNICAST_6 or _is_isatap(address):
        return False
    return not any(address in network for network in _NOT_PUBLIC_6)


def _is_isatap(address: IPv6Address) -> bool:
    """Return whether the interface id is ``0000:5efe:`` or ``0200:5efe:`` and an IPv4 address (RFC 5214)."""
    return (int(address) >> 32) & 0xFDFF_FFFF == 0x0000_5EFE


def ask_system(host: str, port: int) -> list[str]:
    """Resolve ``host`` with ``getaddrinfo``, in the order that the system prefers."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Lookups:
    """A resolver that looks names up in its own threads, a limited number at a time, for one event loop.

    The threads are daemons and not an executor's: ``getaddrinfo`` cannot be cancelled, and a process waits
    for an executor's threads when it ends, so one dead name server would delay every shutdown.
    """

    def __init__(self, resolver: Resolver = ask_system, *, threads: int = 32) -> None:
        self._resolver = resolver
        self._slots = asyncio.Semaphore(threads)

    async def find(self, host: str, port: int) -> tuple[Address, ...]:
        """Return every address of ``host`` once, IPv4-mapped ones as IPv4; empty if the name is unknown.

        Cancelling ends the wait; the slot stays taken until the resolver returns.

        Raises:
            ValueError: the resolver's answer is not an address.
        """
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def settle(found: list[str]) -> None:
            self._slots.release()
            if not answer.done():
                answer.set_result(found)

        def work() -> None:
            found: list[str] = []
            try:
                with suppress(OSError, UnicodeError):  # an unknown name; an invalid label
                    found = list(self._resolver(host, port))
            finally:
                with suppress(RuntimeError):  # the loop was closed while the resolver hung
                    loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=work, name="lookup", daemon=True).start()
        return tuple(dict.fromkeys(unmapped(ip_address(text)) for text in await answer))
