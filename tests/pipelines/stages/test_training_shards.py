import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.stages.training_shards import write_image_text_shard, write_shard
from pipelines.storage.tars import TarSample, read_tar, write_tar
from schemas.shard_index import SHARD_INDEX
from schemas.source_images import BoxedImage
from schemas.tables import PHRASES
from schemas.training import TrainingSample


@pytest.fixture
def phrases(images):
    """Rows of keys 3, 1 (in this order), with phrases."""
    table = images([{"key": "key3"}, {"key": "key1", "caption": "two owls", "width": 20, "height": 10}])
    columns = {
        "phrases": [["red apple"], ["two owls", "owl"]],
        "phrase_starts": [[2], [0, 4]],
        "phrase_ends": [[11], [8, 7]],
    }
    for name, column in columns.items():
        table = table.append_column(PHRASES.field(name), pa.array(column, PHRASES.field(name).type))
    return table


@pytest.fixture
def images_tar(tmp_path):
    samples = [TarSample(key=f"key{i}", members={"jpg": f"picture {i}".encode()}) for i in range(5)]
    write_tar(tmp_path / "images.tar", samples)
    return tmp_path / "images.tar"


def test_an_image_text_shard(tmp_path, phrases, images_tar):
    entry = write_image_text_shard(tmp_path / "a.tar", phrases, images_tar=images_tar)
    assert entry.num_rows == 2
    assert entry.sha256 == "efb367576871e3dfeb6a67d40a8be28cdf903a1e80661fc6f7382886d0dcb1ea"
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["key1.jpg", "key1.json", "key3.jpg", "key3.json"]
        assert tar.extractfile("key1.jpg").read() == b"picture 1"
        sample = TrainingSample.model_validate_json(tar.extractfile("key1.json").read())
    assert sample == TrainingSample(
        supervision="image_text", width=20, height=10, concepts=["two owls", "owl"], caption="two owls"
    )


def test_the_order_of_rows_does_not_matter(tmp_path, phrases, images_tar):
    one = write_image_text_shard(tmp_path / "a.tar", phrases, images_tar=images_tar)
    other = write_image_text_shard(tmp_path / "b.tar", phrases.take(pa.array([1, 0])), images_tar=images_tar)
    assert one.sha256 == other.sha256


def test_captions_of_one_image_are_one_sample(tmp_path, images, images_tar):
    """Its first key names it, whatever the order of rows; other bytes, or another URL, are another image."""
    cat = {"url": "http://a.test/cat", "sha256": "s"}
    rows = [
        {"key": "key3", "caption": "a tabby"} | cat,
        {"key": "key0", "caption": "a dog", "sha256": "s"},
        {"key": "key1", "caption": "a cat"} | cat,
        {"key": "key2", "caption": "a page", "url": cat["url"]},
        {"key": "key4", "caption": "a kitten"} | cat,
    ]
    table = images(rows)
    texts = [[row["caption"][2:]] for row in rows]
    for name, column in zip(PHRASES.names[-3:], (texts, [[2]] * 5, [[9]] * 5), strict=True):
        table = table.append_column(PHRASES.field(name), pa.array(column, PHRASES.field(name).type))

    assert write_image_text_shard(tmp_path / "a.tar", table, images_tar=images_tar).num_rows == 3
    samples = {sample.key: sample.members for sample in read_tar(tmp_path / "a.tar")}
    assert {key: members["jpg"] for key, members in samples.items()} == {
        f"key{i}": f"picture {i}".encode() for i in range(3)
    }
    found = {key: TrainingSample.model_validate_json(members["json"]) for key, members in samples.items()}
    assert [found[f"key{i}"].caption for i in range(3)] == ["a dog", "a cat", "a page"]
    assert [len(found[f"key{i}"].other_captions) for i in (0, 2)] == [0, 0]
    assert found["key1"].concepts == ["cat"]
    others = [(other.caption, other.concepts) for other in found["key1"].other_captions]
    assert others == [("a tabby", ["tabby"]), ("a kitten", ["kitten"])]
    assert pq.read_table(tmp_path / "a.index.parquet")["num_concepts"].to_pylist() == [1, 3, 1]


def test_rows_without_a_hash_are_images_of_their_own(tmp_path, phrases, images_tar):
    for name in ("url", "sha256"):
        position = phrases.schema.get_field_index(name)
        column = pa.array(["u", "u"] if name == "url" else [None, None], pa.string())
        phrases = phrases.set_column(position, PHRASES.field(name), column)
    assert write_image_text_shard(tmp_path / "a.tar", phrases, images_tar=images_tar).num_rows == 2


@pytest.mark.parametrize("key", ["key", "key2b", "key9"])
def test_a_row_without_an_image(tmp_path, phrases, images_tar, key):
    phrases = phrases.set_column(0, PHRASES.field("key"), [[key, "key1"]])
    with pytest.raises(ValueError, match=f"images.tar has no image for key {key}: it is not the tar of this table"):
        write_image_text_shard(tmp_path / "a.tar", phrases, images_tar=images_tar)
    assert not (tmp_path / "a.tar").exists()


def test_no_rows(tmp_path, phrases, images_tar):
    assert write_image_text_shard(tmp_path / "a.tar", phrases.slice(0, 0), images_tar=images_tar).num_rows == 0
    assert list(read_tar(tmp_path / "a.tar")) == []


def test_a_boxed_shard(tmp_path):
    sample = TrainingSample(
        supervision="detection", width=8, height=6, concepts=["owl"], boxes_xyxy=[(0, 0, 4.5, 6)], labels=[0]
    )
    image = BoxedImage(key="owl-0", jpeg=b"picture", sample=sample, dropped_boxes={})
    assert write_shard(tmp_path / "a.tar", iter([image])).num_rows == 1
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert TrainingSample.model_validate_json(tar.extractfile("owl-0.json").read()) == sample


def test_the_index_tells_what_lies_where(tmp_path, phrases, images_tar):
    write_image_text_shard(tmp_path / "a.tar", phrases, images_tar=images_tar)
    index = pq.read_table(tmp_path / "a.index.parquet")
    assert index.schema == SHARD_INDEX
    assert index.to_pylist() == [
        {"key": "key1", "offset": 0, "num_bytes": 2048, "num_boxes": 0, "num_concepts": 2, "width": 20, "height": 10},
        {
            "key": "key3",
            "offset": 2048,
            "num_bytes": 2048,
            "num_boxes": 0,
            "num_concepts": 1,
            "width": 320,
            "height": 320,
        },
    ]
    (sample,) = read_tar(tmp_path / "a.tar", offset=2048)
    assert sample.key == "key3"


def test_the_index_of_a_boxed_shard_counts_boxes_and_has_the_same_bytes_each_time(tmp_path):
    sample = TrainingSample(
        supervision="detection",
        width=8,
        height=6,
        concepts=["owl", "cat", "dog"],
        boxes_xyxy=[(0, 0, 4.5, 6), (1, 1, 2, 2)],
        labels=[0, 1],
    )
    images = [BoxedImage(key=f"owl-{i}", jpeg=b"picture", sample=sample, dropped_boxes={}) for i in range(2)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "a.tar", images)
    index = pq.read_table(tmp_path / "one" / "a.index.parquet")
    assert index.select(["num_boxes", "num_concepts"]).to_pydict() == {"num_boxes": [2, 2], "num_concepts": [3, 3]}
    assert (tmp_path / "one" / "a.index.parquet").read_bytes() == (tmp_path / "two" / "a.index.parquet").read_bytes()


def test_an_empty_shard_has_an_empty_index(tmp_path, phrases, images_tar):
    write_image_text_shard(tmp_path / "a.tar", phrases.slice(0, 0), images_tar=images_tar)
    assert pq.read_table(tmp_path / "a.index.parquet") == SHARD_INDEX.empty_table()
