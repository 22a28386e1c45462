"""HTML report of a training run, from its data to its detections: ``report.html``, one file without outside resources."""

import base64
import io
import json
import math
import re
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from detclipv2.drawing import draw_detections
from detclipv2.evaluation.lvis_metrics import LvisMetrics
from pipelines.storage import Location, write_text_atomically
from ray_jobs.dataset_files import ValidationSet, local_file
from schemas.manifest import DatasetManifest
from schemas.training import TrainingSample

NUM_PAIRS = 6
NUM_CATEGORIES_LISTED = 8
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


@dataclass(frozen=True, kw_only=True)
class _Pair:
    image: str  # data URI
    caption: list[str]  # at odd positions, the parts of the caption that are noun phrases


@dataclass(frozen=True, kw_only=True)
class _Curve:
    name: str
    raw: str  # SVG polyline points
    smooth: str
    top: float
    bottom: float
    last: float
    last_step: int


@dataclass(frozen=True, kw_only=True)
class _Scene:
    image: str  # data URI
    num_detections: int
    num_novel: int


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
    environment.filters.update(points=_points, words=_words, duration=_duration)
    has_validation = data.dataset.validation_annotations is not None and data.dataset.validation_images is not None
    validation = ValidationSet(data.dataset, data_root=data.data_root) if has_validation else None
    page = environment.get_template("report.html.jinja").render(
        data=data,
        trained_on=_trained_on(data.dataset),
        pairs=_pairs(data),
        curves=[_curve(name, values) for name, values in data.losses.items() if values],
        curve_size=(CURVE_WIDTH, CURVE_HEIGHT),
        scenes=_scenes(data, validation),
        validation_set=validation and validation.ground_truth.get("info", {}).get("description"),
        novel={_words(name) for name in data.metrics.novel_categories},
        categories=_categories(data.metrics),
        num_listed=NUM_CATEGORIES_LISTED,
        config=json.dumps(data.config, indent=2, ensure_ascii=False),
    )
    write_text_atomically(path, page)


def _trained_on(dataset: DatasetManifest) -> str:
    kinds = {
        "detection": "with category boxes",
        "grounding": "with phrase boxes",
        "image_text": "with nothing but a caption",
    }
    splits = [
        (dataset.supervisions[name].num_samples, kind) for name, kind in kinds.items() if name in dataset.supervisions
    ]
    parts = [f"{num_samples:,} images {kind}" for num_samples, kind in splits]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts or ["no data"])


def _pairs(data: ReportData) -> list[_Pair]:
    """The first image-text pairs of the dataset, taken from all its shards in turn."""
    split = data.dataset.supervisions.get("image_text")
    if split is None or not split.shards:
        return []
    per_shard = math.ceil(NUM_PAIRS / len(split.shards))
    pairs = []
    for shard in split.shards[:NUM_PAIRS]:
        with tarfile.open(local_file(shard, data_root=data.data_root)) as tar:
            names = [name for name in tar.getnames() if name.endswith(".json")][:per_shard]
            for name in names:
                sample = TrainingSample.model_validate_json(_member(tar, name))
                image = Image.open(io.BytesIO(_member(tar, name.removesuffix("json") + "jpg")))
                image.thumbnail((PAIR_SIDE_PX, PAIR_SIDE_PX))
                caption = _split_at_phrases(sample.caption or "", sample.concepts)
                pairs.append(_Pair(image=_data_uri(image), caption=caption))
    return pairs[:NUM_PAIRS]


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None
    return member.read()


def _split_at_phrases(caption: str, phrases: Sequence[str]) -> list[str]:
    """Parts of the caption, which joined give it back; those at odd positions are noun phrases."""
    longest_first = sorted(phrases, key=len, reverse=True)
    pattern = "|".join(re.escape(phrase) for phrase in longest_first)
    return re.split(rf"\b({pattern})\b", caption, flags=re.IGNORECASE) if phrases else [caption]


def draw_image(
    validation: ValidationSet, image_id: int, rows: Sequence[Mapping[str, Any]], *, novel: Collection[str]
) -> Image.Image:
    """A validation image with detections drawn: rows of the LVIS results format; novel categories are highlighted."""
    return draw_detections(
        Image.open(validation.path(image_id)),
        [(x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows)],
        [validation.names[row["category_id"]] for row in rows],
        [row["score"] for row in rows],
        highlight={_words(name) for name in novel},
    )


def _scenes(data: ReportData, validation: ValidationSet | None) -> list[_Scene]:
    if data.detections and validation is None:
        raise ValueError(f"dataset {data.dataset.name!r} has no validation set to draw detections on")
    novel = {_words(name) for name in data.metrics.novel_categories}
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
        scenes.append(_Scene(image=_data_uri(drawn), num_detections=len(shown), num_novel=num_novel))
    return scenes


def _curve(name: str, values: Sequence[tuple[int, float]]) -> _Curve:
    """A loss as SVG points: as logged, and its centred moving average over a twentieth of the run."""
    last_of_step = dict(values)  # a run that went on from a checkpoint logged some steps twice
    finite = sorted((step, value) for step, value in last_of_step.items() if math.isfinite(value)) or [(0, 0.0)]
    steps, raw = np.array([step for step, _ in finite]), np.array([value for _, value in finite])
    window = np.ones(max(1, len(raw) // 20))
    smooth = np.convolve(raw, window, mode="same") / np.convolve(np.ones(len(raw)), window, mode="same")
    stride = math.ceil(len(raw) / MAX_CURVE_POINTS)
    top, bottom = float(raw.max()), min(0.0, float(raw.min()))
    xs = (steps - steps[0]) / max(1, steps[-1] - steps[0]) * CURVE_WIDTH

    def polyline(values: npt.NDArray[np.float64]) -> str:
        ys = (top - values) / max(1e-12, top - bottom) * CURVE_HEIGHT
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs[::stride], ys[::stride], strict=True))

    return _Curve(
        name=name,
        raw=polyline(raw),
        smooth=polyline(smooth),
        top=top,
        bottom=bottom,
        last=float(smooth[-1]),
        last_step=int(steps[-1]),
    )


def _categories(metrics: LvisMetrics) -> dict[str, list[tuple[str, float]]]:
    """(name, AP50) of the novel and of the base categories, best first."""
    kinds: dict[str, list[tuple[str, float]]] = {"novel": [], "base": []}
    for name, ap50 in sorted(metrics.ap50_by_category.items(), key=lambda item: (-item[1], item[0])):
        kinds["novel" if name in metrics.novel_categories else "base"].append((_words(name), ap50))
    return kinds


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _points(value: float | None) -> str:
    """AP as the field prints it, in points of 100."""
    return "–" if value is None else f"{100 * value:.1f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes > 1 else f"{seconds:.0f} s"
