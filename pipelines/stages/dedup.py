"""One picture, one row: the same bytes, or nearly the same picture, anywhere in the data."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from schemas.tables import IMAGES, with_drop_reason

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """IMAGES to IMAGES over all shards. Drops ``duplicate_image`` (same sha256) and ``near_duplicate_image`` (pHash).

    Rows compete in the order of the shards, then from the most pixels to the fewest, then by key. A row loses to an
    earlier row that was itself kept, so that a new shard never changes the verdict on an older one, and a chain of
    look-alikes does not collapse into its first link.

    Attributes:
        max_distance: largest Hamming distance of the 64-bit perceptual hashes of near duplicates. By the pigeonhole
            principle two such hashes agree in one of ``max_distance + 1`` bands: only rows that share a band are
            compared. The hashes have as many ones as zeros, so distances are even. At 2, all 369 re-encoded or shrunk
            copies of 123 photos are found, and of 6.5 million pairs of distinct emoji scenes none is taken for one
            picture; at 4, one is.
    """

    max_distance: int = 2

    name: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    input_schema: ClassVar[pa.Schema] = IMAGES
    output_schema: ClassVar[pa.Schema] = IMAGES

    @property
    def config(self) -> dict[str, Any]:
        return {"max_distance": self.max_distance}

    def __call__(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """For every shard its table with ``drop_reason``, in the order of its rows."""
        columns = ["key", "sha256", "phash", "original_width", "original_height"]
        parts = [
            table.select(columns).append_column("shard", pa.repeat(position, len(table)))
            for position, table in enumerate(tables.values())
        ]
        if not parts:
            return {}
        import duckdb  # only where it computes: each process that imports it prints its leaks at exit

        with duckdb.connect(config={"threads": 1}) as database:
            database.register("images", pa.concat_tables(parts))
            database.execute(_RANKED)
            near = self._near_duplicates(database)
            database.register("near", pa.table({"rank": pa.array(near, pa.int64())}))
            reasons = database.sql(_REASONS).to_arrow_table().column("drop_reason")
        results, start = {}, 0
        for name, table in tables.items():
            reason = reasons.slice(start, len(table))
            results[name] = table.append_column("drop_reason", reason).cast(with_drop_reason(IMAGES))
            start += len(table)
        return results

    def _near_duplicates(self, database: "DuckDBPyConnection") -> list[int]:
        """Ranks of the hashes that are near an earlier kept hash."""
        edges = [64 * band // (self.max_distance + 1) for band in range(self.max_distance + 2)]
        bands = [
            f"SELECT {band} AS band, (bits >> {start}) & {2 ** (stop - start) - 1} AS part, bits, rank FROM hashes"
            for band, (start, stop) in enumerate(itertools.pairwise(edges))
        ]
        pairs = database.sql(_PAIRS.format(bands=" UNION ALL ".join(bands)), params={"max_distance": self.max_distance})
        dropped: set[int] = set()
        for later, earlier in pairs.fetchall():
            if earlier not in dropped:
                dropped.add(later)
        return sorted(dropped)


# `rank` is the order in which rows compete. A hash competes in place of the first of its rows.
_RANKED = """
CREATE TEMP TABLE ranked AS
SELECT
    *,
    row_number() OVER () AS row,
    row_number() OVER (ORDER BY shard, original_width::BIGINT * original_height DESC, key) AS rank
FROM images;
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
_REASONS = """
SELECT CASE
    WHEN rank > min(rank) OVER (PARTITION BY sha256) THEN 'duplicate_image'
    WHEN rank > min(rank) OVER (PARTITION BY phash) OR min(rank) OVER (PARTITION BY phash) IN (FROM near)
        THEN 'near_duplicate_image'
    END AS drop_reason
FROM ranked ORDER BY row
"""
