"""Bombs and adversarial texts: time and memory follow the size of a file, not what the file announces."""

import gzip
import importlib
import io
import json
import pkgutil
import re
import subprocess
import sys
import tarfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipelines
from pipelines.build.own_boxes import own_detection
from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities
from pipelines.sources.boxes.voc_xml import read_voc_xml
from pipelines.sources.boxes.yolo_yaml import read_data_yaml
from pipelines.sources.captions.caption_lists import list_captions
from pipelines.sources.captions.columns import URL_COLUMNS
from pipelines.sources.captions.image_folders import ImageFolders
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.remote_files import find_files
from pipelines.sources.captions.table_rows import table_rows
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.stages.filters import clean_caption
from pipelines.stages.segments import segments_of
from pipelines.stages.urls import Urls
from pipelines.storage.tars import read_tar, tar_extents
from schemas.source_images import ImagePair

pytestmark = pytest.mark.timeout(10)  # a hang, no measure


def header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(records: bytes, *, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("pax", len(records), kind=kind) + records + bytes(-len(records) % 512)


def record(key: str, value: str) -> bytes:
    for length in range(1, 10_000_000):
        text = f"{length} {key}={value}\n".encode()
        if len(text) == length:
            return text
    raise AssertionError


def file(name: str, content: bytes) -> bytes:
    return header(name, len(content)) + content + bytes(-len(content) % 512)


GOOD = file("good.jpg", b"jpeg") + file("good.txt", b"a dog")
END = bytes(10240)
TARS = {
    "8 EiB": header("a.jpg", 2**63 - 1),
    "8 EiB of pax": pax(record("size", str(2**63 - 1))) + file("a.jpg", b"x"),
    "negative": header("a.jpg", -1024),
    "negative of pax": pax(record("size", "-1024")) + file("a.jpg", b"x"),
    "base 256": header("a.jpg", 2**80),
    "no number": pax(record("size", "abc")) + file("a.jpg", b"x"),
    "many digits": pax(record("size", "9" * 5000)) + file("a.jpg", b"x"),
    "1 TiB": header("a.jpg", 2**40),
    "long name of 1 GiB": header("././@LongLink", 2**30, kind=tarfile.GNUTYPE_LONGNAME),
    "pax of 1 GiB": header("pax", 2**30, kind=tarfile.XHDTYPE),
    "global pax of 1 GiB": header("pax", 2**30, kind=tarfile.XGLTYPE),
    "record without a length": pax(b"0 path=x\n") + file("a.jpg", b"x"),
    "record too long": pax(b"999999999999 path=x\n") + file("a.jpg", b"x"),
    "record of many digits": pax(b"9" * 5000 + b" path=x\n") + file("a.jpg", b"x"),
    "no record": pax(b"\xff\xfe\x00garbage") + file("a.jpg", b"x"),
    "charset": pax(b"25 hdrcharset=\xff\xff\xff\xff\xff\xff\xff\xff\n") + file("a.jpg", b"x"),
    "path is no UTF-8": pax(b"14 path=\xff\xff.jpg\n"[:14]) + file("a.jpg", b"x"),
    "path with NUL": pax(record("path", "a\0b.jpg")) + file("a.jpg", b"x"),
    "path up": pax(record("path", "../../etc/x.jpg")) + file("a.jpg", b"x"),
    "mtime": pax(record("mtime", "1e999")) + file("a.jpg", b"x"),
    "uid": pax(record("uid", "9" * 5000)) + file("a.jpg", b"x"),
    "sparse size": pax(record("GNU.sparse.size", "x")) + file("a.jpg", b"x"),
    "sparse 0.0": pax(record("GNU.sparse.size", str(2**62)) + record("GNU.sparse.numblocks", "1"))
    + file("a.jpg", b"x"),
    "sparse map": pax(record("GNU.sparse.map", "1,2,x")) + file("a.jpg", b"x"),
    "sparse 1.0": pax(
        record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", str(2**62))
    )
    + file("a.jpg", b"99999999999999\n"),
    "a thousand pax headers": b"".join(pax(record("comment", str(i))) for i in range(2000)) + file("a.jpg", b"x"),
    "a thousand long names": b"".join(
        header("././@LongLink", 5, kind=tarfile.GNUTYPE_LONGNAME) + b"x.jpg" + bytes(507) for _ in range(2000)
    ),
    "link": header("a.jpg", 0, kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": header("a.jpg", 0, kind=tarfile.LNKTYPE, linkname="good.jpg"),
    "device": header("a.jpg", 0, kind=tarfile.CHRTYPE),
    "pipe": header("a.jpg", 0, kind=tarfile.FIFOTYPE),
    "unknown kind": header("a.jpg", 2**60, kind=b"Z"),
    "deep json": file("a.jpg", b"x") + file("a.json", b"[" * 100_000),
    "deep object": file("a.jpg", b"x") + file("a.json", b'{"caption": ' * 50_000),
    "surrogate": file("a.jpg", b"x") + file("a.json", b'{"caption": "\\ud800", "url": "\\udfff"}'),
    "number": file("a.jpg", b"x") + file("a.json", b'{"caption": "a dog", "similarity": 1' + b"0" * 400 + b"}"),
    "number of many digits": file("a.jpg", b"x")
    + file("a.json", b'{"caption": "a dog", "punsafe": ' + b"9" * 5000 + b"}"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("content", TARS.values(), ids=TARS)
def test_a_hostile_tar_is_refused_or_counted(tmp_path: Path, content: bytes, packed: bool) -> None:
    path = tmp_path / f"x.tar{'.gz' * packed}"
    whole = GOOD + content + END
    path.write_bytes(gzip.compress(whole) if packed else whole)
    (shard,) = WebDatasetMirror(path=str(path), name="x").shards()
    pairs: list[ImagePair] = []
    try:
        pairs += shard.read()
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert [pair.caption for pair in pairs if pair.image == b"jpeg"] == ["a dog"]
    for pair in pairs:
        assert (pair.image is None) == (pair.drop_reason is not None)
        assert f"{pair.url}{pair.caption}".encode()


@pytest.mark.parametrize("name", ["record without a length", "no number", "negative of pax", "sparse size", "charset"])
def test_an_odd_record_costs_its_file_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.tar").write_bytes(GOOD + TARS[name] + file("z.jpg", b"z") + file("z.txt", b"a cat") + END)
    (shard,) = WebDatasetMirror(path=str(tmp_path / "x.tar"), name="x").shards()
    counts = Counter((pair.caption, pair.drop_reason) for pair in shard.read())
    assert counts == {("a dog", None): 1, ("a cat", None): 1, (None, "tar_header_damaged"): 1}


@pytest.mark.parametrize("content", TARS.values(), ids=TARS)
def test_a_hostile_shard_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content + END)
    for read in (read_tar, tar_extents):
        try:
            assert len(list(read(path))) <= 2
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017


LONG = 200_000
TEXTS = {
    "blanks": " " * LONG,
    "tabs": "\t" * LONG,
    "flickr": "[/EN#1 " * (LONG // 7),
    "flickr types": "[/EN#1/" * (LONG // 7),
    "digits": "#" + "1" * LONG,
    "hashes": "#1" * (LONG // 2),
    "images": ".jpg#1 " * (LONG // 7),
    "image blanks": "a.jpg" + " " * LONG,
    "comments": "<!--" * (LONG // 4),
    "comments of lines": "<!--" * (LONG // 8) + "\n" * (LONG // 8) + "-->",
    "comments ended far": "<!--\n" * (LONG // 5) + "-->",
    "tags": "<a " * (LONG // 3),
    "ampersands": "&" * LONG,
    "entity": "&#" + "9" * LONG,
    "entities": "&#x" * (LONG // 3),
    "marks": "a" + "\u0315\u0300" * (LONG // 4),
    "dashes": " -" * (LONG // 2),
    "long dash": " " + "-" * LONG,
    "blank dashes": (" " * 1000 + "-") * (LONG // 1000),
    "quotes": '"' * LONG,
    "fields": '\t"a"' * (LONG // 4),
    "odd fields": '\t""b' * (LONG // 4),
    "open fields": '\t"' * (LONG // 2),
    "returns": "\r" * LONG,
    "slashes": "/" * LONG,
    "dots": "." * LONG,
    "coco": "000000" * (LONG // 6),
    "persons": "<person" * (LONG // 7),
    "backticks": " - at `$" * (LONG // 8),
    "xml": "<?xml " * (LONG // 6),
    "humps": "aB" * (LONG // 2),
    "underscores": "_" * LONG,
    "ideographs": "\u6f22" * LONG,
    "commas": "a," * (LONG // 2),
}


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Every compiled pattern of the modules that read what strangers wrote."""
    for name in ("sources", "stages", "inspect", "storage"):
        package = importlib.import_module(f"{pipelines.__name__}.{name}")
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for key, value in vars(module).items():
                if isinstance(value, re.Pattern):
                    yield f"{info.name}.{key}", value


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_pattern_takes_the_square_of_a_text(text: str) -> None:
    found = dict(patterns())
    assert len(found) > 10
    for pattern in found.values():
        subject: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
        assert sum(1 for _ in pattern.finditer(subject)) <= len(subject) + 1
        pattern.fullmatch(subject)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_long_caption_is_cleaned_and_cut_in_no_time(text: str) -> None:
    assert len(segments_of(clean_caption(text))) <= len(text)


@pytest.mark.parametrize("name", ["captions.txt", "captions.tsv", "captions.csv", "captions.jsonl", "results.token"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_long_line_of_a_table_is_read_or_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(f"image.jpg#0\ta dog\n{text}\n", newline="")
    try:
        listed = list_captions(tmp_path / name, ImageFolders((tmp_path,)))
    except ValueError as error:
        assert name in str(error)  # noqa: PT017
        return
    assert all(len(one.caption or "") <= 8193 for one in listed)


@pytest.mark.parametrize("text", [TEXTS["flickr"], TEXTS["flickr types"], "[/EN#1 a" * 20_000, "[/EN#" + "1" * LONG])
def test_a_sentence_without_an_end_of_a_phrase_is_named(tmp_path: Path, text: str) -> None:
    for kind, end, content in (("Sentences", "txt", text), ("Annotations", "xml", "<annotation></annotation>")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"1.{end}").write_text(content)
    with pytest.raises(ValueError, match="row 1 has a phrase that is not"):
        Flickr30kEntities(entities=tmp_path, images=(tmp_path,)).read_index()


YAMLS = {
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
    ) + "names: *m\n",
    "alias": "names: &n [a]\ntrain: *n\n",
    "merge": "x: &x {names: [a]}\n<<: *x\n",
    "deep": "names: " + "[" * 100_000,
    "deep mapping": "names: " + "{a: " * 50_000,
    "long": "names: [" + "a," * 600_000 + "]",
    "surrogate": 'names: ["\\uD800"]\n',
    "blank": "names: ['_']\n",
    "number": f"names: {{{'9' * 5000}: a}}\n",
    "unhashable": "names: {[a]: b}\n",
    "nul": "names: [a\0b]\n",
}  # fmt: skip


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_a_hostile_yaml_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"data.yaml.{,2000}$") as error:
        read_data_yaml(path)
    assert len(str(error.value)) < 1000


XMLS = {
    "entities": '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>',
    "external": '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>',
    "deep": "<annotation>" + "<a>" * 300_000,
    "surrogate": "<annotation><object><name>&#xD800;</name></object></annotation>",
    "punycode": "<?xml version='1.0' encoding='punycode'?>" + "a-" * 100_000,
    "escape": "<?xml version='1.0' encoding='unicode_escape'?><annotation/>",
    "utf-7": "<?xml version='1.0' encoding='utf-7'?><annotation/>",
    "rot13": "<?xml version='1.0' encoding='rot13'?><annotation/>",
    "zlib": "<?xml version='1.0' encoding='zlib'?><annotation/>",
    "blank name": "<annotation><object><name> </name></object></annotation>",
}


@pytest.mark.parametrize("text", XMLS.values(), ids=XMLS)
def test_a_hostile_xml_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match="a.xml"):
        read_voc_xml(tmp_path / "a.xml")


def parquet(**columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def rows_of(path: Path) -> pa.Table:
    (block,) = LaionParquet(path=str(path), name="x").blocks(num_rows=1000)
    return pa.concat_tables([Urls(source="x")(table) for table in block.read()])


def test_a_cell_too_long_and_one_that_is_no_text_cost_a_row(tmp_path: Path) -> None:
    url = [f"http://a.test/{i}.jpg" for i in range(3)]
    captions = pa.array([b"a dog", b"x" * 100_000, b"\xff\xfe"]).view(pa.string())
    (tmp_path / "x.parquet").write_bytes(parquet(url=pa.array([*url[:2], "u" * 9000]), caption=captions))
    table = rows_of(tmp_path / "x.parquet")
    assert table["drop_reason"].to_pylist() == [None, "caption_too_large", "url_too_long"]
    (tmp_path / "x.parquet").write_bytes(parquet(url=pa.array(url), caption=captions))
    assert rows_of(tmp_path / "x.parquet")["drop_reason"].to_pylist() == [None, "caption_too_large", "caption_not_text"]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.json", "x.csv.gz", "x.jsonl.gz"])
def test_a_long_cell_of_any_table_costs_a_row(tmp_path: Path, name: str) -> None:
    rows = [("http://a.test/1", "a dog"), ("http://a.test/2", "x" * 100_000), ("http://a.test/3", "a cat")]
    records = [{"url": url, "caption": caption} for url, caption in rows]
    tab = "\t" if ".tsv" in name else ","
    text = "\n".join(tab.join(row) for row in [("url", "caption"), *rows])
    if "json" in name:
        text = "\n".join(map(json.dumps, records)) if "jsonl" in name else json.dumps(records)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (found,) = find_files(str(tmp_path / name), endings=("",))
    table = pa.Table.from_pylist(list(table_rows(found, URL_COLUMNS)))
    assert Urls(source="x")(table)["drop_reason"].to_pylist() == [None, "caption_too_large", None]


BOMBS = r"""
import re, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from pipelines.sources.captions.columns import URL_COLUMNS
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.remote_files import find_files
from pipelines.sources.captions.table_rows import table_rows
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.stages.urls import Urls
kind, path = sys.argv[1], Path(sys.argv[2])
try:
    if path.suffix == ".parquet":
        for block in LaionParquet(path=str(path), name="x").blocks(num_rows=10_000):
            for table in block.read():
                print(Urls(source="x")(table)["drop_reason"].value_counts().to_pylist())
    elif ".tar" in path.name:
        for shard in WebDatasetMirror(path=str(path), name="x").shards():
            print(sum(1 for _ in shard.read()))
    else:
        print(sum(1 for _ in table_rows(find_files(str(path), endings=("",))[0], URL_COLUMNS)))
except ValueError as error:
    print("refused:", error)
most = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
assert most < 2**20, f"{most} KiB"
"""


def write_bomb(kind: str, folder: Path) -> Path:
    path = folder / {"gz": "x.csv.gz", "gz line": "x.tsv.gz", "gz json": "x.json.gz", "tar": "x.tar.gz"}.get(
        kind, "x.parquet"
    )
    if path.suffix == ".gz":
        start = {"gz": b"url,caption\n", "gz line": b"url\tcaption\n", "gz json": b"[", "tar": b""}[kind]
        unit = {"gz": b"a,b\n", "gz line": b"x", "gz json": b" ", "tar": b"\0"}[kind] * 2**20
        with gzip.open(path, "wb", compresslevel=6) as file:
            file.write(start)
            for _ in range(300):
                file.write(unit)
        return path
    url = pa.array([f"http://a.test/{i}" for i in range(1000)])
    options: dict[str, Any] = {"compression": "zstd"}
    if kind == "dictionary":  # one text of 4.5 MB, a thousand times
        options["data_page_size"] = options["dictionary_pagesize_limit"] = 2**30
        caption: pa.Array = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 4_500_000])
    elif kind == "page":  # one page that unpacks to 120 MB
        options |= {"use_dictionary": False, "data_page_size": 2**31 - 1}
        caption = pa.array(["x" * 120_000] * 1000)
    else:  # 1.2 GB in many pages of long texts
        options |= {"use_dictionary": False, "data_page_size": 2**20}
        caption = pa.chunked_array([pa.array(["x" * 1_200_000] * 100)] * 10)
    pq.write_table(
        pa.table({"url": url, "caption": caption}), path, write_batch_size=1000 if kind == "page" else 1, **options
    )
    return path


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("dictionary", "caption_too_large"),
        ("page", "refused: .*a page of column 'caption' unpacks to"),
        ("pages", "caption_too_large"),
        ("gz", "refused: .*unpacks to more than"),
        ("gz line", "refused: .*(unpacks to more than|has more than)"),
        ("gz json", "refused: .*unpacks to more than"),
        ("tar", "refused: .*unpacks to more than"),
    ],
)
def test_a_bomb_takes_less_than_a_gibibyte(tmp_path: Path, kind: str, wanted: str) -> None:
    path = write_bomb(kind, tmp_path)
    assert path.stat().st_size < 4 * 2**20
    command = [sys.executable, "-c", textwrap.dedent(BOMBS), kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(wanted, done.stdout), done.stdout


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_parquet_is_read_or_named(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(parquet(url=pa.array(["http://a.test/1"] * 5), caption=pa.array(list("abcde"))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    try:
        for block in LaionParquet(path=str(path), name="x").blocks(num_rows=10):
            for table in block.read():
                Urls(source="x")(table)
    except ValueError as error:
        assert str(error)  # noqa: PT017


def test_names_of_files_that_are_no_unicode_are_read(tmp_path: Path, noise: Callable[..., bytes]) -> None:
    name = "caf\udce9"  # Latin-1 on a disk that is UTF-8
    (tmp_path / "images").mkdir()
    (tmp_path / f"images/{name}.jpg").write_bytes(noise(1))
    (tmp_path / f"images/{name}.txt").write_text("0 .5 .5 .1 .1")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [a]\n")
    source = own_detection(tmp_path / "data.yaml", images=())
    assert len(source) == 1 and source.config
    (image,) = source.read(0, 1)
    assert image.key.encode()  # type: ignore[union-attr]
