import random

import pyarrow as pa
import pytest

from pipelines.stages.dedup import Dedup
from schemas.tables import IMAGES, with_drop_reason


@pytest.fixture
def verdicts(images):
    """Drop reasons by shard, of rows (sha256, phash) or dicts by shard."""

    def run(shards, **options):
        tables = {
            name: images(
                [row if isinstance(row, dict) else {"sha256": row[0], "phash": f"{row[1]:016x}"} for row in rows]
            )
            for name, rows in shards.items()
        }
        results = Dedup(**options)(tables)
        assert list(results) == list(tables)
        for name, result in results.items():
            assert result.schema == with_drop_reason(IMAGES)
            assert result.drop(["drop_reason"]).equals(tables[name])
        return {name: result.column("drop_reason").to_pylist() for name, result in results.items()}

    return run


DUPLICATE, NEAR = "duplicate_image", "near_duplicate_image"
FAR = 0x5555_5555_5555_5555


def test_the_same_bytes(verdicts):
    assert verdicts({"a": [("s", 0), ("t", FAR), ("s", 0)], "b": [("t", FAR), ("u", FAR << 1)]}) == {
        "a": [None, None, DUPLICATE],
        "b": [DUPLICATE, None],
    }


@pytest.mark.parametrize(("max_distance", "near"), [(0, [0]), (2, [0, 1, 2]), (4, [0, 1, 2, 3, 4])])
@pytest.mark.parametrize("shift", [0, 20, 31, 59])
def test_hashes_within_the_distance_wherever_the_bits_are(verdicts, max_distance, near, shift):
    first = 0x0123_4567_89AB_CDEF
    for distance in range(6):
        bits = sum(1 << ((shift + 13 * i) % 64) for i in range(distance))
        reasons = verdicts({"a": [("s", first)], "b": [("t", first ^ bits)]}, max_distance=max_distance)
        assert reasons == {"a": [None], "b": [NEAR if distance in near else None]}


def test_the_older_shard_wins_then_the_larger_original_then_the_key(verdicts):
    small, large = {"original_width": 100}, {"original_width": 1000}
    same = {"sha256": "s", "phash": "0" * 16}
    assert verdicts({"z": [same | small], "a": [same | large]}) == {"z": [None], "a": [DUPLICATE]}
    assert verdicts({"a": [same | small, same | large]}) == {"a": [DUPLICATE, None]}
    assert verdicts({"a": [same | {"key": "2"}, same | {"key": "1"}]}) == {"a": [DUPLICATE, None]}


def test_a_chain_loses_every_other_link(verdicts):
    chain = [("a", 0b0), ("b", 0b11), ("c", 0b1111), ("d", 0b111111)]  # neighbours are 2 apart, all others 4 or more
    assert verdicts({"a": chain[:2], "b": chain[2:]}) == {"a": [None, NEAR], "b": [None, NEAR]}


def test_the_same_bytes_as_a_near_duplicate(verdicts):
    assert verdicts({"a": [("s", 0), ("t", 1), ("t", 1)]}) == {"a": [None, NEAR, DUPLICATE]}


def test_a_new_shard_changes_nothing_in_older_ones(verdicts):
    rng = random.Random(0)
    rows = [(f"s{rng.randrange(60)}", rng.randrange(300)) for _ in range(150)]
    before = verdicts({"a": rows[:50], "b": rows[50:100]})
    after = verdicts({"a": rows[:50], "b": rows[50:100], "c": rows[100:]})
    assert {name: after[name] for name in before} == before


def test_against_all_pairs(verdicts):
    """A double loop over all pairs, with hashes that crowd in 12 bits spread over all bands."""
    rng = random.Random(1)
    rows = [
        (f"s{rng.randrange(200)}", sum(rng.randrange(2) << (i * 16 + j * 5) for i in range(4) for j in range(3)))
        for _ in range(200)
    ]
    shas, kept_hashes, seen, wanted = set(), [], set(), []
    for sha, phash in rows:
        near = phash in seen or any((phash ^ other).bit_count() <= 2 for other in kept_hashes)
        wanted.append(DUPLICATE if sha in shas else NEAR if near else None)
        if not near:
            kept_hashes.append(phash)
        shas.add(sha)
        seen.add(phash)
    assert set(wanted) == {None, DUPLICATE, NEAR}
    assert verdicts({"a": rows[:70], "b": rows[70:]}) == {"a": wanted[:70], "b": wanted[70:]}


def test_nothing_to_compare(verdicts):
    assert verdicts({}) == {}
    assert verdicts({"a": [], "b": [("s", 0)]}) == {"a": [], "b": [None]}


def test_distinct_scenes_stay_and_their_copies_go():
    """Small synthetic scenes on smooth backgrounds are the hard case of a perceptual hash."""
    from pipelines.sources.emoji_scenes.source import EmojiScenes
    from pipelines.stages.pictures import phash

    scenes = EmojiScenes(seed=0, image_size_px=160)
    copies = [i for i in range(2000) if scenes.kind_of(i) == "near_duplicate"][:5]
    pictures = [i for i in range(500) if scenes.kind_of(i) == "picture"]
    indices = sorted({*pictures, *map(scenes.original_of, copies), *copies})
    hashes = [phash(scenes.picture(i)) for i in indices]
    rows = [
        dict.fromkeys(IMAGES.names)
        | {"key": f"{i:06}", "url": "", "caption": "", "source": "", "sha256": str(i), "phash": h}
        | {"original_width": 1, "original_height": 1}
        for i, h in zip(indices, hashes, strict=True)
    ]
    reasons = Dedup()({"a": pa.Table.from_pylist(rows, schema=IMAGES)})["a"].column("drop_reason").to_pylist()
    assert reasons == [NEAR if scenes.kind_of(i) == "near_duplicate" else None for i in indices]
    assert reasons.count(NEAR) >= 5


def test_golden(images, golden):
    rows = [{"sha256": "s"}, {"sha256": "s"}, {"phash": "0" * 15 + "3"}, {"original_width": 1, "phash": "0" * 15 + "7"}]
    table = Dedup()({"a": images(rows)})["a"]
    golden(Dedup(), table.select(["key", "sha256", "phash", "drop_reason"]).to_pylist())
