from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detclipv2.evaluation.detection_rows import check_boxes, detection_rows

ROW: dict[str, Any] = {"image_id": 3, "category_id": 7, "bbox": [1, 2.5, 3, 4], "score": 0.5}


def test_rows_of_any_numbers() -> None:
    whole = {**ROW, "bbox": (1, 2, 3, 4), "score": 1}
    of_numpy = {**ROW, "bbox": np.array([1, 2.5, 3, 4], np.float32), "score": np.float32(0.5), "image_id": np.int64(3)}
    wanted = [3, 1, 2.5, 3, 4, 0.5, 7]
    assert detection_rows([ROW, of_numpy]).tolist() == [wanted, wanted]
    assert detection_rows([whole]).tolist() == [[3, 1, 2, 3, 4, 1, 7]]
    assert detection_rows([]).shape == (0, 7)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *(
            (
                {name: value for name, value in ROW.items() if name != missing},
                f"detection 1 has no '{missing}'; a row has",
            )
            for missing in ROW
        ),
        ({**ROW, "score": "0.9"}, r"detection 1 has the score '0.9' \(text\), which is no number"),
        ({**ROW, "score": None}, r"has the score None \(NoneType\)"),
        ({**ROW, "score": [0.9]}, r"has the score \[0.9\] \(list\)"),
        ({**ROW, "image_id": "3"}, r"has the image_id '3' \(text\)"),
        ({**ROW, "category_id": "dog"}, r"has the category_id 'dog' \(text\)"),
        ({**ROW, "bbox": [1, 2, 3]}, r"has the bbox \[1, 2, 3\] \(list\), which is not four numbers"),
        ({**ROW, "bbox": [1, 2, 3, 4, 5]}, "which is not four numbers"),
        ({**ROW, "bbox": [1, 2, 3, "4"]}, "which is not four numbers"),
        ({**ROW, "bbox": {"x": 1, "y": 2, "w": 3, "h": 4}}, "which is not four numbers"),
        ({**ROW, "bbox": "1234"}, "which is not four numbers"),
        ({**ROW, "bbox": None}, "which is not four numbers"),
        ({**ROW, "score": Decimal("0.5")}, "which is no number"),
        (list(ROW), "detection 1 is no row but"),
        ("image_id", "detection 1 is no row but 'image_id'"),
        ({**ROW, "score": float("inf")}, "detection 1 has a box or score that is not finite"),
    ],
)
def test_the_row_and_the_field_are_named(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        detection_rows([ROW, row])
    assert "\n" not in str(caught.value)


def test_all_rows_are_wrong_alike() -> None:
    """Seven rows of five numbers and the rest have as many numbers as eight right ones."""
    with pytest.raises(ValueError, match="detection 0 has the bbox .* not four numbers"):
        detection_rows([{**ROW, "bbox": [1, 2, 3, 4, 5]}] * 7)
    with pytest.raises(ValueError, match="detection 0 is no row"):
        detection_rows({"annotations": [ROW]})  # type: ignore[arg-type]


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats(), max_size=5))


@given(st.lists(st.dictionaries(st.sampled_from([*ROW, "area"]), values), max_size=4))
def test_any_rows_give_numbers_or_one_error(rows: list[dict[str, Any]]) -> None:
    try:
        shape = detection_rows(rows).shape
    except ValueError as error:
        shape = (len(rows), 7)
        message = str(error)
        assert "detection" in message
    assert shape == (len(rows), 7)


def test_images_of_unknown_size_are_not_judged() -> None:
    rows = detection_rows([{**ROW, "bbox": [60, 60, 80, 90]}])
    check_boxes(rows, {3: (0, 0)})
    check_boxes(rows, {})
    check_boxes(detection_rows([]), {3: (100, 100)})
    with pytest.raises(ValueError, match="1 of 1 boxes end outside"):
        check_boxes(rows, {3: (100, 100)})
