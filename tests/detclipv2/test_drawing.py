import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from detclipv2.drawing import HIGHLIGHTED, ORDINARY, draw_detections


def _coloured(image: Image.Image, colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    pixels: npt.NDArray[np.bool_] = (np.asarray(image) == colour).all(axis=-1)
    return pixels


def test_small_images_are_enlarged_and_the_original_is_left_alone() -> None:
    image = Image.new("RGB", (128, 64), "white")
    drawn = draw_detections(image, [(10, 10, 50, 50)], ["dog"], [0.9])

    assert (drawn.mode, drawn.size) == ("RGB", (480, 240))
    assert image.size == (128, 64)
    assert _coloured(image, (255, 255, 255)).all()
    assert draw_detections(Image.new("L", (900, 600)), [], [], []).size == (900, 600)


def test_box_edges_lie_where_the_box_is() -> None:
    drawn = _coloured(
        draw_detections(Image.new("RGB", (240, 240), "white"), [(40, 60, 200, 220)], ["x"], [0.5]), ORDINARY
    )

    below_the_label = drawn[300:]  # enlarged twice: the box is 80, 120, 400, 440
    assert below_the_label[:100, 80:82].all()
    assert below_the_label[:100, 398:400].all()
    assert not below_the_label[:100, 90:390].any()
    assert drawn[438:440, 80:400].all()
    assert not drawn[445:].any()


def test_highlighted_labels_have_their_own_colour_and_a_marker() -> None:
    boxes = [(20, 100, 180, 220), (260, 100, 420, 220)]
    drawn = draw_detections(Image.new("RGB", (480, 240)), boxes, ["yak", "dog"], [0.9, 0.8], highlight={"yak"})

    assert _coloured(drawn, HIGHLIGHTED)[:, :240].any()
    assert not _coloured(drawn, HIGHLIGHTED)[:, 240:].any()
    assert _coloured(drawn, ORDINARY)[:, 240:].any()
    assert not _coloured(drawn, ORDINARY)[:, :240].any()
    plain = draw_detections(Image.new("RGB", (480, 240)), boxes[:1], ["yak"], [0.9])
    white = (255, 255, 255)
    assert _coloured(drawn, white)[:, :240].sum() > _coloured(plain, white).sum()


def test_labels_of_equal_boxes_do_not_hide_each_other() -> None:
    blank, box = Image.new("RGB", (480, 480)), (100, 100, 300, 300)
    one = draw_detections(blank, [box], ["yak"], [0.9])
    two = draw_detections(blank, [box, box], ["yak", "yak"], [0.9, 0.9])
    assert _coloured(two, (255, 255, 255)).sum() == 2 * _coloured(one, (255, 255, 255)).sum()


def test_a_label_near_the_edge_stays_inside() -> None:
    blank = Image.new("RGB", (480, 480))
    inside = draw_detections(blank, [(100, 100, 300, 300)], ["a yak"], [0.9])
    corner = draw_detections(blank, [(440, 0, 480, 480)], ["a yak"], [0.9])
    num_white = [int(_coloured(drawn, (255, 255, 255)).sum()) for drawn in (inside, corner)]
    assert num_white[0] > 0
    assert num_white[1] == pytest.approx(num_white[0], rel=0.1)  # the text is anti-aliased against another pixel grid


def test_numbers_of_boxes_labels_and_scores_must_agree() -> None:
    with pytest.raises(ValueError, match="1 boxes, 2 labels and 1 scores"):
        draw_detections(Image.new("RGB", (9, 9)), [(0, 0, 5, 5)], ["a", "b"], [0.1])
