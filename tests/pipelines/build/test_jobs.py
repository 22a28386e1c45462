"""Shards of images with boxes, of which some crash their decoder."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.build.jobs import boxed_jobs, validation_job
from pipelines.fetch.decoder import close_decoder
from pipelines.sources.boxes.coco import Coco
from pipelines.sources.boxes.coco_validation import CocoValidation
from pipelines.storage.tars import read_tar

sys.path.append(str(Path(__file__).parents[1] / "fetch"))  # the decoding process has to find it, too
from crashing_resizer import CRASH, CrashingResizer

CRASHING = (3, 4)


@dataclass(frozen=True, kw_only=True)
class CrashingCoco(Coco):
    way: str

    @property
    def resizer(self) -> CrashingResizer:  # type: ignore[override]
        return CrashingResizer(way=self.way)


@pytest.fixture(autouse=True)
def no_decoder_left():
    yield
    close_decoder()


@pytest.fixture
def coco(tmp_path: Path, make_image: Callable[..., bytes]) -> Callable[[str], CrashingCoco]:
    """Images 1 to 8, image i with i boxes."""

    def write(way: str) -> CrashingCoco:
        (tmp_path / "images").mkdir()
        for i in range(1, 9):
            jpeg = make_image(size=(40, 30 + i))
            content = jpeg[:2] + CRASH + jpeg[2:] if i in CRASHING else jpeg
            (tmp_path / "images" / f"{i}.jpg").write_bytes(content)
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, 9)],
            "annotations": [
                {"image_id": i, "category_id": 1, "bbox": [j, 1, 5, 5]} for i in range(1, 9) for j in range(i)
            ],
            "categories": [{"id": 1, "name": "dog"}],
        }
        (tmp_path / "coco.json").write_text(json.dumps(content))
        return CrashingCoco(annotations=tmp_path / "coco.json", images=(tmp_path / "images",), way=way)

    return write


@pytest.mark.parametrize("way", ["kill", "null pointer", "exit"])
def test_an_image_that_crashes_its_decoder_costs_its_own_boxes(coco, tmp_path, way):
    (job,) = boxed_jobs("detection", coco(way), images_per_shard=100)
    (tmp_path / "shard").mkdir()
    written = job.work(tmp_path / "shard")

    assert (written.rows_in, written.rows_kept, written.dropped) == (36, 29, {"quarantined": 7})
    (tar,) = (tmp_path / "shard").glob("*.tar")
    heights = [json.loads(sample.members["json"])["height"] for sample in read_tar(tar)]
    assert heights == [30 + i for i in range(1, 9) if i not in CRASHING]


def test_validation_loses_no_other_image(coco, tmp_path):
    job = validation_job("validation", CocoValidation(sources=(coco("kill"),)), concepts=())
    (tmp_path / "shard").mkdir()
    written = job.work(tmp_path / "shard")

    assert (written.rows_kept, written.dropped) == (29, {"quarantined": 7})
    assert len(list((tmp_path / "shard" / "images").iterdir())) == 6
