"""Model folder: weights, configuration, text encoder, vocabulary, concepts, and the digest of the training data.

A model folder (layout 2)::

    config.json                      this layout, the model's configuration, image sizes, data digest, sha256 of the files
    model.safetensors                weights of the detector, those of the text encoder included
    text_encoder/                    its architecture and tokenizer
    category_embeddings.safetensors  the names that it was evaluated with, embedded once; their texts in the metadata
    concepts.json                    the concept dictionary, where definitions follow the names
    README.md                        the model card
"""

import errno
import itertools
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from detclipv2 import __version__
from detclipv2.build import (
    build_detector,
    num_weights_of_backbone,
    num_weights_of_text_encoder,
    restore_text_encoder,
)
from detclipv2.config import ModelConfig
from detclipv2.foreign_files import parse_json, read_bounded
from detclipv2.integrity import TEXT_ENCODER, WEIGHTS, check_files, check_finite, check_shapes, check_size, sha256_of
from detclipv2.model_card import model_card
from detclipv2.models.detector import DetCLIPv2
from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.vocabulary import Vocabulary, load_vocabulary, save_vocabulary

LAYOUT_VERSION = 2
MAX_SIDE_PX = 4096  # of an image at inference
_MAX_CONFIG_BYTES = 2**20
_MAX_DIGEST = 128  # characters
_CONFIG, _CARD = "config.json", "README.md"
_VOCABULARY, _CONCEPTS = "category_embeddings.safetensors", "concepts.json"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a model folder holds."""

    detector: DetCLIPv2
    config: ModelConfig
    image_size: int  # longer side of an image at inference at most, in pixels
    shorter_size: int | None  # shorter side at most; None: as image_size
    data_digest: str  # of the dataset manifest that it was trained on
    vocabulary: Vocabulary | None  # the names that it was evaluated with
    dictionary: ConceptDictionary | None  # if definitions follow the names


def save_pretrained(
    folder: Path,
    detector: DetCLIPv2,
    *,
    config: ModelConfig,
    image_size: int,
    shorter_size: int | None = None,
    data_digest: str,
    vocabulary: Vocabulary | None = None,
    dictionary: ConceptDictionary | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write a model folder; it appears under its name only when it is whole.

    A model that is there already is replaced. `Pretrained` explains what goes along; the concept dictionary does so if
    ``config.definitions`` is on. The metrics are for the model card.

    Raises:
        ValueError: the folder exists already and holds something else than a model, or the concept dictionary is missing.
    """
    if folder.exists() and not (folder / _CONFIG).is_file():
        raise ValueError(f"{folder} exists and is no model folder; name another one, or move it away")
    if config.definitions and dictionary is None:
        raise ValueError("definitions are on, but there is no concept dictionary: give it, or switch definitions off")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        temporary = Path(scratch) / folder.name
        temporary.mkdir()
        save_file({name: value.contiguous() for name, value in detector.state_dict().items()}, temporary / WEIGHTS)
        detector.text_encoder.save(temporary / TEXT_ENCODER)
        if vocabulary is not None:
            save_vocabulary(vocabulary, temporary / _VOCABULARY)
        if config.definitions and dictionary is not None:
            dictionary.save(temporary / _CONCEPTS)
        description = {
            "architectures": ["DetCLIPv2"],
            "model_type": "detclipv2",
            "library_name": "detclipv2",
            "library_version": __version__,
            "layout_version": LAYOUT_VERSION,
            "model": asdict(config),
            "image_size": image_size,
            "shorter_size": shorter_size,
            "data_digest": data_digest,
            "sha256": {path.relative_to(temporary).as_posix(): sha256_of(path) for path in _files(temporary)},
        }
        (temporary / _CONFIG).write_text(json.dumps(description, indent=2) + "\n")
        write_model_card(temporary, metrics=metrics)
        _replace(folder, by=temporary, scratch=Path(scratch))


def _replace(folder: Path, *, by: Path, scratch: Path) -> None:
    """Put a whole folder under a name; what is there goes whole, too, also where several processes do so at once."""
    for number in itertools.count():
        try:
            by.replace(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        with suppress(FileNotFoundError):  # another process was faster
            folder.replace(scratch / f"before-{number}")


def write_model_card(folder: Path, *, metrics: Mapping[str, float] | None = None) -> None:
    """Write a model folder's card anew, such as when it has been measured."""
    description = json.loads((folder / _CONFIG).read_text())
    vocabulary = load_vocabulary(folder / _VOCABULARY) if _VOCABULARY in description["sha256"] else None
    names = [] if vocabulary is None else vocabulary.names
    card = model_card(folder.name, description, num_names=len(names), metrics=metrics)
    card.save(folder / _CARD)


def from_pretrained(source: str | Path) -> Pretrained:
    """Read what ``save_pretrained`` wrote. A folder is all that it needs: no download and no packaged weights.

    Args:
        source: a model folder, or the id of a model on the Hugging Face Hub; a folder of that name wins.

    Raises:
        ValueError: no model there, one of another layout, a file that is missing or not as it was written, or weights that do
            not fit.
    """
    folder = model_folder(source)
    description = _described(folder)
    try:
        check_files(folder, description.get("sha256"))
        unknown = sorted(description["model"].keys() - {field.name for field in fields(ModelConfig)})
        if unknown:
            raise ValueError(f"{_CONFIG} has unknown settings {unknown}")
        config = TypeAdapter(ModelConfig).validate_python(description["model"])
        image_size, shorter_size = _image_sizes(description)
        sizes = check_shapes(folder / WEIGHTS, config)
        check_size(sizes, "backbone", needed=num_weights_of_backbone(config))
        check_size(sizes, TEXT_ENCODER, needed=num_weights_of_text_encoder(folder / TEXT_ENCODER, config))
        # The folder's own files give the architectures; its weights follow.
        detector = build_detector(
            replace(config, backbone_weights="random"),
            text_encoder=restore_text_encoder(folder / TEXT_ENCODER, config),
        )
        state = load_file(folder / WEIGHTS)
        check_finite(state)
        detector.load_state_dict(state)
        if config.definitions and _CONCEPTS not in description["sha256"]:
            raise ValueError(f"definitions are on, but it has no {_CONCEPTS}")
        return Pretrained(
            detector=detector,
            config=config,
            image_size=image_size,
            shorter_size=shorter_size,
            data_digest=_data_digest(description),
            vocabulary=load_vocabulary(folder / _VOCABULARY, width=config.embed_dim)
            if _VOCABULARY in description["sha256"]
            else None,
            dictionary=ConceptDictionary.load(folder / _CONCEPTS) if config.definitions else None,
        )
    except Exception as error:  # what the libraries raise for files of their formats has no common type
        raise ValueError(f"{folder} holds no readable model: {type(error).__name__}: {error}") from error


def model_folder(source: str | Path) -> Path:
    """A model folder as it is, or that of the newest snapshot of a model on the Hugging Face Hub.

    Raises:
        ValueError: there is neither.
    """
    return Path(source) if Path(source).is_dir() else _downloaded(Path(source).as_posix())


def model_digest(folder: Path) -> str:
    """sha256 of a model folder's description, which has those of its files.

    Raises:
        ValueError: no model there, or one of another layout.
    """
    _described(folder)
    return sha256_of(folder / _CONFIG)


def concepts_path(folder: Path) -> Path:
    """Where a model folder has its concept dictionary, if its names are followed by definitions."""
    return folder / _CONCEPTS


def _downloaded(model_id: str) -> Path:
    """The newest snapshot of a model on the Hub, from the local cache where that is up to date."""
    try:
        return Path(snapshot_download(model_id, library_name="detclipv2", library_version=__version__))
    except Exception as error:  # the Hub's client lets its HTTP library's errors through, which share no base class
        reason = " ".join(str(error).split())
        raise ValueError(
            f"no model in {model_id}: no such folder, and the Hugging Face Hub says: {type(error).__name__}: {reason};"
            " train one with `make demo`, or name a model folder"
        ) from error


def _described(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        description = parse_json(read_bounded(path, max_bytes=_MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise ValueError(f"no model in {folder}: {error}; train one with `make demo`") from error
    layout = description.get("layout_version") if isinstance(description, dict) else None
    if layout != LAYOUT_VERSION:
        raise ValueError(
            f"{path}: layout {layout!r}, this version reads {LAYOUT_VERSION};"
            " save the model again from its checkpoint (submit its job again), or read it with the version that wrote it"
        )
    return description


def _image_sizes(description: dict[str, Any]) -> tuple[int, int | None]:
    """Longer and shorter side of images at inference.

    Raises:
        ValueError: one is no number of pixels that a detector takes.
    """
    for name in ("image_size", "shorter_size"):
        size = description[name]
        if (size is not None or name == "image_size") and (type(size) is not int or not 32 <= size <= MAX_SIDE_PX):
            raise ValueError(
                f"{_CONFIG}: {name} is {str(size)[:40]}; a whole number of pixels from 32 to {MAX_SIDE_PX}"
            )
    return description["image_size"], description["shorter_size"]


def _data_digest(description: dict[str, Any]) -> str:
    digest = description["data_digest"]
    if not isinstance(digest, str) or not digest.isalnum() or len(digest) > _MAX_DIGEST:
        raise ValueError(f"{_CONFIG}: data_digest is no digest of data: {str(digest)[:40]!r}")
    return digest


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
