"""Which source reads image-text pairs, told by what is in the file or folder."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.build.own_pairs import own_pairs
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.laion_parquet import LaionParquet
from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
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
    assert not isinstance(found, WebDatasetMirror)
    (block,) = found.blocks(num_rows=10)
    assert [table.to_pylist() for table in block.read()] == [[{"url": "http://a.test/1.jpg", "caption": "a dog"}]]


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
