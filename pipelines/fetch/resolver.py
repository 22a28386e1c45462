"""Names to addresses, each name asked for once in a while: crawls wear resolvers out, and then lose rows to them."""

import socket

from pipelines.fetch.fetch_error import FetchError
from pipelines.fetch.single_flight import SingleFlightCache

# The system's resolver does not tell how long an answer holds.
TTL_S = 300.0
FAILURE_TTL_S = 120.0


class Resolver:
    """The addresses of hosts, cached within this process, names that do not resolve included."""

    def __init__(self) -> None:
        self._cache: SingleFlightCache[tuple[str, ...]] = SingleFlightCache(ttl_s=TTL_S, failure_ttl_s=FAILURE_TTL_S)

    def addresses(self, host: str) -> tuple[str, ...]:
        """All addresses of a host, in the system's order of preference.

        Raises:
            FetchError: ``dns``.
        """
        return self._cache.get(host, lambda: _look_up(host))


def _look_up(host: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError("dns", error) from error
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
