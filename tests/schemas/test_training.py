from typing import Any

import pytest
from pydantic import ValidationError

from schemas.training import TrainingSample

DETECTION: dict[str, Any] = {
    "supervision": "detection",
    "width": 100,
    "height": 50,
    "concepts": ["apple"],
    "boxes_xyxy": [(0, 0, 100, 50)],
    "labels": [0],
}


def test_a_box_may_fill_the_image() -> None:
    assert TrainingSample(**DETECTION).boxes_xyxy == [(0, 0, 100, 50)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, "1 boxes but 0 labels"),
        ({"labels": [1]}, "not an index into concepts"),
        ({"boxes_xyxy": [(0, 0, 101, 50)]}, "outside the 100x50 image"),
        ({"boxes_xyxy": [(5, 5, 5, 9)]}, "is empty or outside"),
        ({"supervision": "image_text", "caption": "an apple"}, "a caption and no boxes"),
        ({"supervision": "image_text", "boxes_xyxy": [], "labels": []}, "a caption and no boxes"),
        ({"other_captions": [{"caption": "a", "concepts": []}]}, "other captions are for image-text samples alone"),
        ({"supervision": "video"}, "supervision"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_inconsistent_samples_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingSample(**DETECTION | changes)


def test_without_other_captions_the_json_is_that_of_version_1() -> None:
    pair = {"supervision": "image_text", "width": 20, "height": 10, "concepts": ["owl"], "caption": "an owl"}
    version_1 = (
        '{"supervision":"image_text","width":20,"height":10,"concepts":["owl"],"boxes_xyxy":[],"labels":[],'
        '"caption":"an owl"}'
    )
    assert TrainingSample(**pair).model_dump_json() == version_1
    assert TrainingSample.model_validate_json(version_1) == TrainingSample(**pair)
    two = TrainingSample(**pair, other_captions=[{"caption": "a bird", "concepts": ["bird"]}])
    assert two.model_dump_json() == f'{version_1[:-1]},"other_captions":[{{"caption":"a bird","concepts":["bird"]}}]}}'
    assert TrainingSample.model_validate_json(two.model_dump_json()) == two
