"""The beginning of the street: whatever a source or a file holds, as a table of distinct, well-formed pairs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from schemas.tables import DROP_REASON, SCORES, URLS, with_drop_reason

# Any table with these two columns will do; a caption that is not a string is dropped by reason, not refused. Scores
# (`schemas.tables.SCORES`) are columns of numbers where there are any.
PAIRS = pa.schema([pa.field("url", pa.string()), pa.field("caption", pa.string())])

# In any case; LAION writes URL and TEXT.
COLUMN_NAMES = {"url": "url", "caption": "caption", "text": "caption", **{name: name for name in SCORES}}
_URL_WITH_HOST = r"(?i)^https?://([^/?#@\s]*@)?[^/?#@:\s]+(:\d+)?([/?#]|$)"
_ROWS_PER_BATCH = 65_536  # of Python strings at a time
_NUMBER = r"^\s*[-+]?\d[\d.,]*([eE][-+]?\d+)?\s*$"


@dataclass(frozen=True, kw_only=True)
class Urls:
    """Pairs to URLS. Drops ``url_invalid``, ``caption_not_text``, ``caption_empty`` and ``duplicate_pair``.

    The caption stays as it is: ``key`` depends on it, and cleaning it here would make every rule of cleaning a reason to
    download again (``filters`` cleans it).

    Attributes:
        source: name of the source, written to every row.
    """

    source: str

    name: ClassVar[str] = "urls"
    version: ClassVar[int] = 2
    input_schema: ClassVar[pa.Schema] = PAIRS
    output_schema: ClassVar[pa.Schema] = URLS

    @property
    def config(self) -> dict[str, Any]:
        return {"source": self.source}

    def __call__(self, table: pa.Table) -> pa.Table:
        """URLS with ``drop_reason``, in the order of ``table``. A null stands as an empty string in a dropped row.

        Raises:
            ValueError: a score is no number.
        """
        url = pc.fill_null(_as_text(table.column("url")), "")
        caption_or_null = _as_text(table.column("caption"))
        caption = pc.fill_null(caption_or_null, "")
        key = _pair_keys(url, caption)
        reason = pc.case_when(
            pc.make_struct(
                pc.invert(pc.match_substring_regex(url, _URL_WITH_HOST)),
                pc.or_(pc.is_null(caption_or_null), pc.match_substring_regex(caption, _NUMBER)),
                pc.equal(pc.utf8_trim_whitespace(caption), ""),
                _is_repeat(key),
            ),
            "url_invalid",
            "caption_not_text",
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
        """The table with ``duplicate_pair`` where an earlier one kept the pair.

        Args:
            table: URLS with ``drop_reason``, which keeps no pair twice.
        """
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


def pair_key(url: str, caption: str) -> str:
    """First 16 hex digits of sha256(url + NUL + caption): the identity of a pair along the whole street."""
    return hashlib.sha256(f"{url}\0{caption}".encode(errors="surrogatepass")).hexdigest()[:16]


def _pair_keys(url: pa.ChunkedArray, caption: pa.ChunkedArray) -> pa.ChunkedArray:
    batches = pa.table([url, caption], names=["url", "caption"]).to_batches(max_chunksize=_ROWS_PER_BATCH)
    chunks = []
    for batch in batches:
        pairs = zip(batch["url"].to_pylist(), batch["caption"].to_pylist(), strict=True)
        chunks.append(pa.array([pair_key(*pair) for pair in pairs], pa.string()))
    return pa.chunked_array(chunks, pa.string())


def _is_repeat(key: pa.ChunkedArray) -> pa.Array:
    row = pa.array(np.arange(len(key)))
    first_rows = pa.table([key, row], names=["key", "row"]).group_by("key").aggregate([("row", "min")])
    return pc.invert(pc.is_in(row, value_set=first_rows.column("row_min")))


def read_pairs(path: Path) -> pa.Table:
    """Read image-text pairs from a ``.parquet``, ``.csv`` or ``.tsv`` file.

    Columns are ``url`` and ``caption`` in any case; ``text`` does for ``caption``; ``similarity`` and ``punsafe`` are read
    where they are there. A CSV file follows RFC 4180; a TSV
    file has a header and no quoting, as captions in TSV files of the web hold lone quotation marks.

    Returns:
        A table with the columns ``url`` and ``caption`` as the file types them, and the scores that it has.

    Raises:
        ValueError: another extension, a missing column, or a file that cannot be read.
    """
    try:
        table = _read(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    found: dict[str, int] = {}
    for position, name in enumerate(table.column_names):
        wanted = COLUMN_NAMES.get(name.strip().lower())
        if wanted and wanted in found:
            both = table.column_names[found[wanted]], name
            raise ValueError(f"{path} has two columns for {wanted!r}: {both[0]!r} and {both[1]!r}; keep one")
        if wanted:
            found[wanted] = position
    missing = [name for name in PAIRS.names if name not in found]
    if missing:
        raise ValueError(f"{path} has no column {' or '.join(missing)}; it has {table.column_names}")
    names = [*PAIRS.names, *(name for name in SCORES if name in found)]
    return table.select([found[name] for name in names]).rename_columns(names)


def _read(path: Path) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pa.parquet.read_table(path)
    if suffix not in (".csv", ".tsv"):
        raise ValueError(f"{path} is neither .parquet nor .csv nor .tsv")
    parse = (
        pa.csv.ParseOptions(delimiter=",", newlines_in_values=True)
        if suffix == ".csv"
        else pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    )
    with pa.csv.open_csv(path, parse_options=parse) as reader:
        names = reader.schema.names
    types = {name: pa.float32() if name.strip().lower() in SCORES else pa.string() for name in names}
    convert = pa.csv.ConvertOptions(column_types=types)
    return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column where it is text, else nulls: a number, a list or a picture is no caption."""
    value_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(value_type) or pa.types.is_large_string(value_type) or pa.types.is_string_view(value_type):
        return column.cast(pa.string())
    return pa.chunked_array([pa.nulls(len(column), pa.string())])
