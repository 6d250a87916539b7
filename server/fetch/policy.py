"""The operator's policy for fetching, and the strict parsing of URLs. Opens no connection."""

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Self

import httpx2

from server.errors import UrlError
from server.fetch.addresses import Address, Network, is_public, unmapped
from server.settings import Settings

MALFORMED = (
    "this is not a URL of a picture: write http:// or https://, the host's name and the path, without spaces"
)

_PORTS = {"http": 80, "https": 443}
_MAX_URL = 8192  # characters; signed storage URLs have about 2,000

# Stricter than the parser: no userinfo, no "%" in the host, no "\" or space, only ASCII digits in the port.
_SHAPE = re.compile(
    r"https?://(?:\[[0-9a-f:.]+\]|[^\[\]@:/?#%\\ ]{1,253})(?::[0-9]{1,5})?(?:[/?#][^\\ ]*)?", re.IGNORECASE
)
# The C library reads a host whose last label is a number as an address: 127.1, 0x7f000001.
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*(?![0-9]+$|0x[0-9a-f]*$)[a-z0-9_-]{1,63}")


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's rules for fetching: limits, and allowed or denied hosts, ports and networks."""

    timeout_s: float  # for the whole fetch: resolving, connecting, redirects, the body
    max_bytes: int
    redirects: int  # to follow at most; each is checked like the first URL
    ports: tuple[int, ...]
    hosts: tuple[str, ...]  # if not empty, no other host is allowed
    denied_networks: tuple[Network, ...]  # in addition to those that are not public
    denied_hosts: tuple[str, ...] = ()  # the server's own name
    allowed_networks: tuple[Network, ...] = ()  # allowed although not public; only for tests, never a setting

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Build the operator's policy; hosts may have any spelling that a URL may have."""
        own = httpx2.URL(settings.public_url).raw_host.decode() if settings.public_url else ""
        return cls(
            timeout_s=settings.fetch_timeout_s,
            max_bytes=settings.fetch_max_bytes,
            redirects=settings.fetch_redirects,
            ports=settings.fetch_ports,
            hosts=tuple(httpx2.URL(f"http://{host}/").raw_host.decode() for host in settings.fetch_hosts),
            denied_networks=tuple(ip_network(network) for network in settings.fetch_denied_networks),
            denied_hosts=(own,) if own else (),
        )

    def allows_host(self, host: str, port: int) -> bool:
        """Return whether this name may be fetched from at all, before it is resolved."""
        return port in self.ports and host not in self.denied_hosts and (not self.hosts or host in self.hosts)

    def allows_address(self, address: Address) -> bool:
        """Return whether a connection to ``address`` may be opened."""
        address = unmapped(address)
        if any(address in network for network in self.denied_networks):
            return False
        return is_public(address) or any(address in network for network in self.allowed_networks)


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a URL that passed the syntax check, as they are dialled; ``host`` is ASCII."""

    url: httpx2.URL
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL once, with one IDNA step; every check and the connection use this result.

        Raises:
            UrlError: not an http(s) URL, or one that two parsers might read differently.
        """
        if len(text) > _MAX_URL or not text.isprintable() or not _SHAPE.fullmatch(text):
            raise UrlError(MALFORMED)
        try:
            url = httpx2.URL(text)
        except httpx2.InvalidURL as error:
            raise UrlError(MALFORMED) from error
        host = url.raw_host.decode("ascii")
        if literal(host) is None and not _NAME.fullmatch(host):
            raise UrlError(MALFORMED)
        return cls(url, host, _PORTS[url.scheme] if url.port is None else url.port)


def literal(host: str) -> Address | None:
    """Return the address that ``host`` spells out, or None if it is a name."""
    try:
        return unmapped(ip_address(host))
    except ValueError:
        return None
