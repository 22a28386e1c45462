"""LVIS evaluation, matched and accumulated by hotcoco, which reproduces lvis-api.

Shapes: T = 10 IoU thresholds (0.50 to 0.95), R = 101 recall thresholds, C = categories, D = detections.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt

from detclipv2.evaluation.detection_rows import CATEGORY, IMAGE, SCORE, check_boxes, detection_rows

MAX_PER_IMAGE = 300
MAX_PER_CATEGORY = 10_000
IOU_50, IOU_75 = 0, 5  # positions on the axis of the IoU thresholds
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")  # what LVIS says of an image and COCO does not


@dataclass(frozen=True, kw_only=True)
class LvisMetrics:
    """Average precision, in [0, 1]; None where no category of the group has a box in the validation set, or the group is unknown.

    ``lvis_*_300`` is the LVIS metric on the 300 best detections of each image. ``fixed_*_10000`` is Fixed AP
    (arXiv:2102.01066): the 10,000 best detections of each category over the dataset, with no cap per image. ``apr``,
    ``apc`` and ``apf`` are over the rare, common and frequent categories. ``base_ap50`` and ``novel_ap50`` are means of the
    per-category AP50 of Fixed AP, in which one category's detections cannot crowd out another's: a category is base where
    training has a box of it and novel where it has none.
    """

    lvis_ap_300: float | None
    lvis_ap50_300: float | None
    lvis_ap75_300: float | None
    lvis_apr_300: float | None
    lvis_apc_300: float | None
    lvis_apf_300: float | None
    fixed_ap_10000: float | None
    fixed_ap50_10000: float | None
    fixed_ap75_10000: float | None
    fixed_apr_10000: float | None
    fixed_apc_10000: float | None
    fixed_apf_10000: float | None
    base_ap50: float | None
    novel_ap50: float | None
    ap50_by_category: Mapping[str, float]  # Fixed AP's AP50 of every category that has a box in the validation set
    novel_categories: tuple[str, ...]  # those of ap50_by_category that are novel, sorted
    num_images: int
    num_detections: int
    most_detections_per_image: int  # Fixed AP rises with it: two values compare only where it is alike

    def to_dict(self) -> dict[str, float]:
        """The single numbers by name, for logging; undefined ones are left out."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, int | float)}


# Names that `LvisMetrics.to_dict` can have.
METRIC_NAMES = tuple(field.name for field in fields(LvisMetrics) if field.type in (float | None, int))


def evaluate_lvis(
    detections: Sequence[Mapping[str, Any]], *, annotations_path: Path, boxed_concepts: Collection[str] | None
) -> LvisMetrics:
    """LVIS AP, Fixed AP and the AP50 of base and novel categories.

    The protocol is federated: a detection counts only where its category was checked in that image, and an unmatched one is
    forgiven where the category was not annotated exhaustively.

    Args:
        detections: rows of the LVIS results format: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels of
            the original image) and ``score``. None at all gives zeros.
        annotations_path: ground truth in LVIS v1 JSON.
        boxed_concepts: every text that has a box in training. A category is base if its name or a synonym is among them
            (case, underscores and LVIS's qualifier in parentheses aside), so that novelty is never overstated. None: unknown,
            and so is which categories are base or novel.

    Raises:
        ValueError: there is no such annotation file or it is not LVIS's, or a detection lacks a field, names an unknown image or
            category, or holds a number that is not finite or a box that is not x, y, width, height.
    """
    ground_truth = _read_lvis(annotations_path)
    categories = ground_truth.load_cats(ground_truth.get_cat_ids())
    rows = detection_rows(detections)
    _check_known("image", rows[:, IMAGE], ground_truth.get_img_ids(), annotations_path)
    _check_known("category", rows[:, CATEGORY], ground_truth.get_cat_ids(), annotations_path)

    images = ground_truth.load_imgs(ground_truth.get_img_ids())
    check_boxes(rows, {image["id"]: (image["width"], image["height"]) for image in images})

    capped_per_image = hotcoco.LVISResults(ground_truth, rows, max_dets=MAX_PER_IMAGE)
    capped_per_category = hotcoco.LVISResults(ground_truth, _best_per_category(rows, MAX_PER_CATEGORY), max_dets=-1)
    lvis = _average_precision(ground_truth, capped_per_image)  # [T, C]
    fixed = _average_precision(ground_truth, capped_per_category)  # [T, C]

    everything = np.ones(len(categories), dtype=bool)
    frequency = np.array([category["frequency"] for category in categories])
    boxed_spellings = {_spelling(concept) for concept in boxed_concepts or ()}
    base = np.array([not _spellings(category).isdisjoint(boxed_spellings) for category in categories], dtype=bool)
    scored = [(c, category["name"]) for c, category in enumerate(categories) if fixed[IOU_50, c] >= 0]
    values: dict[str, Any] = {}
    for metric, cap, ap in (("lvis", MAX_PER_IMAGE, lvis), ("fixed", MAX_PER_CATEGORY, fixed)):
        thresholds = {"ap": ap, "ap50": ap[IOU_50], "ap75": ap[IOU_75]}
        values |= {f"{metric}_{name}_{cap}": _mean(part, everything) for name, part in thresholds.items()}
        values |= {f"{metric}_ap{group}_{cap}": _mean(ap, frequency == group) for group in "rcf"}
    return LvisMetrics(
        **values,
        base_ap50=None if boxed_concepts is None else _mean(fixed[IOU_50], base),
        novel_ap50=None if boxed_concepts is None else _mean(fixed[IOU_50], ~base),
        ap50_by_category={name: float(fixed[IOU_50, c]) for c, name in scored},
        novel_categories=tuple(sorted(name for c, name in scored if not base[c] and boxed_concepts is not None)),
        num_images=len(ground_truth.get_img_ids()),
        num_detections=len(rows),
        most_detections_per_image=int(np.unique(rows[:, IMAGE], return_counts=True)[1].max(initial=0)),
    )


def _read_lvis(path: Path) -> hotcoco.COCO:
    """Ground truth that says of every image what was checked in it, and of every category how frequent it is."""
    if not path.is_file():
        raise ValueError(f"no LVIS annotations at {path}")
    try:
        ground_truth = hotcoco.COCO(str(path))
    except ValueError as error:
        raise ValueError(f"{path} is not in LVIS v1 format: {error}") from error
    content = path.read_bytes()
    num_images = len(ground_truth.get_img_ids())
    # hotcoco takes a missing list for an empty one; counting spares a second reading of a file of 200 MB.
    missing = [field for field in FEDERATED if content.count(f'"{field}"'.encode()) < num_images]
    if missing:
        raise ValueError(
            f"{path} is not in LVIS v1 format: not every image has {missing[0]!r}. COCO's format has none: evaluate its"
            " files with `python ray_jobs/evaluate.py --data FILE --images FOLDER`, which takes it for annotated exhaustively"
        )
    for category in ground_truth.load_cats(ground_truth.get_cat_ids()):
        if category.get("frequency") not in ("r", "c", "f"):
            name = category["name"]
            raise ValueError(f"{path} is not in LVIS v1 format: category {name!r} has no frequency (r, c or f)")
    return ground_truth


def _check_known(what: str, ids: npt.NDArray[np.float64], known_ids: list[int], annotations_path: Path) -> None:
    unknown = ids[~np.isin(ids, known_ids)]
    if unknown.size:
        raise ValueError(
            f"{unknown.size} detection(s) of an unknown {what}, first id {unknown[0]:.0f}: not in {annotations_path}"
        )


def _best_per_category(rows: npt.NDArray[np.float64], cap: int) -> npt.NDArray[np.float64]:
    """The ``cap`` best rows of each category in their original order; of equal scores the earlier rows are kept."""
    order = np.lexsort((-rows[:, SCORE], rows[:, CATEGORY]))
    _, starts, counts = np.unique(rows[order, CATEGORY], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    kept: npt.NDArray[np.float64] = rows[np.sort(order[rank < cap])]
    return kept


def _average_precision(ground_truth: hotcoco.COCO, detections: hotcoco.COCO) -> npt.NDArray[np.float64]:
    """AP by IoU threshold and category, [T, C]; -1 where the category has no box in the ground truth."""
    evaluation = hotcoco.LVISeval(ground_truth, detections, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # [T, R, C], of all areas and the only cap
    ap: npt.NDArray[np.float64] = precision.mean(axis=1)
    return ap


def _mean(ap: npt.NDArray[np.float64], group: npt.NDArray[np.bool_]) -> float | None:
    """Mean over the group's categories that have a box; ``ap`` is [T, C] or [C], -1 where undefined."""
    values = ap[..., group]
    values = values[values >= 0]
    return float(values.mean()) if values.size else None


def _spellings(category: Mapping[str, Any]) -> set[str]:
    return {_spelling(name) for name in [category["name"], *category.get("synonyms", [])]}


def _spelling(name: str) -> str:
    """``bow_(weapon)`` and ``Bow`` are one word."""
    return re.sub(r"\(.*?\)", "", name).replace("_", " ").strip().casefold()
