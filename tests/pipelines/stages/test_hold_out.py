"""Evaluation images leave a table by name, by bytes and by look."""

from pipelines.sources.held_out_images import HeldOutImages
from pipelines.stages.hold_out import HoldOut
from schemas.tables import IMAGES, with_drop_reason

HELD_OUT = HeldOutImages(
    coco_ids=frozenset({139}), sha256=frozenset({"a" * 64}), phashes=frozenset({"ff00ff00ff00ff00"})
)


def test_a_held_out_image_is_dropped_by_any_sign(images, golden):
    rows = [
        {},
        {"url": "http://images.cocodataset.org/val2017/000000000139.jpg?x=1"},
        {"url": "http://images.cocodataset.org/val2017/000000000140.jpg"},
        {"sha256": "a" * 64},
        {"phash": "ff00ff00ff00ff00"},
        {"phash": "ff00ff00ff00ff03"},
        {"phash": "ff00ff00ff00ff07"},
        {"sha256": None, "phash": None},
    ]
    table = images(rows)
    result = HoldOut(images=HELD_OUT)(table)

    assert result.schema == with_drop_reason(IMAGES)
    assert result.drop(["drop_reason"]) == table
    reasons = result["drop_reason"].to_pylist()
    assert reasons == [None, "held_out", None, "held_out", "held_out", "held_out", None, None]
    golden(
        HoldOut(images=HELD_OUT),
        [{"key": k, "drop_reason": r} for k, r in zip(table["key"].to_pylist(), reasons, strict=True)],
    )


def test_without_images_or_rows_nothing_is_dropped(images):
    assert HoldOut(images=HeldOutImages())(images([{}, {}]))["drop_reason"].null_count == 2
    assert HoldOut(images=HELD_OUT)(images([])).num_rows == 0


def test_the_config_follows_what_is_held_out():
    assert HoldOut(images=HELD_OUT).config == HELD_OUT.config != HoldOut(images=HeldOutImages()).config
