"""Random access to the samples of shards, by index, with read-ahead."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detclipv2.config import Supervision
from detclipv2.data.epochs import Places
from detclipv2.data.opener import is_url, open_shard, url_client
from detclipv2.data.tar_shards import REBUILD_HINT, Shard, ShardIndex, parse_record

# Of one request to an object store: takes much longer to send than to ask for, and a few fit into memory.
REQUEST_BYTES = 8 * 2**20
REQUESTS_AT_ONCE = 4
_INDEXES_KEPT = 64

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, order=True)
class _Span:
    """The bytes of a sample, or of several neighbours."""

    shard: int
    offset: int
    end: int


class SampleReader:
    """Reads the samples of shards; to be closed, since it may have threads.

    Args:
        shards: where they lie.
        supervision: their type.
    """

    def __init__(self, shards: Sequence[Shard], *, supervision: Supervision) -> None:
        self._shards = shards
        self._supervision = supervision
        self._index = lru_cache(maxsize=_INDEXES_KEPT)(self._read_index)
        self._requests = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="shards")  # starts threads when needed

    def close(self) -> None:
        """End all requests that are under way."""
        self._requests.shutdown(cancel_futures=True)

    def is_portrait(self, places: Places) -> NDArray[np.bool_]:
        """Whether the images are higher than wide.

        Raises:
            ValueError: a shard is damaged.
        """
        portrait = np.empty(len(places.rows), dtype=np.bool_)
        for shard in np.unique(places.shards):
            here = places.shards == shard
            portrait[here] = self._index(int(shard)).is_portrait[places.rows[here]]
        return portrait

    def start(self, places: Places) -> "ReadAhead":
        """Begin to read samples that will be asked for before long.

        Raises:
            ValueError: a shard is damaged, is a command, or there is no client for its URL.
        """
        spans = []
        for shard, row in zip(places.shards.tolist(), places.rows.tolist(), strict=True):
            index = self._index(shard)
            offset = int(index.offsets[row])
            spans.append(_Span(shard=shard, offset=offset, end=offset + int(index.num_bytes[row])))
        return ReadAhead(spans, [shard.url for shard in self._shards], self._requests)

    def _read_index(self, shard: int) -> ShardIndex:
        return self._shards[shard].read_index(self._supervision)


class ReadAhead:
    """Samples that are being read: files by the system's read-ahead, objects by requests.

    What an object store sends is kept until this object is gone; neighbouring samples are one request.
    """

    def __init__(self, spans: Sequence[_Span], urls: Sequence[str], requests: ThreadPoolExecutor) -> None:
        self._spans, self._urls = spans, urls
        self._sent: dict[_Span, tuple[_Span, Future[bytes]]] = {}  # by sample: the request that it is part of
        for shard, of_shard in groupby(sorted(set(spans)), key=lambda span: span.shard):
            if not is_url(urls[shard]):
                _announce(urls[shard], list(of_shard))
                continue
            client, path = url_client(urls[shard])
            for run in _runs(of_shard):
                whole = _Span(shard=shard, offset=run[0].offset, end=run[-1].end)
                answer = requests.submit(client.cat_file, path, start=whole.offset, end=whole.end)
                self._sent |= dict.fromkeys(run, (whole, answer))

    def records(self, first: int, last: int) -> list[Record]:
        """The records number ``first`` to ``last``, in their order.

        Raises:
            ValueError: a shard is damaged.
            OSError: it cannot be read.
        """
        wanted = self._spans[first:last]
        contents: dict[_Span, bytes] = {}
        for shard, of_shard in groupby(sorted(set(wanted)), key=lambda span: span.shard):
            read = self._from_url if is_url(self._urls[shard]) else _from_file
            contents |= read(self._urls[shard], list(of_shard))
        return [self._record(span, contents[span]) for span in wanted]

    def _from_url(self, url: str, spans: Sequence[_Span]) -> dict[_Span, bytes]:
        contents = {}
        for span in spans:
            whole, answer = self._sent[span]
            contents[span] = answer.result()[span.offset - whole.offset : span.end - whole.offset]
        return contents

    def _record(self, span: _Span, content: bytes) -> Record:
        url = self._urls[span.shard]
        if len(content) != span.end - span.offset:
            raise ValueError(f"{url} is cut off at byte {span.offset + len(content)}; {REBUILD_HINT}")
        return parse_record(io.BytesIO(content), url=url, offset=span.offset)


def _from_file(path: str, spans: Sequence[_Span]) -> dict[_Span, bytes]:
    with open_shard(path) as file:
        return {span: os.pread(file.fileno(), span.end - span.offset, span.offset) for span in spans}


def _announce(path: str, spans: Sequence[_Span]) -> None:
    """Ask the system to read ahead, where it can."""
    if hasattr(os, "posix_fadvise"):
        with open_shard(path) as file:
            for run in _runs(spans):
                length = run[-1].end - run[0].offset
                os.posix_fadvise(file.fileno(), run[0].offset, length, os.POSIX_FADV_WILLNEED)


def _runs(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Spans of a shard, ascending, in runs of neighbours that are not much longer than a request."""
    run: list[_Span] = []
    for span in spans:
        if run and (span.offset != run[-1].end or span.end - run[0].offset > REQUEST_BYTES):
            yield run
            run = []
        run.append(span)
    if run:
        yield run
