"""Source table to URLS: the distinct, well-formed image-text pairs of whatever a source or a file holds."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.conform import text_or_null
from schemas.source_images import pair_key
from schemas.tables import DROP_REASON, PAIRS, SCORES, URLS, with_drop_reason

# A host is a name or address, or an IPv6 address in brackets; whether that may be asked, the address rules decide.
_URL_WITH_HOST = r"(?i)^https?://([^/?#@\s]*@)?([^/?#@:\s\[\]]+|\[[0-9a-f:.]+(%25[\w.~-]+)?\])(:\d+)?([/?#]|$)"
MAX_BYTES = 8192  # of a URL or caption
_ROWS_PER_BATCH = 65_536  # of Python strings at a time
_NUMBER = r"^\s*[-+]?\d[\d.,]*([eE][-+]?\d+)?\s*$"


@dataclass(frozen=True, kw_only=True)
class Urls:
    """Pairs to URLS.

    Drops ``url_invalid``, ``url_too_long`` and ``caption_too_large`` (above `MAX_BYTES`), ``caption_not_text``,
    ``caption_damaged``, ``caption_empty``, ``duplicate_pair``.

    A damaged caption has U+FFFD, which whoever read it before wrote in place of what could not be decoded.

    The caption stays as it is: ``key`` depends on it, and cleaning it here would make every rule of cleaning a reason to
    download again (``filters`` cleans it).

    Attributes:
        source: name of the source, written to every row.
    """

    source: str

    name: ClassVar[str] = "urls"
    version: ClassVar[int] = 3
    input_schema: ClassVar[pa.Schema] = PAIRS
    output_schema: ClassVar[pa.Schema] = URLS

    @property
    def config(self) -> dict[str, Any]:
        return {"source": self.source}

    def __call__(self, table: pa.Table) -> pa.Table:
        """URLS with ``drop_reason``, in the order of ``table``. A null is an empty string in a dropped row.

        Raises:
            ValueError: a score is not a number.
        """
        url = pc.fill_null(text_or_null(table.column("url")), "")
        caption_or_null = text_or_null(table.column("caption"))
        caption = pc.fill_null(caption_or_null, "")
        key = _pair_keys(url, caption)
        reason = pc.case_when(
            pc.make_struct(
                pc.greater(pc.binary_length(url), MAX_BYTES),
                pc.invert(pc.match_substring_regex(url, _URL_WITH_HOST)),
                pc.greater(pc.binary_length(caption), MAX_BYTES),
                pc.or_(pc.is_null(caption_or_null), pc.match_substring_regex(caption, _NUMBER)),
                pc.match_substring(caption, "\ufffd"),
                pc.equal(pc.utf8_trim_whitespace(caption), ""),
                _is_repeat(key),
            ),
            "url_too_long",
            "url_invalid",
            "caption_too_large",
            "caption_not_text",
            "caption_damaged",
            "caption_empty",
            "duplicate_pair",
        )
        source = pa.repeat(pa.scalar(self.source), len(table))
        scores = [self._score(table, name) for name in SCORES]
        return pa.table([key, url, caption, source, *scores, reason], schema=with_drop_reason(URLS))

    def _score(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        """A column of `SCORES` where the source has it, else nulls; what is not a number is null, too."""
        if name not in table.column_names:
            return pa.chunked_array([pa.nulls(len(table), pa.float32())])
        column = table.column(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            raise ValueError(f"{self.source}: column {name!r} is {column.type}, wanted numbers: cast or rename it")
        column = column.cast(pa.float32(), safe=False)
        return pc.if_else(pc.is_finite(column), column, None)


class SeenPairs:
    """Which pairs came before, in 8 bytes each: sorted runs of keys, of which two of about one length are merged."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def drop_repeats(self, table: pa.Table) -> pa.Table:
        """URLS with ``drop_reason``, which keep no pair twice, with ``duplicate_pair`` where an earlier table kept the pair."""
        keys = np.array([int(key, 16) for key in table["key"].to_pylist()], np.uint64)
        is_kept = table[DROP_REASON.name].is_null().to_numpy()
        is_repeat = np.zeros(len(keys), bool)
        for run in self._runs:
            is_repeat |= run[np.minimum(np.searchsorted(run, keys), len(run) - 1)] == keys
        is_repeat &= is_kept
        if (is_kept & ~is_repeat).any():
            self._remember(np.sort(keys[is_kept & ~is_repeat]))
        reason = pc.if_else(pa.array(is_repeat), "duplicate_pair", table[DROP_REASON.name])
        return table.set_column(table.schema.get_field_index(DROP_REASON.name), DROP_REASON, reason)

    def _remember(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)


def _pair_keys(url: pa.ChunkedArray, caption: pa.ChunkedArray) -> pa.ChunkedArray:
    batches = pa.table([url, caption], names=["url", "caption"]).to_batches(max_chunksize=_ROWS_PER_BATCH)
    pairs = (zip(batch["url"].to_pylist(), batch["caption"].to_pylist(), strict=True) for batch in batches)
    return pa.chunked_array([pa.array(itertools.starmap(pair_key, batch), pa.string()) for batch in pairs], pa.string())


def _is_repeat(key: pa.ChunkedArray) -> pa.Array:
    row = pa.array(np.arange(len(key)))
    first_rows = pa.table([key, row], names=["key", "row"]).group_by("key").aggregate([("row", "min")])
    return pc.invert(pc.is_in(row, value_set=first_rows.column("row_min")))
