import random

import numpy as np
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


def test_the_larger_image_as_stored_wins_then_the_older_shard_then_the_larger_original_then_the_key(verdicts):
    same = {"sha256": "s", "phash": "0" * 16}
    stored_small, stored_large = {"width": 200, "height": 400}, {"width": 320, "height": 240}  # 200 and 240 px
    assert verdicts({"a": [same | stored_small], "b": [same | stored_large]}) == {"a": [DUPLICATE], "b": [None]}
    assert verdicts({"a": [same | stored_large], "b": [same | stored_small]}) == {"a": [None], "b": [DUPLICATE]}
    small, large = {"original_width": 100}, {"original_width": 1000}  # stored alike
    assert verdicts({"z": [same | small], "a": [same | large]}) == {"z": [None], "a": [DUPLICATE]}
    assert verdicts({"a": [same | small, same | large]}) == {"a": [DUPLICATE, None]}
    assert verdicts({"a": [same | {"key": "2"}, same | {"key": "1"}]}) == {"a": [DUPLICATE, None]}


def test_a_chain_loses_every_other_link(verdicts):
    chain = [("a", 0b0), ("b", 0b11), ("c", 0b1111), ("d", 0b111111)]  # neighbours are 2 apart, all others 4 or more
    assert verdicts({"a": chain[:2], "b": chain[2:]}) == {"a": [None, NEAR], "b": [None, NEAR]}


def test_the_same_bytes_as_a_near_duplicate(verdicts):
    assert verdicts({"a": [("s", 0), ("t", 1), ("t", 1)]}) == {"a": [None, NEAR, DUPLICATE]}


def test_a_new_shard_of_images_stored_alike_changes_nothing_in_older_ones(verdicts):
    rng = random.Random(0)
    rows = [(f"s{rng.randrange(60)}", rng.randrange(300)) for _ in range(150)]
    before = verdicts({"a": rows[:50], "b": rows[50:100]})
    after = verdicts({"a": rows[:50], "b": rows[50:100], "c": rows[100:]})
    assert {name: after[name] for name in before} == before


def test_a_new_shard_overturns_only_verdicts_on_images_that_were_stored_smaller(verdicts):
    """Whatever else is there: of the older rows only those of less than the full side may lose their place."""
    rng = random.Random(0)

    def row():
        return {
            "sha256": f"s{rng.randrange(40)}",
            "phash": f"{rng.getrandbits(64):016x}",
            "width": rng.choice([200, 320]),
        }

    old, new = [row() for _ in range(60)], [row() for _ in range(60)]
    before = verdicts({"a": old})["a"]
    after = verdicts({"a": old, "b": new})["a"]
    lost = [row["width"] for row, b, a in zip(old, before, after, strict=True) if b is None and a is not None]
    assert lost
    assert set(lost) == {200}


def test_captions_of_too_many_images(verdicts):
    """Four images with one caption; the copy of one of them counts for none."""
    rows = [{"caption": "logo"}] * 4 + [{"caption": "a cat"}] * 3
    rows = [
        row | {"sha256": str(i), "phash": f"{0x9E3779B97F4A7C15 * (i + 1) % 2**64:016x}"} for i, row in enumerate(rows)
    ]
    rows = [rows[0], *rows]
    shards = {"a": rows[:5], "b": rows[5:]}
    assert verdicts(shards, max_caption_count=4) == {"a": [None, DUPLICATE, None, None, None], "b": [None] * 3}
    repeated = {"a": ["caption_repeated", DUPLICATE, *["caption_repeated"] * 3], "b": [None] * 3}
    assert verdicts(shards, max_caption_count=3) == repeated
    assert verdicts(shards)["a"] == [None, DUPLICATE, None, None, None]


def test_an_image_without_hashes_is_nobodys_copy(verdicts):
    rows = [{"sha256": None, "phash": None}, {"sha256": None, "phash": None}, ("s", 0)]
    assert verdicts({"a": rows}) == {"a": [None, None, None]}


def captions_of(url, *captions, **row):
    """Rows of one image with several captions."""
    return [{"phash": "0" * 16, "url": f"http://a.test/{url}", "caption": caption} | row for caption in captions]


def test_captions_of_one_image_stay_or_go_together(verdicts):
    """As do near copies of it; an URL that gave other bytes is another image."""
    cat = captions_of("cat", "a cat", "a tabby", "a cat on a mat", sha256="s", phash="0" * 16)
    copy = captions_of("copy", "a cat", "someone's cat", sha256="s", phash="0" * 16)
    near = captions_of("near", "a grey cat", "a kitten", sha256="t", phash="0" * 15 + "3")
    assert verdicts({"a": [*cat, *near, *copy]}) == {"a": [None] * 3 + [NEAR] * 2 + [DUPLICATE] * 2}
    assert verdicts({"a": [copy[0], cat[0], copy[1], cat[1]]}) == {"a": [None, DUPLICATE, None, DUPLICATE]}
    larger = [row | {"width": 640, "height": 640} for row in copy]
    assert verdicts({"a": cat, "b": larger}) == {"a": [DUPLICATE] * 3, "b": [None] * 2}
    other = captions_of("cat", "a dog", sha256="u", phash=f"{FAR:016x}")
    assert verdicts({"a": [*cat, *other, *copy]}) == {"a": [None] * 4 + [DUPLICATE] * 2}


def test_captions_of_one_image_in_two_shards_are_copies(verdicts):
    cat = captions_of("cat", "a cat", "a tabby", "a cat on a mat", sha256="s")
    assert verdicts({"a": cat[:2], "b": cat[2:]}) == {"a": [None, None], "b": [DUPLICATE]}


def test_a_caption_that_an_image_has_twice(verdicts):
    """Two that differed until they were cleaned; and it counts once among the images of a caption."""
    rows = [*captions_of("cat", "a cat", "a tabby", "a cat", sha256="s"), {"caption": "a cat", "phash": f"{FAR:016x}"}]
    assert verdicts({"a": rows}) == {"a": [None, None, "duplicate_pair", None]}
    assert verdicts({"a": rows}, max_caption_count=2) == {"a": [None, None, "duplicate_pair", None]}
    repeated = ["caption_repeated", None, "duplicate_pair", "caption_repeated"]
    assert verdicts({"a": rows}, max_caption_count=1) == {"a": repeated}


def test_the_number_of_threads_changes_nothing(verdicts):
    rng = random.Random(2)
    rows = [(f"s{rng.randrange(2000)}", rng.getrandbits(14) * 0x0004_0010_0401) for _ in range(5000)]
    one, two = (verdicts({"a": rows[:2500], "b": rows[2500:]}, num_threads=n) for n in (1, 2))
    assert one == two
    assert set(one["b"]) == {None, DUPLICATE, NEAR}
    assert "num_threads" not in Dedup(num_threads=2).config


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
    from pipelines.fetch.image_resizer import ImageResizer
    from pipelines.sources.emoji_scenes.pair_source import EmojiScenes

    scenes = EmojiScenes(seed=0, image_size_px=160)
    resizer = ImageResizer(image_size_px=160, encode_quality=95, max_pixels=10**6)
    copies = [i for i in range(2000) if scenes.kind_of(i) == "near_duplicate"][:5]
    originals = [i for i in range(500) if scenes.kind_of(i) == "picture"]
    indices = sorted({*originals, *map(scenes.original_of, copies), *copies})
    hashes = [resizer(scenes.image(i)).phash for i in indices]
    rows = [
        dict.fromkeys(IMAGES.names)
        | {"key": f"{i:06}", "url": "", "caption": "", "source": "", "sha256": str(i), "phash": h}
        | {"original_width": 1, "original_height": 1}
        for i, h in zip(indices, hashes, strict=True)
    ]
    reasons = Dedup()({"a": pa.Table.from_pylist(rows, schema=IMAGES)})["a"].column("drop_reason").to_pylist()
    assert reasons == [NEAR if scenes.kind_of(i) == "near_duplicate" else None for i in indices]
    assert reasons.count(NEAR) >= 5


def test_what_does_not_fit_into_memory_changes_nothing(images, tmp_path):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    hashes[1::7] = hashes[0] ^ np.uint64(3)
    rows = [{"key": f"{i:016x}", "sha256": f"{i % 15_000:064x}", "phash": f"{h:016x}"} for i, h in enumerate(hashes)]
    tables = {"a": images(rows[:9000]), "b": images(rows[9000:])}
    plenty, little = Dedup(max_caption_count=5), Dedup(max_caption_count=5, memory_bytes=24 * 2**20)
    wanted, found = plenty(tables), little(tables, scratch=tmp_path)
    assert all(found[shard].equals(wanted[shard]) for shard in tables)
    assert {*wanted["b"]["drop_reason"].to_pylist()} == {"duplicate_image", "near_duplicate_image", "caption_repeated"}
    assert (little.config, list(tmp_path.iterdir())) == (plenty.config, [])


def test_golden(images, golden):
    rows = [{"sha256": "s"}, {"sha256": "s"}, {"phash": "0" * 15 + "3"}, {"original_width": 1, "phash": "0" * 15 + "7"}]
    rows += captions_of("cat", "a cat", "a tabby", "a cat", sha256="t", phash="f" * 16)
    table = Dedup()({"a": images(rows)})["a"]
    golden(Dedup(), table.select(["key", "url", "caption", "sha256", "phash", "drop_reason"]).to_pylist())
