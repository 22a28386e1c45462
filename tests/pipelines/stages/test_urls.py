import hashlib
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.captions.pairs_file import read_pairs
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
    captions = [None, "", " \t\n", "12", "-3.5", "1,234", "1e-5", "3 apples", "७"]
    wanted = ["caption_not_text", *["caption_empty"] * 2, *["caption_not_text"] * 4, None, None]
    assert reasons([f"http://a.test/{i}" for i in range(9)], captions) == wanted


@pytest.mark.parametrize("captions", [[1.5], [True], [None], [["a"]], [{"a": "b"}], [b"a red apple"]])
def test_a_caption_column_that_is_not_text(captions):
    assert reasons(["http://a.test/"], captions) == ["caption_not_text"]


@pytest.mark.parametrize("type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_every_kind_of_arrow_text(type_):
    assert reasons(pa.array(["http://a.test/"], type_), pa.array(["a red apple"], type_)) == [None]


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


def test_read_csv_with_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('Caption,id,URL\n"a ""red"", round\napple",7,http://a.test/1\n3,8,http://a.test/2\n')
    table = read_pairs(path)
    assert table.to_pylist() == [
        {"url": "http://a.test/1", "caption": 'a "red", round\napple'},
        {"url": "http://a.test/2", "caption": "3"},
    ]
    assert Urls(source="test")(table).column("drop_reason").to_pylist() == [None, "caption_not_text"]


def test_read_tsv_keeps_lone_quotation_marks(tmp_path):
    path = tmp_path / "pairs.TSV"
    path.write_text('TEXT\turl\n"best apple\thttp://a.test/1\n5\'2" tall\thttp://a.test/2\n')
    assert read_pairs(path).column("caption").to_pylist() == ['"best apple', "5'2\" tall"]


def test_read_parquet_keeps_numbers_as_numbers(tmp_path):
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"URL": ["http://a.test/1"], "TEXT": [3.5]}), path)
    table = read_pairs(path)
    assert table.schema.field("caption").type == pa.float64()
    assert Urls(source="test")(table).column("drop_reason").to_pylist() == ["caption_not_text"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{}", r"a\.json is neither \.parquet nor \.csv nor \.tsv"),
        ("a.csv", b"url,title\nx,y\n", r"a\.csv has no column caption; it has \['url', 'title'\]"),
        ("a.csv", b"a,b\nx,y\n", r"a\.csv has no column url or caption; it has \['a', 'b'\]"),
        (
            "a.csv",
            b"url,caption,TEXT\nx,y,z\n",
            r"a\.csv has two columns for 'caption': 'caption' and 'TEXT'; keep one",
        ),
        ("a.csv", b"url,caption,caption\nx,y,z\n", r"a\.csv has two columns for 'caption': 'caption' and 'caption'"),
        ("a.csv", b"", r"a\.csv cannot be read: Empty CSV file"),
        ("a.csv", b"url,caption\nx\n", r"a\.csv cannot be read: CSV parse error: .*Expected 2 columns, got 1"),
        ("a.csv", b"url,caption\nx,\xff\xfe\n", r"a\.csv cannot be read: .*invalid UTF8"),
        ("a.parquet", b"PAR1 broken", r"a\.parquet cannot be read: "),
        ("a.parquet", None, r"a\.parquet cannot be read: .*a\.parquet"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / name)


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


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_scores_of_a_file_in_any_case(tmp_path, suffix):
    path = tmp_path / f"pairs{suffix}"
    columns = {"PUNSAFE": [0.5, None], "url": ["u", "v"], "Similarity": [0.25, 0.5], "TEXT": ["a", "b"], "hash": [1, 2]}
    if suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        lines = [columns, *zip(*columns.values(), strict=True)]
        separator = "," if suffix == ".csv" else "\t"
        texts = (separator.join("" if value is None else str(value) for value in line) for line in lines)
        path.write_text("\n".join(texts) + "\n")
    assert read_pairs(path).to_pydict() == {
        "url": ["u", "v"],
        "caption": ["a", "b"],
        "similarity": [0.25, 0.5],
        "punsafe": [0.5, None],
    }


def test_real_alt_texts(shared_data):
    table = Urls(source="laion")(read_pairs(shared_data / "laion_alt_text" / "test_10000.parquet"))
    assert table.num_rows == 10_000
    assert table.column("drop_reason").null_count == 9_999
