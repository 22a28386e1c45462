"""HTTP client for untrusted URLs, on ``http.client``; all that is fetched from the web goes through it.

``urllib.request.urlopen``, which img2dataset uses, follows ``file:`` URLs and redirects to private addresses, reads bodies of any
size, counts its timeout anew for every packet, and sends a host as many requests at once as there are threads. This client
allows http and https only, connects only to addresses that it has checked, limits the body and the seconds of a URL, obeys each
host's concurrency limit, Retry-After and robots.txt, and retries failures that may be transient. It ignores the environment's
proxies, which would hide the real address.
"""

import http.client
import socket
import ssl
import string
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal
from urllib.parse import quote

from pipelines.fetch import addresses, robots
from pipelines.fetch.addresses import Target, is_allowed, parse_target, redirect_url
from pipelines.fetch.deadline import Budget, DeadlineSocket, remaining_s
from pipelines.fetch.drop_reasons import FetchError
from pipelines.fetch.hosts import Host, HostLimits, Hosts, backoff_s
from pipelines.fetch.single_flight import SingleFlightCache

MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_SLUG_BY_STATUS = {403: "http_403", 404: "http_404", 410: "http_404", 429: "http_429"}
_SLUG_BY_ERROR = {
    TimeoutError: "timeout",
    http.client.IncompleteRead: "truncated",
    ssl.SSLCertVerificationError: "tls",
    http.client.InvalidURL: "bad_url",
}
_RETRYABLE = frozenset({"connection", "http_429", "http_5xx", "truncated"})  # a timeout has used up the budget


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """Limits, politeness and identity of the HTTP client.

    Attributes:
        deadline_s: seconds for one URL in all: connecting, redirects, headers, body, further tries and the pauses that a
            host asks for; the wait for a slot at a host is not counted. Name resolution is not interruptible: it ends
            when the system's resolver gives up, and what it took counts.
        max_bytes: longest body.
        max_tries: requests for one URL, the first included, where a failure is retryable.
        backoff_base_s: seconds from the first try to the second, about; doubled for each further one.
        limits: how many requests a host gets at once, and when it counts as dead.
        robots: whether robots.txt is obeyed. A host whose robots.txt cannot be fetched is not asked for images either, as
            RFC 9309 wants it, and its rows are dropped with the reason for that.
        allow_loopback: whether addresses of this machine are allowed.
        connect_to: host name -> ``ip:port``, like curl's ``--connect-to``. These targets are trusted.
        user_agent: product and version, sent with every request. Sites address the product in robots.txt and X-Robots-Tag.
        contact_url: where a site's owner reads what this robot is; sent with the user agent.
    """

    deadline_s: float = 20.0
    max_bytes: int = 20 * 2**20
    max_tries: int = 3
    backoff_base_s: float = 0.5
    limits: HostLimits = field(default_factory=HostLimits)
    robots: Literal["obey", "ignore"] = "obey"
    allow_loopback: bool = False
    connect_to: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = "detclipv2-dataset-builder/0.1"
    contact_url: str = ""

    def __post_init__(self) -> None:
        if not self.user_agent_header.isascii() or not self.user_agent_header.isprintable():
            raise ValueError(f"the user agent {self.user_agent_header!r} goes into a header: printable ASCII only")
        if self.max_tries < 1:
            raise ValueError(f"max_tries is {self.max_tries}: a URL is tried at least once")

    @property
    def product(self) -> str:
        return self.user_agent.partition("/")[0]

    @property
    def user_agent_header(self) -> str:
        return f"{self.user_agent} (+{self.contact_url})" if self.contact_url else self.user_agent


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a server answered.

    Attributes:
        body: empty where it was not read.
        robots_tags: values of the X-Robots-Tag headers.
        location: where it redirects to, or None.
    """

    body: bytes = b""
    robots_tags: tuple[str, ...] = ()
    location: str | None = None


Keep = Callable[[Response], None]


class HttpClient:
    """GET requests for many threads at once; remembers hosts' addresses, robots.txt, Retry-After, and which do not answer."""

    def __init__(self, config: HttpConfig) -> None:
        self.config = config
        self._is_opted_out = robots.load_opt_out_rule(product=config.product)
        self._ssl_context = ssl.create_default_context()
        self._hosts = Hosts(config.limits)
        self._dns = SingleFlightCache[tuple[str, ...]](ttl_s=addresses.TTL_S, failure_ttl_s=addresses.FAILURE_TTL_S)
        self._robots = SingleFlightCache[robots.Robots](
            ttl_s=robots.TTL_S, failure_ttl_s=robots.FAILURE_TTL_S, weight=lambda rules: 1 + rules.num_rules / 100
        )

    def get(self, url: str, *, keep: Keep | None = None) -> Response:
        """Fetch a URL, its body included.

        ``keep`` is called with the whole response before its connection is closed, so that a body that the server has sent need
        not be requested again.

        Raises:
            FetchError: it could not be fetched, or must not be used.
        """
        budget = Budget(self.config.deadline_s)
        num_tries = 1
        while True:
            try:
                return self._follow(url, budget, keep=keep)
            except FetchError as error:
                wait_s = backoff_s(url, num_tries=num_tries, base_s=self.config.backoff_base_s)
                if error.slug not in _RETRYABLE or num_tries == self.config.max_tries or wait_s >= budget.left_s:
                    raise
            num_tries += 1
            budget.sleep(wait_s)

    def check_opt_out(self, robots_tags: Sequence[str]) -> None:
        """Raise FetchError ``opted_out`` where X-Robots-Tag headers keep an image out of training or indexing."""
        if robots_tags and self._is_opted_out(robots_tags):
            raise FetchError("opted_out", "X-Robots-Tag")

    def _follow(self, url: str, budget: Budget, *, keep: Keep | None = None, is_robots: bool = False) -> Response:
        """Fetch a URL, or what it is redirected to."""
        for _ in range(MAX_REDIRECTS + 1):
            target = parse_target(url)
            if self.config.robots == "obey" and not is_robots:
                rules = self._robots.get(target.origin, partial(self._fetch_robots, target))
                if not rules.allows(target.path):
                    raise FetchError("robots_disallowed", f"{target.origin}/robots.txt forbids {target.path[:100]}")
            response = self._request(target, budget, keep=keep, is_robots=is_robots)
            if response.location is None:
                return response
            url = redirect_url(url, response.location)
        raise FetchError("http_other", f"more than {MAX_REDIRECTS} redirects")

    def _fetch_robots(self, target: Target) -> robots.Robots:
        budget = Budget(self.config.deadline_s)
        try:
            body = self._follow(f"{target.origin}/robots.txt", budget, is_robots=True).body
        except FetchError as error:
            # RFC 9309, 2.3.1.3: without a robots.txt (4xx) all is allowed; 429 is what a host sends that has one.
            if (not error.slug.startswith("http_4") and error.slug != "http_other") or error.slug == "http_429":
                detail = f"robots.txt: {error.detail}" if error.slug.startswith("http_") else error.detail
                raise FetchError(error.slug, detail) from error
            body = b""
        return robots.Robots.parse(body.decode(errors="replace"), product=self.config.product)

    def _request(self, target: Target, budget: Budget, *, keep: Keep | None, is_robots: bool) -> Response:
        """One request, when the host has a slot for it."""
        host = self._hosts.get(f"{target.host}:{target.port}")
        with host.slot(), _errors_as_slugs():
            budget.sleep(host.retry_after_left(budget.left_s))
            with budget.running() as deadline:
                sock = self._connect(target.host, target.port, deadline)
                try:
                    if target.scheme == "https":
                        sock.settimeout(remaining_s(deadline))
                        sock = self._ssl_context.wrap_socket(sock, server_hostname=target.host)
                    with self._send(target, sock, deadline) as answer:
                        return self._receive(answer, host, is_robots=is_robots, keep=keep)
                finally:
                    sock.close()

    def _send(self, target: Target, sock: socket.socket, deadline: float) -> http.client.HTTPResponse:
        """Send the request and read status and headers."""
        connection = http.client.HTTPConnection(target.host, target.port)
        if target.scheme == "https":
            connection.default_port = 443  # so that the Host header leaves out the usual port
        connection.sock = DeadlineSocket(sock, deadline=deadline)
        accept = "image/*,*/*;q=0.5"
        headers = {"User-Agent": self.config.user_agent_header, "Accept": accept, "Connection": "close"}
        connection.request("GET", target.path, headers=headers)
        return connection.getresponse()

    def _receive(self, answer: http.client.HTTPResponse, host: Host, *, is_robots: bool, keep: Keep | None) -> Response:
        """The response, with its body unless it redirects; FetchError where status, headers or length forbid its use."""
        location = answer.headers["Location"]
        if answer.status in _REDIRECTS and location is not None:
            # http.client reads headers as Latin-1, whatever their bytes meant: percent-encode those bytes.
            return Response(location=quote(location, encoding="latin-1", safe=string.punctuation))
        if not 200 <= answer.status < 300:
            slug = "http_5xx" if answer.status >= 500 else _SLUG_BY_STATUS.get(answer.status, "http_other")
            if answer.status in (429, 503):
                host.note_retry_after(answer.headers["Retry-After"], slug=slug)
            raise FetchError(slug, f"{answer.status} {answer.reason}")
        if is_robots:
            return Response(body=answer.read(robots.MAX_BYTES))
        robots_tags = tuple(answer.headers.get_all("X-Robots-Tag", []))
        self.check_opt_out(robots_tags)  # before the body, which nobody would use
        response = Response(body=_read(answer, max_bytes=self.config.max_bytes), robots_tags=robots_tags)
        if keep is not None:
            keep(response)
        return response

    def _connect(self, host: str, port: int, deadline: float) -> socket.socket:
        """Connect to the first address of ``host`` that is allowed and answers."""
        if host in self.config.connect_to:
            ip, _, trusted_port = self.config.connect_to[host].rpartition(":")
            return socket.create_connection((ip.strip("[]"), int(trusted_port)), timeout=remaining_s(deadline))
        found = self._dns.get(host, partial(addresses.look_up, host))
        allowed = [a for a in found if is_allowed(a, allow_loopback=self.config.allow_loopback)]
        if not allowed:
            raise FetchError("forbidden_address", f"{host} is {', '.join(found)}")
        for num_left in range(len(allowed), 0, -1):
            try:
                timeout_s = remaining_s(deadline) / num_left  # a silent address leaves the others their share
                return socket.create_connection((allowed[-num_left], port), timeout=timeout_s)
            except OSError as error:
                last_error = error
        raise last_error


_shared: HttpClient | None = None
_shared_lock = threading.Lock()


def client_for(config: HttpConfig) -> HttpClient:
    """The client of this process, so that the next shard knows what the last one learnt about the same hosts."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared.config != config:
            _shared = HttpClient(config)
        return _shared


def _read(answer: http.client.HTTPResponse, *, max_bytes: int) -> bytes:
    announced = answer.length
    if announced is not None and announced > max_bytes:
        raise FetchError("too_large", f"{announced} bytes announced, {max_bytes} allowed")
    body = answer.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise FetchError("too_large", f"more than {max_bytes} bytes")
    if announced is not None and len(body) < announced:
        raise FetchError("truncated", f"{len(body)} of {announced} bytes")
    return body


@contextmanager
def _errors_as_slugs() -> Iterator[None]:
    try:
        yield
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: a chunk of a negative size, say
        slug = next((slug for kind, slug in _SLUG_BY_ERROR.items() if isinstance(error, kind)), "connection")
        raise FetchError(slug, f"{type(error).__name__} {error}") from error
