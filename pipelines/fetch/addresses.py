"""URL and IP address checks: which URLs may be requested at all, which addresses are public, and what a host resolves to.

Numbers in disguise (``2130706433``, ``0177.0.0.1``, ``127。0。0。1``) need no rule of their own: what counts is the address
that the resolver makes of a host, and that address is the one connected to.
"""

import ipaddress
import socket
import string
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from pipelines.fetch.drop_reasons import FetchError

MAX_URL_LENGTH = 8192
# The system's resolver does not tell how long an answer is valid. Crawls overload resolvers, and then lose rows to them.
TTL_S = 300.0
FAILURE_TTL_S = 120.0
MAX_ADDRESSES = 16  # of a host; an answer may hold thousands
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that IANA has given out for hosts
# Global by the registry, or by some versions of the ``ipaddress`` module, and yet not public.
_NOT_PUBLIC = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's metadata and agent service
    ipaddress.ip_network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata service
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.ip_network("100.64.0.0/10"),  # carrier-grade NAT; Alibaba's metadata service
    ipaddress.ip_network("240.0.0.0/4"),
)
_WEB_PORTS = frozenset({80, 443})
# Above 1023, what the Fetch standard of the WHATWG calls a bad port: protocols that an HTTP request could speak to.
_BAD_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6679, 6697, 10080, *range(6665, 6670)}
)
_TARGET_SAFE = "%/:=&?~#+!$,;'@()*[]|"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL in parts.

    Attributes:
        scheme: ``http`` or ``https``.
        host: lower case, in ASCII.
        port: 80, 443, or one above 1023 that belongs to no other well-known protocol.
        path: path and query, percent-encoded where a request line needs it.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Split and check a URL.

    Raises:
        FetchError: ``bad_url`` or ``forbidden_port``.
    """
    if len(url) > MAX_URL_LENGTH:
        raise FetchError("bad_url", f"{len(url)} characters, {MAX_URL_LENGTH} allowed")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError as error:  # a port that is no number, a malformed IPv6 address, a label that is too long
        raise FetchError("bad_url", error) from error
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError("bad_url", f"{url[:100]!r} is not http or https with a host")
    if "@" in parts.netloc:
        raise FetchError("bad_url", f"{url[:100]!r} names a user, which serves to pass one host off as another")
    if not set(host) <= {*string.ascii_lowercase, *string.digits, *".-_:"}:
        raise FetchError("bad_url", f"{host[:100]!r} is not the name of a host")
    port = (443 if parts.scheme == "https" else 80) if port is None else port
    if (port < 1024 and port not in _WEB_PORTS) or port in _BAD_PORTS:
        raise FetchError("forbidden_port", f"{port} is not a port of the web")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=host, port=port, path=quote(path, safe=_TARGET_SAFE))


def redirect_url(url: str, location: str) -> str:
    """The absolute URL of a Location header.

    Raises:
        FetchError: ``bad_redirect``: it is no URL, or none of http or https.
    """
    try:
        absolute = urljoin(url, location)
        parse_target(absolute)
    except ValueError as error:  # a malformed IPv6 address
        raise FetchError("bad_redirect", error) from error
    except FetchError as error:
        raise FetchError("bad_redirect" if error.slug == "bad_url" else error.slug, error.detail) from error
    return absolute


def look_up(host: str) -> tuple[str, ...]:
    """The addresses of a host, the first `MAX_ADDRESSES` in the resolver's order of preference.

    Raises:
        FetchError: ``dns``.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError("dns", error) from error
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))[:MAX_ADDRESSES]


def is_allowed(address: str, *, allow_loopback: bool) -> bool:
    """Whether an address is on the public internet, or on this machine where that is allowed."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv6 address that stands for an IPv4 one is as public as that one.
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        ip = inner or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip)
    if ip.is_loopback:
        return allow_loopback
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)
