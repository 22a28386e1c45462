"""URLs to images: one run of img2dataset's ``Downloader`` a shard, behind the hardened opener.

What is to be published is written inside one folder that the caller makes under a temporary name and renames when ``run``
has returned: a process that is killed leaves nothing that looks finished. What it has fetched lies in a spool of its own, and
running again goes on from there.
"""

import io
import os
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fetch.decoder import DecoderProcess, Decoding, decoder_for
from pipelines.fetch.http_client import OpenerConfig, hardened_urlopen
from pipelines.fetch.image_resizer import ImageError, ImageResizer, Resizer
from pipelines.fetch.spool import Spool, locked_spool
from pipelines.storage.tars import clear_disk_errors, write_tar
from schemas.tables import IMAGES, URLS, with_drop_reason

IMAGES_TAR_NAME = "images.tar"

# Why an image is missing, by the first word of the error.
DROP_REASONS = frozenset(
    {
        "bad_url",  # not http(s), malformed
        "forbidden_address",  # the host is not on the public internet
        "forbidden_port",  # another protocol's
        "robots_disallowed",  # by the host's robots.txt
        "dns",
        "connection",  # refused, reset, not HTTP
        "tls",  # a certificate that does not hold
        "timeout",
        "host_dead",  # not asked: the host had not answered several times in a row
        "http_403",
        "http_404",  # and 410
        "http_429",
        "http_5xx",
        "http_other",  # any other status that is not 2xx; too many redirects
        "opted_out",  # X-Robots-Tag says noai, noimageai, noindex or noimageindex
        "too_large",  # bytes
        "too_many_pixels",
        "truncated",  # shorter than announced, or an image without its end
        "not_an_image",
        "quarantined",  # a decoder died of it, twice
    }
)
# What may pass when tried again.
TRANSIENT_REASONS = frozenset({"dns", "connection", "timeout", "host_dead", "http_429", "http_5xx", "truncated"})
# What a killed download tries again when it goes on. Not "truncated": half an image behind a whole answer is the rule there.
_UNSETTLED_REASONS = TRANSIENT_REASONS - {"truncated"}
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

_NO_AI_DIRECTIVES = ["noai", "noimageai", "noindex", "noimageindex"]
_SCHEMA = with_drop_reason(IMAGES)
_RESULT_COLUMNS = ("width", "height", "original_width", "original_height", "sha256", "phash", "drop_reason")


@dataclass(frozen=True, kw_only=True)
class Download:
    """URLS to IMAGES, and the images to ``images.tar``.

    Images are re-encoded as JPEG, turned upright (EXIF), and made smaller, never larger, until their shorter side is
    ``image_size_px``.

    Attributes:
        image_size_px: longest length of the shorter side of a stored image.
        encode_quality: JPEG quality of a stored image.
        max_pixels: images of more pixels are not decoded.
        thread_count: URLs fetched at once.
        opener: how a URL is fetched. Not part of ``config``: another deadline does not make downloaded images stale.
    """

    image_size_px: int = 320
    encode_quality: int = 95
    max_pixels: int = 64_000_000
    thread_count: int = 64
    opener: OpenerConfig = field(default_factory=OpenerConfig)

    name: ClassVar[str] = "download"
    version: ClassVar[int] = 3
    input_schema: ClassVar[pa.Schema] = URLS
    output_schema: ClassVar[pa.Schema] = IMAGES

    @property
    def config(self) -> dict[str, Any]:
        return {
            "image_size_px": self.image_size_px,
            "encode_quality": self.encode_quality,
            "max_pixels": self.max_pixels,
        }

    @property
    def resizer(self) -> Resizer:
        """What decodes; picklable, since it works in another process."""
        return ImageResizer(**self.config)

    def run(self, table: pa.Table, *, folder: Path, spool: Path | None = None) -> pa.Table:
        """Fetch a shard and write ``folder/images.tar``, its images sorted by key.

        Args:
            table: URLS, keys distinct.
            folder: exists; nothing but ``images.tar`` stays in it.
            spool: folder of this table with these settings alone, where another run goes on if this process is killed. It is
                made where there is none, and left to the caller to remove. None: nothing outlives the process.

        Returns:
            IMAGES with ``drop_reason``, one row a row of ``table``, sorted by key.

        Raises:
            OSError: the images could not be stored, such as on a full disk.
            RuntimeError: no decoding process could be started.
        """
        table = table.sort_by("key")
        decoder = decoder_for(self.resizer)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            own = Path(scratch) / "spool"
            own.mkdir()
            with locked_spool(spool or own, or_else=own) as place, clear_disk_errors(folder), Spool(place) as results:
                results.forget(_UNSETTLED_REASONS)
                writer = _SpoolWriter(results, decoder=decoder)
                with hardened_urlopen(self.opener, answers=results.answers):
                    is_done = pc.is_in(table["key"], value_set=pa.array(list(results.rows), pa.string()))
                    to_do = table.filter(pc.invert(is_done))
                    if len(to_do):
                        decoder.wait_until_ready()
                        self._drive_img2dataset(to_do, writer, Path(scratch))
                rows = writer.rows_of(table["key"].to_pylist())
                write_tar(folder / IMAGES_TAR_NAME, results.samples())
        for name in _RESULT_COLUMNS:
            table = table.append_column(name, pa.array([row.get(name) for row in rows], _SCHEMA.field(name).type))
        return table.cast(_SCHEMA)

    def _drive_img2dataset(self, table: pa.Table, writer: "_SpoolWriter", scratch: Path) -> None:
        # Else the import of albumentations would ask the network for its newest version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        from img2dataset.downloader import Downloader

        shard_path = scratch / "urls.feather"
        shard = table.select(["url", "key"]).rename_columns(["url", "pair_key"])
        with pa.ipc.new_file(str(shard_path), shard.schema) as feather:
            feather.write_table(shard)
        Downloader(
            sample_writer_class=lambda *_: writer,
            resizer=writer.resize,
            thread_count=self.thread_count,
            save_caption=False,
            extract_exif=False,
            output_folder=str(scratch),
            column_list=shard.column_names,
            timeout=self.opener.deadline_s,
            number_sample_per_shard=max(2, len(table)),
            oom_shard_count=5,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,
            user_agent_token=self.opener.product,
            disallowed_header_directives=_NO_AI_DIRECTIVES,
        ).download_shard((0, str(shard_path)))


class _SpoolWriter:
    """A resizer and a sample writer for img2dataset: to a spool, in the order of arrival.

    The resizer only hands images to the decoder, and says nothing of their fate: what it returns goes through img2dataset
    to ``write``, which puts down the results that have come by then. So the decoder always has a next image, though img2dataset
    takes one after the other.
    """

    def __init__(self, spool: Spool, *, decoder: DecoderProcess) -> None:
        self.error: Exception | None = None
        self._spool = spool
        self._decoder = decoder
        self._waiting: deque[tuple[Decoding, dict[str, Any]]] = deque()

    def resize(self, stream: io.BytesIO, _boxes: object = None) -> tuple[Decoding, None, None, None, None, None]:
        """Called by img2dataset for every body, followed by ``write`` with the first of the results."""
        return self._decoder.submit(stream.getvalue()), None, None, None, None, None

    def write(self, decoding: Decoding | None, _key: str, _caption: str | None, meta: dict[str, Any]) -> None:
        """Called by img2dataset for every URL, from one thread; it only prints what is raised here, hence ``error``."""
        if decoding is None:
            self._add(meta, None, {"drop_reason": drop_reason(meta["error_message"])})
            return
        self._waiting.append((decoding, meta))
        while self._waiting and self._waiting[0][0].result is not None:
            self._add_first()

    def close(self) -> None:
        """Called by img2dataset at the end of the shard."""
        while self._waiting:
            self._add_first()

    def _add_first(self) -> None:
        decoding, meta = self._waiting.popleft()
        image = self._decoder.finish(decoding)
        if isinstance(image, ImageError):
            self._add(meta, None, {"drop_reason": image.slug})
        else:
            self._add(meta, image.jpeg, {"sha256": meta["sha256"], **image.columns})

    def _add(self, meta: dict[str, Any], jpeg: bytes | None, row: dict[str, Any]) -> None:
        try:
            self._spool.add(meta["pair_key"], row, jpeg=jpeg)
            self._spool.answers.drop(meta["url"])
        except Exception as error:
            self.error = error
            raise

    def rows_of(self, keys: list[str]) -> list[dict[str, Any]]:
        """The results, one a key; raises what made img2dataset lose one."""
        lost = [key for key in keys if key not in self._spool.rows]
        if lost:
            raise (
                self.error
                or self._decoder.error
                or RuntimeError(f"img2dataset lost {len(lost)} of {len(keys)} rows, {lost[0]} the first")
            )
        return [self._spool.rows[key] for key in keys]


def drop_reason(error_message: str) -> str:
    """The slug for an error message of img2dataset, which passes on those of the opener and of the guarded resizer."""
    slug = error_message.partition(":")[0]
    if slug in DROP_REASONS:
        return slug
    if "X-Robots-Tag" in error_message:
        return "opted_out"
    if error_message.startswith(("unknown url type", "URL can't contain", "no host given")):
        return "bad_url"
    return "not_an_image"
