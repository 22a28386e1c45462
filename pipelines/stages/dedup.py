"""Deduplication of images over all shards: the same bytes, or nearly the same image."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.stages.database import connected, split_by_table
from schemas.tables import IMAGES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """IMAGES to IMAGES over all shards: drops repeated images, by the first reason that applies, as listed below.

    ``duplicate_image``: the same bytes (sha256). ``near_duplicate_image``: nearly the same image (pHash).
    ``duplicate_pair``: this very caption of this image again, as of two that differed before they were cleaned.
    ``caption_repeated``: too many of the images that are left have this very caption.

    Captions of one image are no copies of one another: rows of a shard with the same URL and the same bytes compete as one,
    in place of the first of them, and stay or go together. In another shard the same image is a copy, whatever its URL.

    Copies of an image compete by the shorter side of the image *as stored*; where it is equal, the older shard wins;
    then the larger original, then the key. A row loses to one ahead of it that was itself kept, so that a chain of
    look-alikes does not collapse into its first link.

    So the best resolution wins over age, but only as far as training sees it: the download stage shrinks images to one
    shorter side, and of two copies that reached it the older stays. A new shard thus overturns a verdict on an older
    one only where that holds an image smaller than it could be (and where a caption becomes too frequent); no URL is
    fetched again for it, only the shards it touches are packed anew. Ranked by the original's pixels, half of all
    copies would do so, and growth would pack nearly everything anew for pixels that are not stored.

    Attributes:
        max_distance: largest Hamming distance of the 64-bit perceptual hashes of near duplicates. By the pigeonhole
            principle two such hashes agree in one of ``max_distance + 1`` bands: only rows that share a band are
            compared. The hashes have as many ones as zeros, so distances are even. At 2, all 369 re-encoded or shrunk
            copies of 123 photos are found, and of 6.5 million pairs of distinct emoji scenes none is taken for one
            image; at 4, one is.
        max_caption_count: distinct images that a caption may have; FILIP (arXiv:2111.07783) has 10. None: any number.
        num_threads: of DuckDB; None: one a core. The verdicts do not depend on it.
        memory_bytes: of DuckDB; what does not fit goes to the disk. The verdicts do not depend on it.
    """

    max_distance: int = 2
    max_caption_count: int | None = None
    num_threads: int | None = None
    memory_bytes: int = 2 * 2**30

    name: ClassVar[str] = "dedup"
    version: ClassVar[int] = 3
    input_schema: ClassVar[pa.Schema] = IMAGES
    output_schema: ClassVar[pa.Schema] = IMAGES

    @property
    def config(self) -> dict[str, Any]:
        return {"max_distance": self.max_distance, "max_caption_count": self.max_caption_count}

    def __call__(self, tables: Mapping[str, pa.Table], *, scratch: Path | None = None) -> Mapping[str, pa.Table]:
        """For every shard its table with ``drop_reason``, in the order of its rows; see `GlobalStage`."""
        if not tables:
            return {}
        columns = ["key", "url", "caption", "sha256", "phash", "width", "height", "original_width", "original_height"]
        with connected(num_threads=self.num_threads, memory_bytes=self.memory_bytes, scratch=scratch) as database:
            num_rows = [
                _load(database, table.select(columns), shard=position, with_captions=self.max_caption_count is not None)
                for position, table in enumerate(tables.values())
            ]
            database.execute(_RANKED)
            near = self._near_duplicates(database)
            database.register("near", pa.table({"rank": pa.array(near, pa.int64())}))
            database.execute(_DISTINCT)
            if self.max_caption_count is None:
                reasons = database.sql("SELECT drop_reason FROM verdicts ORDER BY row")
            else:
                reasons = database.sql(_CAPTIONS, params={"max_caption_count": self.max_caption_count})
            return split_by_table(reasons.to_arrow_table(), tables, IMAGES, num_rows=num_rows)

    def _near_duplicates(self, database: "DuckDBPyConnection") -> list[int]:
        """Ranks of the hashes that are near an earlier kept hash."""
        edges = [64 * band // (self.max_distance + 1) for band in range(self.max_distance + 2)]
        bands = [
            f"SELECT {band} AS band, (bits >> {start}) & {2 ** (stop - start) - 1} AS part, bits, rank FROM hashes"
            for band, (start, stop) in enumerate(itertools.pairwise(edges))
        ]
        pairs = database.execute(_PAIRS.format(bands=" UNION ALL ".join(bands)), {"max_distance": self.max_distance})
        dropped: set[int] = set()
        while batch := pairs.fetchmany(_PAIRS_PER_BATCH):
            for later, earlier in batch:
                if earlier not in dropped:
                    dropped.add(later)
        return sorted(dropped)


def _load(database: "DuckDBPyConnection", table: pa.Table, *, shard: int, with_captions: bool) -> int:
    """Append a shard to the table ``images``; its number of rows. What may be captions of one image has numbers."""
    url, caption = (table[name].combine_chunks().dictionary_encode().indices for name in ("url", "caption"))
    is_shared = np.bincount(url)[url] > 1
    table = table.append_column("url_number", pc.if_else(pa.array(is_shared), url, None))
    table = table.append_column("caption_number", caption)
    table = table.drop_columns(["url"] if with_captions else ["url", "caption"])
    database.register("part", table.append_column("position", pa.array(np.arange(len(table)))))
    if shard == 0:
        database.execute("CREATE TABLE images AS SELECT *, 0 AS shard, position AS row FROM part LIMIT 0")
    database.execute(
        "INSERT INTO images SELECT * EXCLUDE position, position, $shard, position + (SELECT count(*) FROM images) FROM part",
        {"shard": shard},
    )
    database.unregister("part")
    return len(table)


_PAIRS_PER_BATCH = 65_536
# `rank` is the order in which rows compete; captions of one image share the rank of the first. A hash competes in place of the
# first of its rows.
_RANKED = """
CREATE TEMP TABLE ranked AS
WITH competing AS MATERIALIZED (
    SELECT
        row, shard, url_number, caption_number, sha256, phash,
        row_number() OVER (
            ORDER BY least(width, height) DESC, shard, original_width::BIGINT * original_height DESC, key, row
        ) AS rank
    FROM images
)
SELECT row, sha256, phash, rank, false AS is_repeat FROM competing WHERE url_number IS NULL
UNION ALL
SELECT
    row, sha256, phash,
    min(competing.rank) OVER (PARTITION BY shard, url_number, sha256, phash) AS rank,
    min(competing.rank) OVER (PARTITION BY shard, url_number, sha256, phash, caption_number) < competing.rank AS is_repeat
FROM competing WHERE url_number IS NOT NULL;
CREATE TEMP TABLE hashes AS
SELECT phash, ('0x' || phash)::UBIGINT AS bits, min(rank) AS rank FROM ranked GROUP BY phash;
"""
_PAIRS = """
WITH bands AS ({bands})
SELECT DISTINCT later.rank, earlier.rank
FROM bands AS later JOIN bands AS earlier USING (band, part)
WHERE earlier.rank < later.rank AND bit_count(xor(earlier.bits, later.bits)) <= $max_distance
ORDER BY ALL
"""
_DISTINCT = """
CREATE TEMP TABLE verdicts AS
WITH files AS (SELECT sha256, min(rank) AS rank FROM ranked GROUP BY sha256)
SELECT row, CASE
    WHEN ranked.rank > files.rank THEN 'duplicate_image'
    WHEN ranked.rank > hashes.rank OR hashes.rank IN (FROM near) THEN 'near_duplicate_image'
    WHEN is_repeat AND files.rank IS NOT NULL THEN 'duplicate_pair'
    END AS drop_reason
FROM ranked LEFT JOIN files USING (sha256) LEFT JOIN hashes USING (phash)  -- a row without a hash is nobody's copy
"""
_CAPTIONS = """
WITH repeated AS (
    SELECT caption FROM images JOIN verdicts USING (row)
    WHERE drop_reason IS NULL GROUP BY caption HAVING count(*) > $max_caption_count
)
SELECT CASE WHEN drop_reason IS NULL AND repeated.caption IS NOT NULL THEN 'caption_repeated' ELSE drop_reason END
    AS drop_reason
FROM images JOIN verdicts USING (row) LEFT JOIN repeated ON images.caption = repeated.caption ORDER BY row
"""
