"""Every kind of damage is found and named."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.inspect.built_dataset import BuiltDataset, open_dataset
from pipelines.inspect.verify import check_dataset, empty_parts
from pipelines.storage import sha256_file
from tests.pipelines.inspect.conftest import jpeg

CONSOLE = Console(file=io.StringIO())


def check(dataset: BuiltDataset) -> dict[str, list[str]]:
    return check_dataset(dataset, num_workers=2, console=CONSOLE)


def shard_of(dataset: BuiltDataset) -> Path:
    return dataset.root / dataset.manifest.supervisions["detection"].shards[0].path


def annotation(**changes: object) -> bytes:
    usual = {"supervision": "detection", "width": 40, "height": 30, "concepts": ["square"]}
    return json.dumps({**usual, "boxes_xyxy": [[0, 0, 10, 10]], "labels": [0], "caption": None, **changes}).encode()


def rewrite(dataset: BuiltDataset, members: list[tuple[str, bytes]]) -> BuiltDataset:
    """Another tar in the place of the first detection shard, with a manifest that knows its bytes."""
    path = shard_of(dataset)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    manifest = json.loads((dataset.folder / "MANIFEST.json").read_text())
    entry = manifest["supervisions"]["detection"]["shards"][0]
    entry |= {"sha256": sha256_file(path), "num_bytes": path.stat().st_size, "num_rows": len(members) // 2}
    (dataset.folder / "MANIFEST.json").write_text(json.dumps(manifest))
    return open_dataset(dataset.folder)


def test_a_whole_dataset(dataset: BuiltDataset) -> None:
    assert check(dataset) == {}


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("a.jpg", jpeg("red")), ("a.txt", b"")], "sample a: has ['jpg', 'txt'], wanted ['jpg', 'json']"),
        (
            [("a.jpg", b"no image"), ("a.json", annotation())],
            "sample a: the image cannot be decoded: no image of a known format",
        ),
        ([("a.jpg", jpeg("red")[:-100]), ("a.json", annotation())], "sample a: the image cannot be decoded: "),
        (
            [("a.jpg", jpeg("red", (41, 30))), ("a.json", annotation())],
            "sample a: the image is 41x30, its annotation 40x30",
        ),
        (
            [("a.jpg", jpeg("red")), ("a.json", annotation(boxes_xyxy=[[0, 0, 41, 10]]))],
            "sample a: annotation: Value error, box (0.0, 0.0, 41.0, 10.0) is empty or outside the 40x30 image",
        ),
        (
            [("a.jpg", jpeg("red")), ("a.json", annotation(labels=[1]))],
            "sample a: annotation: Value error, a label is not an index into concepts",
        ),
        (
            [("a.jpg", jpeg("red")), ("a.json", annotation(width="wide"))],
            "sample a: width: Input should be a valid int",
        ),
        (
            [("a.jpg", jpeg("red")), ("a.json", annotation(supervision="grounding"))],
            "sample a: is of type grounding, its shard of detection",
        ),
        (
            [
                (f"{key}.{end}", content)
                for key in "ba"
                for end, content in (("jpg", jpeg("red")), ("json", annotation()))
            ],
            "sample a after b: keys are not unique and ascending",
        ),
        (
            [
                (f"{key}.{end}", content)
                for key in "aba"
                for end, content in (("jpg", jpeg("red")), ("json", annotation()))
            ],
            "sample a after b: keys are not unique and ascending",
        ),
    ],
)
def test_what_is_wrong_with_a_sample(dataset: BuiltDataset, members: list[tuple[str, bytes]], problem: str) -> None:
    ((path, problems),) = check(rewrite(dataset, members)).items()

    assert path == dataset.manifest.supervisions["detection"].shards[0].path
    assert problems[0].startswith(problem)
    assert problems[-1] == "its index does not tell what lies where"
    assert len(problems) == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1  # within the first image
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, "is missing"),
        (flip, "has another sha256 than the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:1024]), "has 1024 bytes, not 10240"),
        (lambda path: path.with_suffix(".index.parquet").unlink(), "its index is missing"),
        (lambda path: path.with_suffix(".index.parquet").write_bytes(b"x"), "its index has 1 bytes, not "),
    ],
)
def test_damaged_bytes(dataset: BuiltDataset, damage: Callable[[Path], None], problem: str) -> None:
    damage(shard_of(dataset))
    (problems,) = check(dataset).values()

    assert problems[0].startswith(problem)


def test_a_tar_that_is_cut_off_names_itself_not_this_machine(dataset: BuiltDataset) -> None:
    path = shard_of(dataset)
    path.write_bytes(path.read_bytes()[:1536])
    (problems,) = check(dataset).values()

    assert "the tar is cut off at 1536 bytes; build the dataset again" in problems[1]


def test_a_wrong_count_and_a_wrong_index(dataset: BuiltDataset) -> None:
    split = dataset.manifest.supervisions["detection"]
    index = dataset.root / split.indexes[0].path
    table = pq.read_table(index)
    pq.write_table(table.set_column(1, table.schema.field("offset"), [[0, 0]]), index)
    entries = [
        split.indexes[0].model_copy(update={"sha256": sha256_file(index), "num_bytes": index.stat().st_size}),
        *split.indexes[1:],
    ]
    shards = [split.shards[0].model_copy(update={"num_rows": 5}), *split.shards[1:]]
    changed = split.model_copy(update={"indexes": entries, "shards": shards})
    manifest = dataset.manifest.model_copy(update={"supervisions": {"detection": changed}})
    (problems,) = check(BuiltDataset(root=dataset.root, folder=dataset.folder, manifest=manifest)).values()

    assert problems == ["2 samples, the manifest says 5", "its index does not tell what lies where"]


def test_a_dataset_from_before_there_was_an_index(dataset: BuiltDataset) -> None:
    split = dataset.manifest.supervisions["detection"].model_copy(update={"indexes": []})
    manifest = dataset.manifest.model_copy(update={"supervisions": {"detection": split}})
    found = check(BuiltDataset(root=dataset.root, folder=dataset.folder, manifest=manifest))

    assert list(found.values()) == [["has no index: it was built by an older version"]] * 2


@pytest.mark.parametrize(
    ("name", "problem"),
    [("images/1.jpg", "images/1.jpg is missing"), ("MANIFEST.json", "is missing")],
)
def test_the_validation_set_is_checked(dataset: BuiltDataset, name: str, problem: str) -> None:
    folder = (dataset.root / dataset.manifest.validation_annotations.path).parent
    (folder / name).unlink()

    assert check(dataset) == {folder.relative_to(dataset.root).as_posix(): [problem]}


def test_a_part_without_a_box_is_named(dataset: BuiltDataset) -> None:
    assert empty_parts(dataset) == []
    funnel = [dict(row) for row in dataset.manifest.funnel]
    next(row for row in funnel if row["stage"] == "detection_shards").update(
        rows_in=12, rows_kept=0, dropped={"image_missing": 12}
    )
    annotations = dataset.root / dataset.manifest.validation_annotations.path
    annotations.write_text('{"images": [{"id": 1}], "annotations": []}')
    empty = BuiltDataset(
        root=dataset.root, folder=dataset.folder, manifest=dataset.manifest.model_copy(update={"funnel": funnel})
    )
    assert empty_parts(empty) == [
        "detection has no box: none of 12 could be used (image_missing 12)",
        "validation has no box",
    ]
