"""A dataset of a few images, written by hand: what a build would refuse, or would not make, can be in it."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pipelines.stages.training_shards import write_shard
from pipelines.storage import sha256_file
from schemas.manifest import DatasetManifest, FileEntry, SupervisionSplit
from schemas.shard_index import index_name
from schemas.source_images import BoxedImage
from schemas.training import Supervision, TrainingSample

SIDE = 64
BOX = (8.0, 8.0, 40.0, 40.0)


def jpeg(number: int) -> bytes:
    """An image of one colour, another for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (40 * number % 256, 90, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def sample(supervision: Supervision, concepts: Sequence[str], *, boxes: int = 0) -> TrainingSample:
    """An image with some texts, of which the first has all boxes."""
    return TrainingSample(
        supervision=supervision,
        width=SIDE,
        height=SIDE,
        concepts=list(concepts),
        boxes_xyxy=[BOX] * boxes,
        labels=[0] * boxes,
        caption=f"a photo of {' and '.join(concepts)}" if supervision == "image_text" else None,
    )


def write_dataset(
    root: Path,
    samples: Sequence[TrainingSample],
    *,
    validation_boxes: int | None = None,
    funnel: Sequence[dict[str, object]] = (),
) -> Path:
    """The manifest of a dataset with one shard of each type; with a validation set of one image where boxes are given."""
    splits: dict[str, SupervisionSplit] = {}
    for kind in ("detection", "grounding", "image_text"):
        mine = [one for one in samples if one.supervision == kind]
        if mine:
            images = [
                BoxedImage(key=f"{kind}{number:03}", jpeg=jpeg(number), sample=one, dropped_boxes={})
                for number, one in enumerate(mine)
            ]
            path = root / "shards" / f"{kind}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_shard(path, images)
            splits[kind] = SupervisionSplit(
                num_samples=len(mine),
                shards=[_entry(path, root, len(mine))],
                indexes=[_entry(path.with_name(index_name(path.name)), root, len(mine))],
                vocabulary=sorted({concept for one in mine for concept in one.concepts}),
            )
    boxed = {one.concepts[label] for one in samples for label in one.labels}
    annotations = None if validation_boxes is None else _validation(root, validation_boxes)
    manifest = DatasetManifest(
        name="small",
        supervisions=splits,
        boxed_concepts=sorted(boxed),
        validation_annotations=annotations,
        validation_images=None if annotations is None else "validation/images",
        funnel=list(funnel),
    )
    path = root / "datasets" / "small" / "MANIFEST.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(manifest.model_dump_json())
    return path


def _entry(path: Path, root: Path, num_rows: int) -> FileEntry:
    return FileEntry(
        path=path.relative_to(root).as_posix(),
        sha256=sha256_file(path),
        num_bytes=path.stat().st_size,
        num_rows=num_rows,
    )


def _validation(root: Path, num_boxes: int) -> FileEntry:
    folder = root / "validation"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "1.jpg").write_bytes(jpeg(1))
    image = {"id": 1, "file_name": "1.jpg", "width": SIDE, "height": SIDE}
    box = {"image_id": 1, "category_id": 1, "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
    ground_truth = {
        "info": {},
        "images": [image | {"neg_category_ids": [2], "not_exhaustive_category_ids": []}],
        "categories": [
            {"id": number, "name": name, "frequency": "f", "synonyms": [name]}
            for number, name in enumerate(("apple", "guitar"), start=1)
        ],
        "annotations": [box | {"id": number + 1} for number in range(num_boxes)],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(ground_truth))
    return _entry(path, root, 1)
