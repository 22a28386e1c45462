"""Names of shards and of their indexes."""

import pytest

from schemas.shard_index import index_name, source_of


def test_an_index_lies_beside_its_shard() -> None:
    assert index_name("train/cc3m-00000.tar") == "train/cc3m-00000.index.parquet"


@pytest.mark.parametrize(
    ("shard", "source"),
    [
        ("emoji_scenes-00000", "emoji_scenes"),
        ("cc3m_wds-cc3m-train-0000", "cc3m_wds"),  # of a mirror's tar cc3m-train-0000.tar
        ("lvis_validation", "lvis_validation"),  # a validation set is one shard
    ],
)
def test_the_source_of_a_shard_ends_at_the_first_dash(shard: str, source: str) -> None:
    assert source_of(shard) == source
