"""Drop reasons: why a URL or an image gave no row, as the manifest counts them, and the errors that carry them."""

from collections.abc import Mapping

DROP_REASONS = frozenset(
    {
        "bad_url",  # not http(s), malformed
        "bad_redirect",  # a Location header that is no http(s) URL
        "forbidden_address",  # the host is not on the public internet
        "forbidden_port",  # another protocol's
        "robots_disallowed",  # by the host's robots.txt
        "dns",
        "connection",  # refused, reset, not HTTP
        "tls",  # a certificate that cannot be verified
        "timeout",
        "host_dead",  # not asked: the host had not answered several times in a row
        "http_403",
        "http_404",  # and 410
        "http_429",
        "http_5xx",
        "http_other",  # any other status that is not 2xx; too many redirects
        "opted_out",  # X-Robots-Tag says noai, noimageai, noindex, noimageindex or none
        "too_large",  # bytes
        "too_many_pixels",  # of the image, or of a side of it as it would be stored
        "too_many_scans",  # of a progressive JPEG
        "too_much_memory",  # for its decoder
        "truncated",  # shorter than announced, or an image without its end
        "not_an_image",
        "quarantined",  # it crashed the decoder process twice
    }
)
# Retryable: a later try may succeed.
TRANSIENT_REASONS = frozenset({"dns", "connection", "timeout", "host_dead", "http_429", "http_5xx", "truncated"})
# The same for a person: a class of failures, as in ``--retry dns,timeout,5xx``, and its reasons.
RETRY_CLASSES: Mapping[str, frozenset[str]] = {
    "dns": frozenset({"dns"}),
    "connection": frozenset({"connection", "host_dead", "truncated"}),
    "timeout": frozenset({"timeout"}),
    "tls": frozenset({"tls"}),
    "403": frozenset({"http_403"}),
    "429": frozenset({"http_429"}),
    "5xx": frozenset({"http_5xx"}),
    "robots": frozenset({"robots_disallowed"}),
    "quarantined": frozenset({"quarantined"}),
    "transient": TRANSIENT_REASONS,
}


class DropError(Exception):
    """A row that is dropped: ``<slug>: <detail>``.

    Attributes:
        slug: one of `DROP_REASONS`.
        detail: for a person.
    """

    def __init__(self, slug: str, detail: object) -> None:
        super().__init__(f"{slug}: {detail}")
        self.slug = slug
        self.detail = str(detail)


class FetchError(DropError):
    """A URL that could not be fetched."""


class ImageError(DropError):
    """An image that is not stored: a reason of `detclipv2.image_decoding`, or the decoder's ``quarantined``."""
