"""Data quality checks: figures of assets that stop the build when they are out of bounds."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from pipelines.fetch.drop_reasons import TRANSIENT_REASONS
from pipelines.storage import PublishedTable, format_counts, kept_files
from schemas.shard_index import source_of

Tables = Mapping[str, PublishedTable]
_KEPT = ""  # no drop reason

# Of sources that bring their images: the image is there.
_NOT_OF_IMAGES = {
    "caption_empty",
    "caption_not_text",
    "caption_not_utf8",
    "caption_damaged",
    "caption_missing",
    "caption_too_large",
    "caption_surplus",
    "image_surplus",
    "duplicate_pair",
}
_DUPLICATES = {"duplicate_image", "near_duplicate_image"}
# Reasons that are a choice of the format or of the user; all others say that something is wrong with files or boxes.
_CHOICES = {
    "crowd",  # one box around many objects, which COCO leaves out of training, too
    "difficult",  # VOC leaves such objects out of its evaluation
    "duplicate_box",  # the box is there once
    "held_out",  # the image is kept for evaluation
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that stop the build, with the figure that is out of them: better than weeks of training on broken data."""

    max_missing: float = 0.7
    """Share of pairs without an image, for whatever reason; of old tables of URLs a third is common."""
    max_transient: float = 0.3
    """Share of pairs whose download failed for a transient reason (dns, timeout, 5xx and the like): try --retry first."""
    max_duplicates: float = 0.7
    """Share of pairs whose image is there twice."""
    min_phrases: float = 1.0
    """Noun phrases a caption, on average."""
    max_bad_boxes: float = 0.1
    """Share of boxes of a source that cannot be used: outside their image or empty, without an image, category or phrase."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found."""

    passed: bool
    message: str
    figures: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure of one asset."""

    name: str
    asset: str
    what: str
    find: Callable[[Tables, Limits], Finding]


def _share_check(
    name: str, asset: str, limit: str, is_counted: Callable[[str], bool], *, what: str, rows: str
) -> Check:
    """A share of rows that must not exceed ``limit``, a field of `Limits`; ``rows`` says in the message what they are."""

    def find(tables: Tables, limits: Limits) -> Finding:
        dropped = Counter[str]()
        for table in tables.values():
            dropped.update({k: count for k, count in table.manifest.dropped.items() if is_counted(k)})
        total, bound = _rows_in(tables), getattr(limits, limit)
        share = dropped.total() / total if total else 0.0
        message = f"{asset}: {dropped.total():,} of {total:,} ({share:.1%}) {rows}"
        if dropped:
            message += f" ({format_counts(dropped)})"
        if share > bound:
            option = f"--limits.{limit.replace('_', '-')} {min(1.0, share + 0.01):.2f}"
            message += f"; at most {bound:.1%} may. Fix it, or go on with {option}"
        figures = {"share": share, "limit": bound, "rows": total, **{f"dropped: {k}": v for k, v in dropped.items()}}
        return Finding(passed=share <= bound, message=message, figures=figures)

    return Check(name=name, asset=asset, what=what, find=find)


def _rows_in(tables: Tables) -> int:
    return sum(table.manifest.rows_in for table in tables.values())


def _phrases(tables: Tables, limits: Limits) -> Finding:
    """Over all captions, those without a phrase included."""
    num_captions = _rows_in(tables)
    num_phrases = 0
    for file in kept_files(tables).values():
        footer = pq.read_metadata(file.local())
        column = next(i for i in range(footer.num_columns) if footer.schema.column(i).path.startswith("phrases."))
        # No row is read: each that was kept has a phrase, and an empty list alone would count as a value without one.
        num_phrases += sum(footer.row_group(i).column(column).num_values for i in range(footer.num_row_groups))
    mean = num_phrases / num_captions if num_captions else limits.min_phrases
    message = f"noun_phrases: {num_phrases:,} phrases of {num_captions:,} captions, {mean:.2f} each"
    if mean < limits.min_phrases:
        message += (
            f"; at least {limits.min_phrases:.2f} are needed: are the captions English sentences? "
            f"Go on with --limits.min-phrases {max(0.0, mean - 0.01):.2f}"
        )
    figures = {"phrases per caption": mean, "limit": limits.min_phrases, "captions": num_captions}
    return Finding(passed=mean >= limits.min_phrases, message=message, figures=figures)


def _boxes(asset: str, tables: Tables, limits: Limits) -> Finding:
    """Of every source on its own: a large one must not hide what a small one lost. A source without any box fails."""
    counts: dict[str, Counter[str]] = {}
    for shard, table in tables.items():
        of_source = counts.setdefault(source_of(shard), Counter())
        of_source[_KEPT] += table.manifest.rows_kept
        of_source.update(table.manifest.dropped)
    findings = [_boxes_of(f"{asset}: {source}", of_source, limits) for source, of_source in sorted(counts.items())]
    failed = [finding for finding in findings if not finding.passed]
    shown = failed or findings
    message = "; ".join(finding.message for finding in shown) or f"{asset}: the dataset has none"
    figures = max((finding.figures for finding in shown), key=lambda f: f["share"], default={})
    return Finding(passed=not failed, message=message, figures=figures)


def _boxes_of(where: str, counts: Counter[str], limits: Limits) -> Finding:
    total = counts.total()
    bad = Counter({reason: n for reason, n in counts.items() if n and reason not in _CHOICES | {_KEPT}})
    num_judged = total - sum(counts[reason] for reason in _CHOICES)
    share = bad.total() / num_judged if num_judged else 0.0
    figures = {"share": share, "limit": limits.max_bad_boxes, "rows": total}
    figures |= {f"dropped: {reason}": n for reason, n in bad.items()}
    if not counts[_KEPT]:
        dropped = format_counts(+Counter({reason: n for reason, n in counts.items() if reason != _KEPT}))
        why = f"none of {total:,} boxes can be used ({dropped})" if total else "there is no box in the annotations"
        if total and counts["held_out"] == total:
            why += ": all of their images are validation images or in --held-out"
        return Finding(passed=False, message=f"{where}: {why}", figures=figures)
    message = f"{where}: {bad.total():,} of {num_judged:,} ({share:.1%}) boxes cannot be used"
    if bad:
        message += f" ({format_counts(bad)})"
    if share > limits.max_bad_boxes:
        option = f"--limits.max-bad-boxes {min(1.0, share + 0.01):.2f}"
        message += f"; at most {limits.max_bad_boxes:.1%} may. Fix it, or go on with {option}"
    return Finding(passed=share <= limits.max_bad_boxes, message=message, figures=figures)


CHECKS = (
    _share_check(
        "image_yield",
        "images",
        "max_missing",
        lambda reason: reason not in _NOT_OF_IMAGES,
        what="Share of pairs with an image, by error class.",
        rows="pairs have no image",
    ),
    _share_check(
        "transient_failure_rate",
        "images",
        "max_transient",
        TRANSIENT_REASONS.__contains__,
        what="Failures that a retry may fix.",
        rows="pairs failed for a transient reason",
    ),
    _share_check(
        "duplicate_rate",
        "deduplicated",
        "max_duplicates",
        _DUPLICATES.__contains__,
        what="Share of duplicates.",
        rows="pairs show an image that another one shows",
    ),
    Check(name="phrases_per_caption", asset="noun_phrases", what="Noun phrases a caption.", find=_phrases),
    *(
        Check(
            name="box_drop_rate", asset=asset, what="Share of boxes that cannot be used.", find=partial(_boxes, asset)
        )
        for asset in ("detection_shards", "grounding_shards", "validation")
    ),
)
