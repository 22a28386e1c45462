"""The only door to the web: a hardened replacement for what stands behind ``urllib.request.urlopen``.

img2dataset fetches through ``urllib.request.urlopen``, which follows ``file:`` URLs and redirects to private addresses,
reads bodies of any size, and counts its timeout anew for every packet. This opener allows http and https only, connects
only to addresses that it has checked, caps the body, and holds one deadline from the first packet of a URL to the last.
"""

import http.client
import ipaddress
import socket
import ssl
import string
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from pipelines.stages.deadline import DeadlineSocket, remaining_s

MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_SLUG_BY_STATUS = {403: "http_403", 404: "http_404", 410: "http_404", 429: "http_429"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, kw_only=True)
class OpenerConfig:
    """What a fetch may do.

    Attributes:
        deadline_s: seconds for one URL in all: connecting, redirects, headers and body. Name resolution is not
            interruptible: it ends when the system's resolver gives up, and what it took counts.
        max_bytes: longest body.
        allow_loopback: whether addresses of this machine are allowed.
        connect_to: host name -> ``ip:port``, like curl's ``--connect-to``. These targets are trusted.
        user_agent: sent with every request.
    """

    deadline_s: float = 20.0
    max_bytes: int = 20 * 2**20
    allow_loopback: bool = False
    connect_to: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = "detclipv2-dataset-builder/0.1"


class FetchError(Exception):
    """A URL that could not be fetched: ``<slug>: <detail>``, the slug being one of ``download.DROP_REASONS``."""

    def __init__(self, slug: str, detail: object) -> None:
        super().__init__(f"{slug}: {detail}")


@contextmanager
def hardened_urlopen(config: OpenerConfig) -> Iterator[None]:
    """Within the context, ``urllib.request.urlopen`` of this process goes through a ``HardenedOpener``."""
    previous = urllib.request._opener  # type: ignore[attr-defined]
    urllib.request.install_opener(HardenedOpener(config))
    try:
        yield
    finally:
        urllib.request.install_opener(previous)


class HardenedOpener(urllib.request.OpenerDirector):
    """An opener for GET requests. It ignores the environment's proxies, which would hide the real address."""

    def __init__(self, config: OpenerConfig) -> None:
        super().__init__()
        self.config = config
        self._ssl_context = ssl.create_default_context()

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> "Response":
        """Fetch a URL up to its headers; ``Response.read`` gives the body.

        Args:
            fullurl: a URL or a ``urllib.request.Request``, of which only the URL is used.
            data: must be None.
            timeout: ignored in favour of ``OpenerConfig.deadline_s``.

        Raises:
            FetchError: with the reason as its first word.
        """
        assert data is None, "this opener only reads"
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        deadline = time.monotonic() + self.config.deadline_s
        with _errors_as_slugs():
            for _ in range(MAX_REDIRECTS + 1):
                response = self._get(url, deadline)
                if response.status not in _REDIRECTS or "Location" not in response.headers:
                    response.raise_for_status()
                    return response
                response.close()
                # http.client reads headers as Latin-1, whatever their bytes meant: percent-encode those bytes.
                location = quote(response.headers["Location"], encoding="latin-1", safe=string.punctuation)
                url = urljoin(url, location)
        raise FetchError("http_other", f"more than {MAX_REDIRECTS} redirects")

    def _get(self, url: str, deadline: float) -> "Response":
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FetchError("bad_url", f"{url[:100]!r} is not http or https with a host")
        host = parts.hostname.encode("idna").decode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        sock = self._connect(host, port, deadline)
        try:
            if parts.scheme == "https":
                sock.settimeout(remaining_s(deadline))
                sock = self._ssl_context.wrap_socket(sock, server_hostname=host)
            connection = http.client.HTTPConnection(host, port)
            if parts.scheme == "https":
                connection.default_port = 443  # so that the Host header leaves out the usual port
            connection.sock = DeadlineSocket(sock, deadline=deadline)
            headers = {"User-Agent": self.config.user_agent, "Accept": "image/*,*/*;q=0.5", "Connection": "close"}
            connection.request("GET", _request_target(parts), headers=headers)
            return Response(connection.getresponse(), max_bytes=self.config.max_bytes)
        finally:
            sock.close()  # the response holds its own reference to the open connection

    def _connect(self, host: str, port: int, deadline: float) -> socket.socket:
        """Connect to the first address of ``host`` that is allowed and answers."""
        if host in self.config.connect_to:
            ip, _, trusted_port = self.config.connect_to[host].rpartition(":")
            return socket.create_connection((ip.strip("[]"), int(trusted_port)), timeout=remaining_s(deadline))
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        allowed = [address for address in addresses if self._is_allowed(address)]
        if not allowed:
            raise FetchError("forbidden_address", f"{host} is {', '.join(addresses)}")
        for num_left in range(len(allowed), 0, -1):
            try:
                # A silent address leaves the others their share of the time.
                timeout_s = remaining_s(deadline) / num_left
                return socket.create_connection((allowed[-num_left], port), timeout=timeout_s)
            except OSError as error:
                last_error = error
        raise last_error

    def _is_allowed(self, address: str) -> bool:
        ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address):
            # An IPv6 address that stands for an IPv4 one is as public as that one.
            inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
            ip = inner or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip)
        if ip.is_loopback:
            return self.config.allow_loopback
        return ip.is_global and not ip.is_multicast


class Response:
    """What img2dataset needs of a response: ``headers``, ``read`` and a context manager."""

    def __init__(self, response: http.client.HTTPResponse, *, max_bytes: int) -> None:
        self._response = response
        self._max_bytes = max_bytes
        self.status = response.status
        self.headers = response.headers

    def raise_for_status(self) -> None:
        """Raise a ``FetchError`` and close unless the status is 2xx."""
        if not 200 <= self.status < 300:
            self.close()
            slug = "http_5xx" if self.status >= 500 else _SLUG_BY_STATUS.get(self.status, "http_other")
            raise FetchError(slug, f"{self.status} {self._response.reason}")

    def read(self) -> bytes:
        """The whole body.

        Raises:
            FetchError: it is longer than allowed, shorter than announced, or came too slowly.
        """
        with _errors_as_slugs():
            announced = self._response.length
            if announced is not None and announced > self._max_bytes:
                raise FetchError("too_large", f"{announced} bytes announced, {self._max_bytes} allowed")
            body = self._response.read(self._max_bytes + 1)
            if len(body) > self._max_bytes:
                raise FetchError("too_large", f"more than {self._max_bytes} bytes")
            if announced is not None and len(body) < announced:
                raise FetchError("truncated", f"{len(body)} of {announced} bytes")
            return body

    def close(self) -> None:
        """Close the connection."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _request_target(parts: SplitResult) -> str:
    """Path and query, with what may not stand in a request line (spaces, letters beyond ASCII) percent-encoded."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return quote(target, safe="%/:=&?~#+!$,;'@()*[]|")


@contextmanager
def _errors_as_slugs() -> Iterator[None]:
    try:
        yield
    except FetchError:
        raise
    except socket.gaierror as error:
        raise FetchError("dns", error) from error
    except TimeoutError as error:
        raise FetchError("timeout", error) from error
    except http.client.IncompleteRead as error:
        raise FetchError("truncated", error) from error
    except (http.client.InvalidURL, UnicodeError) as error:
        raise FetchError("bad_url", error) from error
    except (http.client.HTTPException, OSError) as error:
        raise FetchError("connection", f"{type(error).__name__} {error}") from error
    except ValueError as error:  # a port that is no number, a malformed IPv6 host
        raise FetchError("bad_url", error) from error
