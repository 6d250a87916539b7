"""Where a request comes from: its machine, the name that it used for this server, and the web page behind it.

A server that asks for no key is protected by these alone. A browser lets any web page send requests to any
address, this machine's included; it names the page in ``Origin`` and, since 2023 in every browser, its
relation to the server in ``Sec-Fetch-Site``. A page whose own name was made to lead here (DNS rebinding) is
known by the ``Host``.
"""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from server.errors import ForbiddenError

Origin = tuple[str, str, int]  # scheme, host, port

_HOST = re.compile(
    r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*))(?::(?P<port>\d{1,5}))?"
)
_PORTS = {"http": 80, "https": 443}
# A request with one of these came through a proxy, so its sender may be anywhere.
_FORWARDING = re.compile(
    r"x-forwarded-.+|forwarded|via|x-real-ip|x-(?:cluster-)?client-ip|true-client-ip|cf-.+|x-original-.+|x-envoy-.+"
)
# The names that Docker and Podman give a container for the machine it runs on.
_FROM_CONTAINERS = ("host.docker.internal", "host.containers.internal", "gateway.docker.internal")
# Nobody can register these, so no stranger's page has such a name: RFC 6762, RFC 8375, ICANN's .internal.
_PRIVATE_NAMES = (".local", ".localhost", ".home.arpa", ".internal", ".lan")


class OriginCheck:
    """The checks of a server without keys."""

    def __init__(
        self, *, origins: Collection[str] = (), public_url: str | None = None, hosts: Collection[str] = ()
    ) -> None:
        """Read the settings.

        Args:
            origins: of the pages that may use the server, in addition to its own.
            public_url: of the server for its clients; a page at it is its own.
            hosts: names of the server that its clients use.
        """
        self._public = _origin(public_url or "")
        self._origins = {found for found in map(_origin, origins) if found}
        self._hosts = {name.lower() for name in hosts} | ({self._public[1]} if self._public else set())

    def refuse_other_machines(self, connection: HTTPConnection) -> None:
        """Refuse whatever may come from another machine.

        Raises:
            ForbiddenError: the connection or the ``Host`` is not loopback, or a proxy forwarded the request.
        """
        client, host = connection.client, _host(connection)
        direct = client is not None and is_loopback(client.host) and not _is_forwarded(connection)
        if not direct or host is None or not is_loopback(host):
            if host in _FROM_CONTAINERS:
                raise ForbiddenError(
                    f"{host} is how a container calls this machine, and this server has no API keys yet, so "
                    "it answers only programs outside containers; create a key with `inpaint keys create`, "
                    "start the server with --host 0.0.0.0, and give the key to the program in the container"
                )
            raise ForbiddenError(
                "this server has no API keys yet, so it answers only programs on its own machine, and none "
                "through a proxy; create a key with `inpaint keys create`"
            )

    def refuse_other_names(self, connection: HTTPConnection) -> None:
        """Refuse a name for this server that anybody could register.

        Raises:
            ForbiddenError: the ``Host`` is such a name, and not one of the settings.
        """
        host = _host(connection)
        if host is None or not (_is_address(host) or "." not in host or host.endswith(_PRIVATE_NAMES)):
            if host is not None and host in self._hosts:
                return
            raise ForbiddenError(
                "this server answers without a key, so it must know its own name; "
                "add the name to INPAINT_ALLOWED_HOSTS, or create a key and start it without --no-auth"
            )

    def refuse_other_pages(self, connection: HTTPConnection) -> None:
        """Refuse a web page of another site, or of another server on this machine.

        Raises:
            ForbiddenError: the page is not the server's own, and not one of the settings.
        """
        given = connection.headers.get("origin")
        if given is None:
            own = connection.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        else:
            page = _origin(given)
            own = page is not None and page in {_of_request(connection), self._public, *self._origins}
        if not own:
            raise ForbiddenError(
                "this server answers without a key, so no other web page may use it; "
                "add the page's origin to INPAINT_CORS_ORIGINS, or create a key with `inpaint keys create`"
            )


def is_loopback(host: str) -> bool:
    """Return whether ``host``, a name or an address, is this machine for itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_forwarded(connection: HTTPConnection) -> bool:
    return any(_FORWARDING.fullmatch(name.lower()) for name in connection.headers)


def _host(connection: HTTPConnection) -> str | None:
    """Return the host that the request names; None if it names none, or two, or writes it oddly."""
    # Not Starlette's request.url, which replaces a Host that it cannot parse by the server's own address.
    given = connection.headers.getlist("host")
    found = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
    if found is None or int(found["port"] or 0) > 65_535:
        return None
    return found["six"] or found["name"]


def _of_request(connection: HTTPConnection) -> Origin | None:
    return _origin(f"{connection.scope['scheme']}://{connection.headers.get('host', '')}")


def _origin(url: str) -> Origin | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # misplaced brackets, or no port
        return None
    if not host or parts.scheme not in _PORTS:
        return None
    return parts.scheme, host, port if port is not None else _PORTS[parts.scheme]
