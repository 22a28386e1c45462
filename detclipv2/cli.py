"""Command line ``detclip``: use a trained detector."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import tyro
from platformdirs import user_cache_path

from detclipv2.drawing import draw_detections
from detclipv2.image_decoding import decode_rgb
from detclipv2.inference import Predictor
from detclipv2.models.postprocess import PRE_NMS_TOPK, one_name_each
from detclipv2.terminal import make_output_inert, printable_json
from detclipv2.text.build_dictionary import dictionary
from detclipv2.text.embedding_cache import TextEmbeddingCache
from detclipv2.vocabulary import distinct_names, read_names

MODELS = Path("outputs/models")
_GROUP = "detclip.commands"  # of entry points
# Commands of the checkout, which the wheel alone lists too; their packages are imported only when they run.
_CHECKOUT = {
    "data": "Look at data that was built: `detclip data --help`. Comes with the repository.",
    "plan": "What a training takes: steps, operations, memory, hours, cost. Comes with the repository.",
}
MAX_CANDIDATES = 5 * PRE_NMS_TOPK  # all that the five levels give: only one name of each object is shown


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Find what you name in a photo: every object with the best of the names. Prints JSON, or writes it, or draws it."""

    image: tyro.conf.Positional[Path]
    """The photo."""
    names: tuple[str, ...] = ()
    """What to look for, such as: "red apple" guitar "traffic light". The model's own vocabulary unless given."""
    vocabulary: Path | None = None
    """Or a file with what to look for: one name a line, or a .csv with a column "name", or a data.yaml;
    or a .json of COCO's or LVIS's format, or with a list of names."""
    out: Path | None = None
    """Where to write: an image (.jpg, .png, .webp) with the detections drawn, or .json."""
    model: Path | None = None
    """A model folder, or a model's id on the Hugging Face Hub; the newest one below outputs/models unless given."""
    threshold: float = 0.25
    """Weakest score that is shown."""
    max_detections: int = 100
    """Most detections that are shown."""


def newest_model(folder: Path = MODELS) -> Path:
    """The model folder that was written last.

    Raises:
        ValueError: there is none.
    """
    models = sorted(folder.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise ValueError(f"no model in {folder}: train one with `make demo`, or name a folder with --model")
    return models[-1].parent


def cache_folder() -> Path:
    """Where what can be computed again is kept between calls: ``DETCLIPV2_CACHE``, else the user's cache folder.

    `pipelines.storage` has the same rule; neither package may import the other.
    """
    given = os.environ.get("DETCLIPV2_CACHE")
    return Path(given) if given else user_cache_path("detclipv2", appauthor=False)


def predict(config: Annotated[Predict, tyro.conf.arg(name="")]) -> None:
    """Find what you name in a photo: every object with the best of the names.

    Raises:
        ValueError: the photo, the names or the model cannot be read, or a name is empty, or the output cannot be written or is of
            an unknown kind, or an option is out of its range.
    """
    _check_options(config)
    try:
        image = decode_rgb(config.image)  # upright, as its boxes will be
    except ValueError as error:
        raise ValueError(f"{config.image} cannot be read as an image: {error}") from error
    asked_for = _asked_for(config)
    # Of a whole vocabulary; a few names are encoded sooner than the weights are hashed.
    cache = None if config.vocabulary is None else TextEmbeddingCache(cache_folder() / "texts")
    predictor = Predictor.from_pretrained(config.model or newest_model(), cache=cache)
    if asked_for:
        predictor.set_vocabulary(asked_for)
    if predictor.vocabulary is None:
        raise ValueError("this model has no vocabulary of its own: say what to look for with --names or --vocabulary")
    every = predictor(image, score_threshold=config.threshold, max_detections=MAX_CANDIDATES)
    found = one_name_each(every)
    rows: list[dict[str, Any]] = [
        {"name": predictor.vocabulary.names[label], "score": round(score, 4), "box_xyxy": [round(v, 1) for v in box]}
        for box, score, label in zip(
            found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ][: config.max_detections]
    text = json.dumps({"image": str(config.image), "detections": rows}, indent=2, ensure_ascii=False)
    if config.out is None:
        print(printable_json(text))
        return
    try:
        if config.out.suffix.lower() == ".json":
            config.out.write_text(text + "\n", encoding="utf-8")
        else:
            boxes, names, scores = ([row[key] for row in rows] for key in ("box_xyxy", "name", "score"))
            draw_detections(image, boxes, names, scores).save(config.out)
    except OSError as error:
        raise ValueError(f"--out {config.out} cannot be written: {error.strerror or error}") from error
    # The names of a file or a model are counted only where they were found.
    counts = Counter(dict.fromkeys(predictor.vocabulary.names if config.names else [], 0))
    counts.update(row["name"] for row in rows)
    print(f"{config.out}: " + (", ".join(f"{count} x {name}" for name, count in counts.items()) or "nothing found"))


def _check_options(config: Predict) -> None:
    """Whatever can be told before anything is read; the folder of the output is made."""
    if config.names and config.vocabulary is not None:
        raise ValueError("give --names or --vocabulary, not both")
    if not 0 <= config.threshold <= 1:
        raise ValueError(f"--threshold {config.threshold:g}: scores are from 0 to 1")
    if config.max_detections < 1:
        raise ValueError(f"--max-detections {config.max_detections}: at least 1")
    if config.out is None:
        return
    if config.out.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp", ".json"}:
        raise ValueError(f"--out {config.out}: choose a name that ends in .jpg, .png, .webp or .json")
    try:
        config.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {config.out}: its folder cannot be made: {error.strerror}") from error
    if config.out.is_dir() or not os.access(config.out.parent, os.W_OK):
        raise ValueError(f"--out {config.out} cannot be written: name a file in a folder that you may write to")


def _asked_for(config: Predict) -> list[str]:
    """The names given, each once, whether by themselves or in a file; none where the model's own count."""
    names = list(config.names) if config.vocabulary is None else read_names(config.vocabulary)
    distinct = distinct_names(names)
    if len(distinct) < len(names):
        more = sorted((Counter(names) - Counter(distinct)).keys())
        where = config.vocabulary or "--names"
        shown = ", ".join(more[:5]) + (", ..." if len(more) > 5 else "")
        print(f"{where}: {len(names) - len(distinct)} of {len(names)} names are repeated: {shown}", file=sys.stderr)
    return distinct


def further_commands(name: str) -> dict[str, Callable[..., None]]:
    """Commands that another package brings: an entry point of the group ``detclip.commands``, loaded.

    Raises:
        ValueError: that package is not installed.
    """
    try:
        (entry_point,) = entry_points(group=_GROUP, name=name)
        commands: dict[str, Callable[..., None]] = entry_point.load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"detclip {name} comes with the repository, which this installation lacks ({error}):"
            " clone it and run `make setup`"
        ) from error
    return commands


def _listed(description: str) -> Callable[[], None]:
    """A command that `detclip --help` names without loading it."""

    def command() -> None: ...

    command.__doc__ = description
    return command


def main() -> None:
    """Entry point of ``detclip``."""
    make_output_inert()
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else ""
    commands: dict[str, Callable[..., Any]] = {"predict": predict, "dictionary": dictionary}
    prog, description = "detclip", __doc__ or ""
    further = {entry.name: f"Of {entry.value.partition(':')[0]}." for entry in entry_points(group=_GROUP)} | _CHECKOUT
    try:
        if name in further:
            loaded = further_commands(name)
            if loaded.keys() == {name}:
                commands |= loaded
            else:
                commands, prog, description, arguments = loaded, f"detclip {name}", further[name], arguments[1:]
        else:
            commands |= {other: _listed(text) for other, text in further.items()}
        tyro.extras.subcommand_cli_from_dict(commands, prog=prog, description=description, args=arguments)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
