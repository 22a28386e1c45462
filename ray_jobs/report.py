"""HTML report of a training run, from its data to its detections: ``report.html``, one file without outside resources."""

import base64
import io
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from detclipv2.drawing import draw_detections
from detclipv2.evaluation.lvis_metrics import LvisMetrics
from detclipv2.image_decoding import decode_rgb, open_image
from pipelines.storage import Location, write_text_atomically
from pipelines.storage.tars import read_tar
from ray_jobs.dataset_files import ValidationSet, local_file
from schemas.manifest import DatasetManifest
from schemas.training import TrainingSample

NUM_PAIRS = 6
PAIR_SIDE_PX = 360
MAX_CURVE_POINTS = 400
CURVE_WIDTH, CURVE_HEIGHT = 300, 120  # units of the SVG


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The contents of the page.

    ``detections`` are rows of the LVIS results format by image id, for the validation images to draw, in that order.
    ``losses`` are (step, value) pairs by name.
    """

    name: str
    run_id: str
    training_time_s: float
    num_parameters: int
    model_bytes: int
    dataset: DatasetManifest
    data_root: Location  # the dataset's paths are relative to it
    metrics: LvisMetrics
    losses: Mapping[str, Sequence[tuple[int, float]]]
    detections: Mapping[int, Sequence[Mapping[str, Any]]]
    config: Mapping[str, Any]  # JSON values
    reproduce: Sequence[str]  # shell commands, in order
    min_score: float = 0.3  # detections below it are not drawn


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, in one file without any outside resource.

    Raises:
        ValueError: ``detections`` names per image that the validation set does not have.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(points=_points, words=words, duration=_duration)
    has_validation = data.dataset.validation_annotations is not None and data.dataset.validation_images is not None
    validation = ValidationSet(data.dataset, data_root=data.data_root) if has_validation else None
    novel = {words(name) for name in data.metrics.novel_categories}
    page = environment.get_template("report.html.jinja").render(
        data=data,
        pairs=_pairs(data),
        curves=[_curve(name, values) for name, values in data.losses.items() if values],
        curve_size=(CURVE_WIDTH, CURVE_HEIGHT),
        scenes=_scenes(data, validation, novel),
        validation_set=validation and validation.ground_truth.get("info", {}).get("description"),
        novel=novel,
        categories=_categories(data.metrics),
        config=json.dumps(data.config, indent=2, ensure_ascii=False),
    )
    write_text_atomically(path, page)


def _pairs(data: ReportData) -> list[dict[str, Any]]:
    """The first image-text pairs of the dataset, taken from all its shards in turn."""
    split = data.dataset.supervisions.get("image_text")
    if split is None or not split.shards:
        return []
    pairs = []
    for shard in split.shards[:NUM_PAIRS]:
        tar = read_tar(local_file(shard, data_root=data.data_root))
        for row in islice(tar, math.ceil(NUM_PAIRS / len(split.shards))):
            sample = TrainingSample.model_validate_json(row.members["json"])
            image = open_image(row.members["jpg"])
            image.thumbnail((PAIR_SIDE_PX, PAIR_SIDE_PX))
            caption = _split_at_phrases(sample.caption or "", sample.concepts)
            pairs.append({"image": _data_uri(image), "caption": caption})
    return pairs[:NUM_PAIRS]


def _split_at_phrases(caption: str, phrases: Sequence[str]) -> list[str]:
    """Parts of the caption, which joined give it back; those at odd positions are noun phrases."""
    pattern = "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))
    return re.split(rf"\b({pattern})\b", caption, flags=re.IGNORECASE) if phrases else [caption]


def draw_image(
    validation: ValidationSet, image_id: int, rows: Sequence[Mapping[str, Any]], *, novel: Collection[str]
) -> Image.Image:
    """A validation image with detections drawn: rows of the LVIS results format; ``novel`` names are highlighted."""
    return draw_detections(
        decode_rgb(validation.path(image_id)),
        [(x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows)],
        [validation.names[row["category_id"]] for row in rows],
        [row["score"] for row in rows],
        highlight=novel,
    )


def _scenes(data: ReportData, validation: ValidationSet | None, novel: Collection[str]) -> list[dict[str, Any]]:
    if data.detections and validation is None:
        raise ValueError(f"dataset {data.dataset.name!r} has no validation set to draw detections on")
    scenes = []
    for image_id, rows in data.detections.items():
        assert validation is not None
        if image_id not in validation.file_names:
            raise ValueError(
                f"detections of image {image_id}: the validation set of {data.dataset.name!r} has no such image"
            )
        shown = [row for row in rows if row["score"] >= data.min_score]
        drawn = draw_image(validation, image_id, shown, novel=novel)
        num_novel = sum(validation.names[row["category_id"]] in novel for row in shown)
        scenes.append({"image": _data_uri(drawn), "num_detections": len(shown), "num_novel": num_novel})
    return scenes


def _curve(name: str, values: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """A loss as SVG points: as logged, and its centred moving average over a twentieth of the run."""
    # Through a dictionary, as a run that went on from a checkpoint logged some steps twice.
    finite = sorted((step, value) for step, value in dict(values).items() if math.isfinite(value)) or [(0, 0.0)]
    steps, raw = map(np.array, zip(*finite, strict=True))
    window = np.ones(max(1, len(raw) // 20))
    smooth = np.convolve(raw, window, mode="same") / np.convolve(np.ones(len(raw)), window, mode="same")
    stride = math.ceil(len(raw) / MAX_CURVE_POINTS)
    top, bottom = float(raw.max()), min(0.0, float(raw.min()))
    xs = (steps - steps[0]) / max(1, steps[-1] - steps[0]) * CURVE_WIDTH

    def polyline(values: npt.NDArray[np.float64]) -> str:
        ys = (top - values) / max(1e-12, top - bottom) * CURVE_HEIGHT
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs[::stride], ys[::stride], strict=True))

    ends = {"top": top, "bottom": bottom, "last": float(smooth[-1]), "last_step": int(steps[-1])}
    return {"name": name, "raw": polyline(raw), "smooth": polyline(smooth), **ends}


def _categories(metrics: LvisMetrics) -> dict[str, list[tuple[str, float]]]:
    """(name, AP50) of the novel and of the base categories, best first."""
    kinds: dict[str, list[tuple[str, float]]] = {"novel": [], "base": []}
    for name, ap50 in sorted(metrics.ap50_by_category.items(), key=lambda item: (-item[1], item[0])):
        kinds["novel" if name in metrics.novel_categories else "base"].append((words(name), ap50))
    return kinds


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _points(value: float | None) -> str:
    """AP as the field prints it, in points of 100."""
    return "–" if value is None else f"{100 * value:.1f}"


def words(name: str) -> str:
    """A name of LVIS or of an asset as it is read: with spaces."""
    return name.replace("_", " ")


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes > 1 else f"{seconds:.0f} s"
