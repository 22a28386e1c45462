"""Which source reads image-text pairs, told by what is in the file or folder."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.build.own_pairs import own_captions, own_pairs
from pipelines.sources.captions.captioned_images import CaptionedImages
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.sources.source import ImagePairSource
from pipelines.storage.tars import TarSample, write_tar


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("own pairs.csv", "url,caption\nhttp://a.test/1.jpg,a dog\n", PairsFile),
        ("own.tsv", "url\tcaption\nhttp://a.test/1.jpg\ta dog\n", PairsFile),
        ("cc3m.tsv", "a dog\thttp://a.test/1.jpg\n", ConceptualCaptions),
        ("cc12m.tsv", "http://a.test/1.jpg\ta dog\n", ConceptualCaptions),
    ],
)
def test_tables_of_pairs(name: str, content: str, source: type, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    found = own_pairs(tmp_path / name)

    assert type(found) is source
    assert found.name == Path(name).stem.replace(" ", "_")
    assert not isinstance(found, ImagePairSource)
    (block,) = found.blocks(num_rows=10)
    assert [table.select(["url", "caption"]).to_pylist() for table in block.read()] == [
        [{"url": "http://a.test/1.jpg", "caption": "a dog"}]
    ]


def test_parquet_and_tars_as_files_and_folders(tmp_path: Path) -> None:
    parts, tars, neither = (tmp_path / name for name in ("my-laion", "my.tars", "neither"))
    for folder in (parts, tars, neither):
        folder.mkdir()
    pq.write_table(pa.table({"URL": ["http://a.test/1.jpg"], "TEXT": ["a dog"]}), parts / "part-0.parquet")
    write_tar(tars / "0.tar", [TarSample(key="0", members={"txt": b"a dog"})])

    assert own_pairs(parts) == LaionParquet(path=str(parts), name="my_laion")
    assert own_pairs(parts / "part-0.parquet") == LaionParquet(path=str(parts / "part-0.parquet"), name="part_0")
    assert own_pairs(tars) == WebDatasetMirror(path=str(tars), name="my")
    assert own_pairs(tars / "0.tar") == WebDatasetMirror(path=str(tars / "0.tar"), name="0")
    with pytest.raises(ValueError, match=r"--urls .*neither: the folder has neither \.parquet nor \.tar files"):
        own_pairs(neither)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("own.csv.gz", "url,caption\nhttp://a.test/1.jpg,a dog\n", PairsFile),
        ("own.jsonl", '{"url": "http://a.test/1.jpg", "text": "a dog"}\n', PairsFile),
        ("own.json", '[{"url": "http://a.test/1.jpg", "text": "a dog"}]', PairsFile),
        ("cc3m.tsv", "a dog\thttp://a.test/1.jpg\r\n", ConceptualCaptions),
        ("cc12m.tsv", "http://a.test/1.jpg\ta dog\r\n", ConceptualCaptions),
        ("cc12m.tsv.gz", "http://a.test/1.jpg\ta dog\r\n", ConceptualCaptions),
    ],
)
def test_marks_and_gzip_change_nothing(name: str, content: str, source: type, mark: str, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-16") if mark else ("utf-8",):
        encoded = (content if encoding == "utf-16" else mark + content).encode(encoding)
        (tmp_path / name).write_bytes(gzip.compress(encoded) if name.endswith(".gz") else encoded)
        found = own_pairs(tmp_path / name)
        assert type(found) is source
        assert not isinstance(found, ImagePairSource)
        (block,) = found.blocks(num_rows=10)
        assert [table.select(["url", "caption"]).to_pylist() for table in block.read()] == [
            [{"url": "http://a.test/1.jpg", "caption": "a dog"}]
        ]


@pytest.mark.parametrize("url", ["{images}/1.jpg", "file://{images}/1.jpg", "1.jpg", "photos/1.jpg", "file:1.jpg"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_whose_urls_are_files_needs_their_folder(url: str, ending: str, tmp_path: Path) -> None:
    images, path = tmp_path / "photos", tmp_path / f"own{ending}"
    images.mkdir()
    (images / "1.jpg").write_bytes(b"one")
    row = {"url": url.format(images=images), "caption": "a dog", "path": "other.jpg"}
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        separator = "," if ending == ".csv" else "\t"
        lines = [separator.join(row), separator.join(row.values())]
        path.write_text(json.dumps(row) if ending == ".jsonl" else "\n".join(lines))
    with pytest.raises(ValueError, match=r"--urls .*own.*: its urls are files, such as '.*1.jpg': name the folder"):
        own_pairs(path)
    found = own_pairs(path, images=(images,))
    assert isinstance(found, CaptionedImages)
    assert [(p.url, p.caption, p.image) for s in found.shards() for p in s.read()] == [
        ("images://own/1.jpg", "a dog", b"one")
    ]


def test_captions_are_looked_at_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("image,caption\n1.jpg,a dog\n")
    with pytest.raises(
        ValueError, match="captions.txt: none of its 1 images is below .*; the first looked for is '1.jpg'"
    ):
        own_captions(tmp_path / "captions.txt", images=())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"one")
    for path in (tmp_path, tmp_path / "captions.txt"):
        for images in ((), (tmp_path / "photos",)):
            (shard,) = own_captions(path, images=images).shards()
            assert [pair.image for pair in shard.read()] == [b"one"]


def test_a_link_to_a_list_finds_the_images_beside_it(tmp_path: Path) -> None:
    for folder in ("store", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "store" / "list.csv").write_text("file,text\n1.jpg,a dog\n")
    (tmp_path / "data" / "captions.csv").symlink_to(tmp_path / "store" / "list.csv")
    (tmp_path / "data" / "1.jpg").write_bytes(b"one")
    (shard,) = own_captions(tmp_path / "data" / "captions.csv", images=()).shards()
    assert [(pair.url, pair.image) for pair in shard.read()] == [("images://captions/1.jpg", b"one")]


@pytest.mark.parametrize("name", ["own.xml", "own.txt", "own"])
def test_other_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("http://a.test/1.jpg a dog")
    with pytest.raises(
        ValueError, match=rf"--urls .*{name} is neither \.csv, \.tsv, \.jsonl, \.json, \.parquet nor \.tar"
    ):
        own_pairs(tmp_path / name)
