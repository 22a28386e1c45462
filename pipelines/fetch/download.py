"""Image download: URLs to images, one fetch loop a shard.

What is to be published is written inside one folder that the caller makes under a temporary name and renames when ``run``
has returned: a process that is killed leaves nothing that looks finished. What it has fetched is in a spool of its own, and
running again goes on from there.
"""

import hashlib
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Semaphore
from typing import ClassVar, TypeVar

import pyarrow as pa

from pipelines.fetch.decoder import DecoderProcess, Decoding, decoder_for
from pipelines.fetch.drop_reasons import TRANSIENT_REASONS, FetchError, ImageError
from pipelines.fetch.http_client import HttpClient, HttpConfig, Response, client_for
from pipelines.fetch.image_resizer import ImageSettings
from pipelines.fetch.spool import Spool, locked_spool
from pipelines.storage.tars import TarSample, clear_disk_errors, write_tar
from schemas.tables import IMAGES, URLS, with_drop_reason

IMAGES_TAR_NAME = "images.tar"
# What a killed download tries again when it goes on. Not "truncated": half an image behind a whole answer is the rule there.
_UNSETTLED_REASONS = TRANSIENT_REASONS - {"truncated"}

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Download(ImageSettings):
    """URLS to IMAGES, and the images to ``images.tar``.

    A URL of several captions is fetched once, and its answer is that of every row; the tar has the image under each key.
    Images are re-encoded as JPEG, turned upright (EXIF), and made smaller, never larger, until their shorter side is
    ``image_size_px``.

    Attributes:
        thread_count: URLs fetched at once.
        http: how a URL is fetched. Not part of ``config``: another deadline does not make downloaded images stale.
    """

    thread_count: int = 64
    http: HttpConfig = field(default_factory=HttpConfig)

    name: ClassVar[str] = "download"
    version: ClassVar[int] = 3
    input_schema: ClassVar[pa.Schema] = URLS
    output_schema: ClassVar[pa.Schema] = IMAGES

    def run(self, table: pa.Table, *, folder: Path, spool: Path | None = None) -> pa.Table:
        """IMAGES with ``drop_reason`` of URLS with distinct keys, and the images in ``folder/images.tar``; both sorted by key.

        ``spool`` is a folder for this table with these settings alone, where another run goes on if this process is killed. It
        is made where there is none, and left to the caller to remove. None: nothing outlives the process.

        Raises:
            OSError: the images could not be stored, such as on a full disk.
            RuntimeError: no decoding process could be started.
        """
        table = table.sort_by("key")
        urls: dict[str, str] = {}  # of the first row of each, which the spool has its answer under
        fetched_as = {
            key: urls.setdefault(url, key)
            for key, url in zip(*(table[n].to_pylist() for n in ("key", "url")), strict=True)
        }
        decoder = decoder_for(self.resizer)  # starts while img2dataset is imported
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            own = Path(scratch) / "spool"
            own.mkdir()
            with locked_spool(spool or own, or_else=own) as place, clear_disk_errors(folder), Spool(place) as results:
                results.forget(_UNSETTLED_REASONS)
                missing = {key: url for url, key in urls.items() if key not in results.rows}
                if missing:
                    client = client_for(self.http)
                    decoder.wait_until_ready()
                    self._fetch_all(missing, results, client=client, decoder=decoder)
                write_tar(folder / IMAGES_TAR_NAME, _samples(results, fetched_as))
        schema = with_drop_reason(IMAGES)
        for name in ("width", "height", "original_width", "original_height", "sha256", "phash", "drop_reason"):
            values = [results.rows[first].get(name) for first in fetched_as.values()]
            table = table.append_column(name, pa.array(values, schema.field(name).type))
        return table.cast(schema)

    def _fetch_all(self, urls: dict[str, str], spool: Spool, *, client: HttpClient, decoder: DecoderProcess) -> None:
        """Put a row into the spool for every key of ``urls``.

        Threads fetch, this one takes their answers as they come. It does not wait for an image: the decoder process has some
        at once, so that there always is a next one, and its results are written in their order as soon as they are there.
        """

        def fetch(item: tuple[str, str]) -> tuple[str, Response | FetchError]:
            key, url = item
            try:
                kept = spool.answer(key)
                if kept is None:
                    return key, client.get(url, keep=partial(spool.keep, key))
                client.check_opt_out(kept.robots_tags)
                return key, kept
            except FetchError as error:
                return key, error

        decodings: deque[tuple[str, str, Decoding]] = deque()  # key, sha256, image

        def write_first() -> None:
            key, sha256, decoding = decodings.popleft()
            image = decoder.finish(decoding)
            if isinstance(image, ImageError):
                spool.add(key, {"drop_reason": image.slug}, jpeg=None)
            else:
                spool.add(key, {"sha256": sha256, **image.columns}, jpeg=image.jpeg)

        # As many answers may wait to be taken as there are threads, and as many more are under way.
        with ThreadPool(self.thread_count) as threads, _bounded(urls.items(), 2 * self.thread_count) as (items, slots):
            for key, answer in threads.imap_unordered(fetch, items):
                if isinstance(answer, FetchError):
                    spool.add(key, {"drop_reason": answer.slug}, jpeg=None)
                else:
                    sha256 = hashlib.sha256(answer.body).hexdigest()
                    decodings.append((key, sha256, decoder.submit(answer.body)))
                while decodings and decodings[0][2].result is not None:
                    write_first()
                slots.release()
            while decodings:
                write_first()


def _samples(spool: Spool, fetched_as: dict[str, str]) -> Iterator[TarSample]:
    """The images by key, in their order; ``fetched_as`` says under which key the spool has each."""
    for key, first in fetched_as.items():
        jpeg = spool.image(first)
        if jpeg is not None:
            yield TarSample(key=key, members={"jpg": jpeg})


@contextmanager
def _bounded(items: Iterable[Item], size: int) -> Iterator[tuple[Iterator[Item], Semaphore]]:
    """``items``, each given out once there is a slot for it, and the slots; on leaving, all waiting for one ends."""
    slots, is_open = Semaphore(size), True

    def give() -> Iterator[Item]:
        for item in items:
            slots.acquire()
            if not is_open:
                return
            yield item

    try:
        yield give(), slots
    finally:
        is_open = False
        slots.release()
