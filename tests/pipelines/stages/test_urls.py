import hashlib
import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.stages.urls import SeenPairs, Urls
from schemas.source_images import pair_key
from schemas.tables import URLS, with_drop_reason


def reasons(urls, captions) -> list[str | None]:
    return Urls(source="test")(pa.table({"url": urls, "caption": captions})).column("drop_reason").to_pylist()


def test_a_good_pair():
    table = Urls(source="web")(pa.table({"extra": [1], "caption": [" A red apple &amp; "], "url": ["http://a.test/1"]}))
    assert table.schema == with_drop_reason(URLS)
    assert table.to_pylist() == [
        {
            "key": hashlib.sha256(b"http://a.test/1\0 A red apple &amp; ").hexdigest()[:16],
            "url": "http://a.test/1",
            "caption": " A red apple &amp; ",
            "source": "web",
            "similarity": None,
            "punsafe": None,
            "drop_reason": None,
        }
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://a.test",
        "HTTPS://A.test:8080/x?y#z",
        "http://user@a.test/",
        "https://bücher.test/ä b.jpg",
        "http://1.2.3.4/",
    ],
)
def test_urls_with_a_host(url):
    assert reasons([url], ["a red apple"]) == [None]


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "a.test/x.jpg",
        "ftp://a.test/",
        "file:///x",
        "http://",
        "http:///x",
        "http://?x",
        "http://u@/x",
        " http://a.test",
    ],
)
def test_url_invalid(url):
    assert reasons(pa.array([url], pa.string()), ["a red apple"]) == ["url_invalid"]


def test_captions():
    captions = [None, "", " \t\n", "12", "-3.5", "1,234", "1e-5", "3 apples", "७", "caf\ufffd", "a\0b"]
    wanted = [
        "caption_not_text",
        *["caption_empty"] * 2,
        *["caption_not_text"] * 4,
        None,
        None,
        "caption_damaged",
        "caption_not_text",
    ]
    assert reasons([f"http://a.test/{i}" for i in range(11)], captions) == wanted


@pytest.mark.parametrize("captions", [[1.5], [True], [None], [["a"]], [{"a": "b"}], [b"caf\xe9"]])
def test_a_caption_column_that_is_not_text(captions):
    assert reasons(["http://a.test/"], captions) == ["caption_not_text"]


@pytest.mark.parametrize("type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_every_kind_of_arrow_text(type_):
    assert reasons(pa.array(["http://a.test/"], type_), pa.array(["a red apple"], type_)) == [None]


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(14)])
def test_bytes_are_text_where_they_are_utf8(type_):
    urls = pa.array([b"http://a.test/", b"http://a.test/", b"http://a\xff.test"[:14]], type_)
    captions = pa.array([b"a red apple   ", b"caf\xe9 au lait  ", b"a red apple   "], type_)
    assert reasons(urls, captions) == [None, "caption_not_text", "url_invalid"]


def test_the_first_of_equal_pairs_stays():
    urls = ["http://a.test/1", "http://a.test/1", "http://a.test/2", "http://a.test/1", "http://a.test/2"]
    captions = ["a dog", "a cat", "a dog", "a dog", "a dog"]
    assert reasons(urls, captions) == [None, None, None, "duplicate_pair", "duplicate_pair"]


def test_the_first_reason_wins_and_empty_tables_pass():
    assert reasons(["x", "x"], pa.array([None, None], pa.string())) == ["url_invalid", "url_invalid"]
    assert reasons(pa.array([], pa.string()), pa.array([], pa.string())) == []


def test_tables_in_chunks():
    one = pa.table({"url": ["http://a.test/1"], "caption": ["a dog"]})
    table = Urls(source="test")(pa.concat_tables([one, one, one.slice(0, 0)]))
    assert table.column("drop_reason").to_pylist() == [None, "duplicate_pair"]


def test_keys_tell_url_and_caption_apart():
    assert pair_key("http://a.test/b", "c") != pair_key("http://a.test/", "bc")


def test_golden(golden):
    stage = Urls(source="test")
    urls = [
        "http://a.test/1.jpg",
        "ftp://a.test/2.jpg",
        "https://a.test/3.jpg",
        "https://a.test/3.jpg",
        "http://a.test/4",
    ]
    golden(stage, stage(pa.table({"url": urls, "caption": ["a dog", "a cat", "été", "été", ""]})).to_pylist())


def test_repeats_of_earlier_tables_are_found_whatever_their_sizes():
    """Against a plain set; a pair that was dropped before does not count as seen."""
    rng = random.Random(0)
    stage, seen, known = Urls(source="test"), SeenPairs(), set()
    for size in (1, 50, 1, 7, 300, 0, 20, 20, 1000, 3):
        numbers = [rng.randrange(1500) for _ in range(size)]
        urls = [f"http://a.test/{number}" for number in numbers]
        captions = [" " if rng.random() < 0.2 else "a cat" for _ in numbers]
        table = stage(pa.table({"url": pa.array(urls, pa.string()), "caption": pa.array(captions, pa.string())}))
        before = table.column("drop_reason").to_pylist()
        expected = []
        for key, reason in zip(table.column("key").to_pylist(), before, strict=True):
            expected.append("duplicate_pair" if reason is None and key in known else reason)
        known |= {key for key, reason in zip(table.column("key").to_pylist(), before, strict=True) if reason is None}
        result = seen.drop_repeats(table)
        assert result.column("drop_reason").to_pylist() == expected
        assert result.schema == table.schema
    assert len(known) > 500


def test_scores_are_numbers_or_null():
    pairs = {"url": ["http://a.test/1"] * 4, "caption": ["a", "b", "c", "d"]}
    scores = {"similarity": [0.25, float("nan"), None, float("inf")], "punsafe": [0, 1, None, 0]}
    table = Urls(source="test")(pa.table({**pairs, **scores}))
    assert table.schema == with_drop_reason(URLS)
    assert table.column("similarity").to_pylist() == [0.25, None, None, None]
    assert table.column("punsafe").to_pylist() == [0, 1, None, 0]
    nothing = {"similarity": pa.nulls(4)}
    assert Urls(source="test")(pa.table({**pairs, **nothing})).column("similarity").null_count == 4
    with pytest.raises(ValueError, match="test: column 'punsafe' is string, wanted numbers: cast or rename it"):
        Urls(source="test")(pa.table({**pairs, "punsafe": ["UNLIKELY"] * 4}))


def test_real_alt_texts(shared_data):
    plain = pq.read_table(shared_data / "laion_alt_text" / "test_10000.parquet").rename_columns(
        {"URL": "url", "TEXT": "caption"}
    )
    table = Urls(source="laion")(plain)
    assert table.num_rows == plain.num_rows == 10_000
    assert Counter(table.column("drop_reason").to_pylist()) == {None: 9_993, "caption_damaged": 6, "url_invalid": 1}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://[2001:db8::1]/x.jpg", None),
        ("http://[::1]/x.jpg", None),  # the rules of addresses refuse it, not this stage
        ("HTTPS://[2001:DB8::1]:8443/x.jpg?a=b", None),
        ("http://user@[::ffff:10.0.0.1]/x.jpg", None),
        ("http://[fe80::1%25eth0]/x.jpg", None),
        ("http://[2001:db8::1]", None),
        ("http://[2001:db8::1/x.jpg", "url_invalid"),
        ("http://2001:db8::1]/x.jpg", "url_invalid"),
        ("http://[]/x.jpg", "url_invalid"),
        ("http://[evil.test]/x.jpg", "url_invalid"),
        ("http://[::1]evil.test/x.jpg", "url_invalid"),
        ("http://[::1]@evil.test/x.jpg", None),
        ("http://[[::1]]/x.jpg", "url_invalid"),
        (f"http://a.test/{'x' * 9000}", "url_too_long"),
    ],
)
def test_addresses_in_brackets_are_hosts(url: str, reason: str | None) -> None:
    table = Urls(source="x")(pa.table({"url": [url], "caption": ["a dog"]}))
    assert table["drop_reason"].to_pylist() == [reason]
