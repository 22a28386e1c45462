"""The only door to the web: a hardened replacement for what stands behind ``urllib.request.urlopen``.

img2dataset fetches through ``urllib.request.urlopen``, which follows ``file:`` URLs and redirects to private addresses,
reads bodies of any size, counts its timeout anew for every packet, and asks a host for as much as there are threads.
This opener allows http and https only, connects only to addresses that it has checked, caps the body, holds one budget
of seconds for a URL, keeps to each host's limit, pauses and robots.txt, and tries again what may pass.
"""

import http.client
import io
import socket
import ssl
import string
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self
from urllib.parse import quote, urljoin

from pipelines.fetch import robots
from pipelines.fetch.addresses import Target, is_allowed, parse_target
from pipelines.fetch.deadline import Budget, DeadlineSocket, remaining_s
from pipelines.fetch.fetch_error import FetchError
from pipelines.fetch.hosts import Host, HostLimits, Hosts, backoff_s
from pipelines.fetch.resolver import Resolver
from pipelines.fetch.single_flight import SingleFlightCache
from pipelines.fetch.spool import Answers

MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_SLUG_BY_STATUS = {403: "http_403", 404: "http_404", 410: "http_404", 429: "http_429"}
_MAY_PASS = frozenset({"connection", "http_429", "http_5xx", "truncated"})  # a timeout has used up the budget
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_DIRECTIVES_WITH_A_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


@dataclass(frozen=True, kw_only=True)
class OpenerConfig:
    """What a fetch may do.

    Attributes:
        deadline_s: seconds for one URL in all: connecting, redirects, headers, body, further tries and the pauses that a
            host asks for; the wait for a slot at a host is not counted. Name resolution is not interruptible: it ends
            when the system's resolver gives up, and what it took counts.
        max_bytes: longest body.
        max_tries: requests for one URL, the first included, where a failure may pass.
        backoff_base_s: seconds from the first try to the second, about; doubled for each further one.
        limits: how many requests a host gets at once, and when it counts as dead.
        robots: whether robots.txt is obeyed. A host whose robots.txt cannot be had is not asked for images either, as
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


@contextmanager
def hardened_urlopen(config: OpenerConfig, *, answers: Answers | None = None) -> Iterator[None]:
    """Within the context, ``urllib.request.urlopen`` of this process goes through a ``HardenedOpener``.

    Args:
        config: how it fetches.
        answers: where it keeps what it fetches; what is kept there already it does not ask for.
    """
    previous = urllib.request._opener  # type: ignore[attr-defined]
    opener = _opener_for(config)
    opener.answers = answers
    urllib.request.install_opener(opener)
    try:
        yield
    finally:
        opener.answers = None
        urllib.request.install_opener(previous)


class HardenedOpener(urllib.request.OpenerDirector):
    """An opener for GET requests. It ignores the environment's proxies, which would hide the real address.

    What it learns of hosts it keeps: addresses, robots.txt, pauses, and which are dead.
    """

    def __init__(self, config: OpenerConfig) -> None:
        super().__init__()
        self.config = config
        self.answers: Answers | None = None
        self._ssl_context = ssl.create_default_context()
        self._hosts = Hosts(config.limits)
        self._resolver = Resolver()
        self._robots: SingleFlightCache[robots.Robots] = SingleFlightCache(
            ttl_s=robots.TTL_S, failure_ttl_s=robots.FAILURE_TTL_S
        )

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> "Response":
        """Fetch a URL, its body included.

        Args:
            fullurl: a URL or a ``urllib.request.Request``, of which only the URL is used.
            data: must be None.
            timeout: ignored in favour of ``OpenerConfig.deadline_s``.

        Raises:
            FetchError: with the reason as its first word.
        """
        assert data is None, "this opener only reads"
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        known = self.answers.start(url) if self.answers else None
        if known is not None:
            return Response(_Known(*known), body=known[1])
        budget = Budget(self.config.deadline_s)
        num_tries = 1
        while True:
            try:
                return self._follow(url, budget)
            except FetchError as error:
                wait_s = backoff_s(url, num_tries=num_tries, base_s=self.config.backoff_base_s)
                if error.slug not in _MAY_PASS or num_tries == self.config.max_tries or wait_s >= budget.left_s:
                    raise
            num_tries += 1
            budget.sleep(wait_s)

    def _follow(self, url: str, budget: Budget) -> "Response":
        """Fetch a URL, or what it is redirected to."""
        for _ in range(MAX_REDIRECTS + 1):
            target = parse_target(url)
            if self.config.robots == "obey":
                rules = self._robots.get(target.origin, partial(self._fetch_robots, target))
                if not rules.allows(target.path):
                    raise FetchError("robots_disallowed", f"{target.origin}/robots.txt forbids {target.path[:100]}")
            response = self._ask(target, budget)
            if response.location is None:
                if has_opted_out(response.headers, product=self.config.product):
                    raise FetchError("opted_out", "X-Robots-Tag")
                return response
            url = urljoin(url, response.location)
        raise FetchError("http_other", f"more than {MAX_REDIRECTS} redirects")

    def _fetch_robots(self, target: Target) -> robots.Robots:
        budget = Budget(self.config.deadline_s)
        url = f"{target.origin}/robots.txt"
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = self._ask(parse_target(url), budget, is_robots=True)
                if response.location is None:
                    return robots.Robots.parse(response.read().decode(errors="replace"), product=self.config.product)
                url = urljoin(url, response.location)
        except FetchError as error:
            # RFC 9309, 2.3.1.3: without a robots.txt (4xx) all is allowed; 429 is the plea of a host that has one.
            if (not error.slug.startswith("http_4") and error.slug != "http_other") or error.slug == "http_429":
                detail = f"robots.txt: {error.detail}" if error.slug.startswith("http_") else error.detail
                raise FetchError(error.slug, detail) from error
        return robots.Robots()

    def _ask(self, target: Target, budget: Budget, *, is_robots: bool = False) -> "Response":
        """One request, when the host has a slot for it."""
        host = self._hosts.get(f"{target.host}:{target.port}")
        with host.slot(), _errors_as_slugs():
            budget.sleep(host.quiet(budget.left_s))
            with budget.running() as deadline:
                return self._exchange(target, host, deadline, is_robots=is_robots)

    def _exchange(self, target: Target, host: Host, deadline: float, *, is_robots: bool) -> "Response":
        sock = self._connect(target.host, target.port, deadline)
        try:
            if target.scheme == "https":
                sock.settimeout(remaining_s(deadline))
                sock = self._ssl_context.wrap_socket(sock, server_hostname=target.host)
            connection = http.client.HTTPConnection(target.host, target.port)
            if target.scheme == "https":
                connection.default_port = 443  # so that the Host header leaves out the usual port
            connection.sock = DeadlineSocket(sock, deadline=deadline)
            connection.request("GET", target.path, headers=self._headers)
            with connection.getresponse() as answer:
                return self._receive(answer, host, is_robots=is_robots)
        finally:
            sock.close()

    @property
    def _headers(self) -> dict[str, str]:
        accept = "image/*,*/*;q=0.5"
        return {"User-Agent": self.config.user_agent_header, "Accept": accept, "Connection": "close"}

    def _receive(self, answer: http.client.HTTPResponse, host: Host, *, is_robots: bool) -> "Response":
        """The body, unless the status or the headers make it unwelcome."""
        location = answer.headers["Location"]
        if answer.status in _REDIRECTS and location is not None:
            # http.client reads headers as Latin-1, whatever their bytes meant: percent-encode those bytes.
            return Response(answer, location=quote(location, encoding="latin-1", safe=string.punctuation))
        if not 200 <= answer.status < 300:
            slug = "http_5xx" if answer.status >= 500 else _SLUG_BY_STATUS.get(answer.status, "http_other")
            if answer.status in (429, 503):
                host.ask_for_quiet(answer.headers["Retry-After"], slug=slug)
            raise FetchError(slug, f"{answer.status} {answer.reason}")
        if is_robots:
            return Response(answer, body=answer.read(robots.MAX_BYTES))
        if has_opted_out(answer.headers, product=self.config.product):
            return Response(answer)  # nobody will read its body
        body = _read(answer, max_bytes=self.config.max_bytes)
        if self.answers:
            self.answers.keep(answer.headers.get_all("X-Robots-Tag", []), body)
        return Response(answer, body=body)

    def _connect(self, host: str, port: int, deadline: float) -> socket.socket:
        """Connect to the first address of ``host`` that is allowed and answers."""
        if host in self.config.connect_to:
            ip, _, trusted_port = self.config.connect_to[host].rpartition(":")
            return socket.create_connection((ip.strip("[]"), int(trusted_port)), timeout=remaining_s(deadline))
        addresses = self._resolver.addresses(host)
        allowed = [a for a in addresses if is_allowed(a, allow_loopback=self.config.allow_loopback)]
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


class _Known:
    """Status and headers of an answer that was kept."""

    def __init__(self, directives: list[str], _body: bytes) -> None:
        self.status = 200
        self.headers = http.client.HTTPMessage()
        for value in directives:
            self.headers["X-Robots-Tag"] = value


class Response:
    """What img2dataset needs of a response: ``headers``, ``read`` and a context manager; the connection is closed."""

    def __init__(
        self, answer: http.client.HTTPResponse | _Known, *, body: bytes = b"", location: str | None = None
    ) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.location = location
        self._body = io.BytesIO(body)

    def read(self) -> bytes:
        """The rest of the body."""
        return self._body.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()


def has_opted_out(headers: http.client.HTTPMessage, *, product: str) -> bool:
    """Whether an X-Robots-Tag that addresses everyone, or this product, keeps an image out of training or indexing."""
    for value in headers.get_all("X-Robots-Tag", []):
        first, colon, rest = value.partition(":")
        agent = first.strip().lower()
        if colon and "," not in agent and agent not in _DIRECTIVES_WITH_A_VALUE:
            if agent != product.lower():
                continue
            value = rest
        if not _OPT_OUTS.isdisjoint(directive.strip().lower() for directive in value.split(",")):
            return True
    return False


_shared: HardenedOpener | None = None
_shared_lock = threading.Lock()


def _opener_for(config: OpenerConfig) -> HardenedOpener:
    """The opener of this process, so that the next shard knows what the last one learnt of the same hosts."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared.config != config:
            _shared = HardenedOpener(config)
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
    except FetchError:
        raise
    except TimeoutError as error:
        raise FetchError("timeout", error) from error
    except http.client.IncompleteRead as error:
        raise FetchError("truncated", error) from error
    except ssl.SSLCertVerificationError as error:
        raise FetchError("tls", f"{type(error).__name__} {error}") from error
    except http.client.InvalidURL as error:
        raise FetchError("bad_url", error) from error
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: a chunk of a negative size, say
        raise FetchError("connection", f"{type(error).__name__} {error}") from error
