"""Detections as rows of the LVIS results format, checked: fields, numbers, and boxes as x, y, width, height.

Shapes: D = detections.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Columns of the rows [D, 7] that hotcoco takes: image_id, x, y, width, height, score, category_id.
IMAGE, BOX, SCORE, CATEGORY = 0, slice(1, 5), 5, 6
_NUMBERS = ("image_id", "category_id", "score")
_FORMAT = "a row has image_id, category_id, bbox (x, y, width, height) and score"
_OUTSIDE_PX = 2.0  # beyond an image's edge by more is not rounding


def detection_rows(detections: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """Detections as hotcoco's rows, [D, 7].

    Raises:
        ValueError: one lacks a field, or has something else than finite numbers in it; the message names it and the field.
    """
    if not len(detections):
        return np.zeros((0, 7))
    try:
        columns = {name: np.array([row[name] for row in detections]) for name in _NUMBERS}
        boxes = np.array([row["bbox"] for row in detections])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _first_fault(detections) from error
    shapes = [column.shape for column in columns.values()] + [boxes.shape[:1]]
    kinds = {column.dtype.kind for column in [*columns.values(), boxes]}
    if boxes.shape[1:] != (4,) or any(shape != (len(detections),) for shape in shapes) or not kinds <= set("iuf"):
        raise _first_fault(detections)  # numbers as texts would pass for numbers below
    rows = np.column_stack([columns["image_id"], boxes, columns["score"], columns["category_id"]]).astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise ValueError(f"detection {bad[0]} has a box or score that is not finite: {dict(detections[bad[0]])}")
    return rows


def check_boxes(rows: npt.NDArray[np.float64], sizes: Mapping[int, tuple[int, int]]) -> None:
    """Refuse boxes that are not x, y, width, height: those with a negative side, and what are two corners beyond doubt.

    Args:
        rows: of `detection_rows`.
        sizes: (width, height) of the images in pixels by id; 0 where it is not known.

    Raises:
        ValueError: a side is negative, or most boxes would end outside their images while all are inside as two corners.
    """
    negative = np.flatnonzero((rows[:, BOX][:, 2:] < 0).any(axis=1))
    if negative.size:
        raise ValueError(
            f"detection {negative[0]} has the box {rows[negative[0], BOX].tolist()} with a negative side: bbox is x, y, width,"
            " height, not two corners"
        )
    known = {image: size for image, size in sizes.items() if all(size)}
    is_known = np.isin(rows[:, IMAGE], list(known))
    if not is_known.any():
        return
    ids, position = np.unique(rows[is_known, IMAGE], return_inverse=True)
    image_width, image_height = np.array([known[int(image)] for image in ids]).T[:, position]
    x, y, width, height = rows[is_known, BOX].T
    limit = image_width + _OUTSIDE_PX, image_height + _OUTSIDE_PX
    ends_outside = (x + width > limit[0]) | (y + height > limit[1])
    are_corners = (width > x) & (height > y) & (width <= limit[0]) & (height <= limit[1])
    if ends_outside.mean() > 0.5 and are_corners.all():
        raise ValueError(
            f"{int(ends_outside.sum())} of {len(x)} boxes end outside their images, and all are inside as two corners: bbox is"
            " x, y, width, height, so give x1, y1, x2 - x1, y2 - y1 (boxes that are right may be clipped to their images)"
        )


def _first_fault(detections: Sequence[Any]) -> ValueError:
    """What is wrong with the first row that has a fault."""
    for number, row in enumerate(detections):
        fault = _fault(row)
        if fault:
            return ValueError(f"detection {number} {fault}; {_FORMAT}")
    return ValueError(f"the detections cannot be read as numbers; {_FORMAT}")


def _fault(row: Any) -> str:
    if not isinstance(row, Mapping):
        return f"is no row but {_shown(row)}"
    for name in (*_NUMBERS, "bbox"):
        if name not in row:
            return f"has no {name!r}"
        if name != "bbox" and not _is_number(row[name]):
            return f"has the {name} {_shown(row[name])}, which is no number"
    box = row["bbox"]
    if isinstance(box, str | Mapping) or not hasattr(box, "__len__") or len(box) != 4 or not all(map(_is_number, box)):
        return f"has the bbox {_shown(box)}, which is not four numbers"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return f"{str(value)[:60]!r} (text)" if isinstance(value, str) else f"{str(value)[:60]} ({type(value).__name__})"
