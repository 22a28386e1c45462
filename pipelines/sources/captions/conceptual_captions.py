"""Conceptual Captions as Google publishes it: a TSV of captions and URLs without a header."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.sources.captions.remote_files import DataFile, find_files
from pipelines.sources.captions.table_rows import unquoted
from pipelines.sources.captions.text_encoding import cut, text_lines
from pipelines.sources.source import BYTES_PER_PAIR, PairBlock
from schemas.tables import PAIRS

_URL = re.compile(r"https?://\S+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ConceptualCaptions:
    """A `pipelines.sources.source.PairSource`: rows in the order of the file.

    CC3M (``Train_GCC-training.tsv``) has the caption first, CC12M (``cc12m.tsv``) the URL; the first row tells which. A row
    without a tab becomes a pair without a URL, so that it is dropped, and counted, as ``url_invalid``.

    Attributes:
        path: the TSV, local or an fsspec URL, plain or ``.gz``.
        name: of the source, such as "cc3m".
    """

    path: str
    name: str

    @property
    def config(self) -> dict[str, Any]:
        """Follows the content of the file."""
        return self._file.identity(is_whole=True)

    def blocks(self, limit: int | None = None, *, num_rows: int) -> list[PairBlock]:
        """One: where a row begins is known only from those before it."""
        config = self.config
        block = PairBlock(
            name=self.name,
            first_shard=0,
            config={**config, "num_pairs": limit, "pairs_per_shard": num_rows},
            num_rows=limit or config["num_bytes"] // BYTES_PER_PAIR,
            read=partial(self._read, limit, num_rows),
        )
        return [block]

    def _read(self, limit: int | None, num_rows: int) -> Iterator[pa.Table]:
        """Raises ValueError where the file is no such TSV; the message names the row."""
        is_url_first: bool | None = None
        lines = itertools.islice((line.rstrip("\r\n") for line in text_lines(self._file)), limit)
        while chunk := list(itertools.islice(lines, num_rows)):
            if is_url_first is None:
                is_url_first = self._is_url_first(chunk[0])
            urls, captions = zip(*(_split(line, is_url_first) for line in chunk), strict=True)
            yield pa.table([pa.array(urls, pa.string()), pa.array(captions, pa.string())], schema=PAIRS)
        if is_url_first is None and limit != 0:
            raise ValueError(f"{self.path} is empty")

    @property
    def _file(self) -> DataFile:
        file, *others = find_files(self.path, endings=(".tsv", ".tsv.gz"))
        if others:
            raise ValueError(f"{self.path} stands for {1 + len(others)} files; name one")
        return file

    def _is_url_first(self, line: str) -> bool:
        is_url = [_URL.fullmatch(text) is not None for text in (line.partition("\t")[0], line.rpartition("\t")[2])]
        if "\t" in line and is_url[0] != is_url[1]:
            return is_url[0]
        raise ValueError(
            f"{self.path}: row 1, {line[:80]!r}, is neither caption<TAB>url (CC3M) nor url<TAB>caption (CC12M); "
            "a table with a header is read by --urls"
        )


def _split(line: str, is_url_first: bool) -> tuple[str, str]:
    """URL and caption; a tab within the caption stays in it, the quoting of ``csv.writer`` does not."""
    if "\t" not in line:
        return "", cut(line)
    first, _, second = line.partition("\t") if is_url_first else line.rpartition("\t")
    url, caption = (first, second) if is_url_first else (second, first)
    return cut(url), cut(unquoted(caption))
