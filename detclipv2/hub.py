"""One artefact: weights, configuration, text encoder with its tokenizer, and the digest of the data that it saw."""

import json
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from detclipv2.build import build_detector
from detclipv2.config import ModelConfig
from detclipv2.models.detector import DetCLIPv2

LAYOUT_VERSION = 1
_CONFIG, _WEIGHTS, _TEXT_ENCODER = "config.json", "model.safetensors", "text_encoder"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a model folder holds."""

    detector: DetCLIPv2
    config: ModelConfig
    image_size: int  # longer side of a picture at inference, in pixels
    data_digest: str  # of the dataset manifest that it was trained on
    names: list[str]  # names that it was evaluated with


def save_pretrained(
    folder: Path, detector: DetCLIPv2, *, config: ModelConfig, image_size: int, data_digest: str, names: list[str]
) -> None:
    """Write a model folder; it appears under its name only when it is whole.

    Raises:
        ValueError: the folder exists already and holds something else than a model.
    """
    if folder.exists() and not (folder / _CONFIG).is_file():
        raise ValueError(f"{folder} exists and is no model folder; name another one, or move it away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        temporary = Path(scratch) / folder.name
        temporary.mkdir()
        save_file({name: value.contiguous() for name, value in detector.state_dict().items()}, temporary / _WEIGHTS)
        encoder = detector.text_encoder
        encoder.transformer.config.save_pretrained(temporary / _TEXT_ENCODER)
        encoder.tokenizer.save_pretrained(temporary / _TEXT_ENCODER)
        description = {
            "layout_version": LAYOUT_VERSION,
            "model": asdict(config),
            "image_size": image_size,
            "data_digest": data_digest,
            "names": names,
        }
        (temporary / _CONFIG).write_text(json.dumps(description, indent=2) + "\n")
        if folder.exists():  # it goes whole, and only when its successor is whole
            folder.replace(Path(scratch) / "before")
        temporary.replace(folder)


def load_pretrained(folder: Path) -> Pretrained:
    """Read what ``save_pretrained`` wrote; nothing else is needed, no download and no packaged weights.

    Raises:
        ValueError: no model there, one of another layout, or weights that do not fit.
    """
    try:
        description: dict[str, Any] = json.loads((folder / _CONFIG).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"no model in {folder}: {error}; train one with `make demo`") from error
    if description.get("layout_version") != LAYOUT_VERSION:
        raise ValueError(
            f"{folder}/{_CONFIG}: layout {description.get('layout_version')!r}, this version reads {LAYOUT_VERSION};"
            " save the model again with the code that trained it"
        )
    try:
        unknown = sorted(description["model"].keys() - {field.name for field in fields(ModelConfig)})
        if unknown:
            raise ValueError(f"{_CONFIG} has unknown settings {unknown}")
        config = TypeAdapter(ModelConfig).validate_python(description["model"])
        # The folder's own weights replace these; only the architectures are built.
        bare = replace(config, backbone_weights="random", text_weights=str(folder / _TEXT_ENCODER))
        detector = build_detector(bare)
        detector.load_state_dict(load_file(folder / _WEIGHTS))
        return Pretrained(
            detector=detector,
            config=config,
            image_size=description["image_size"],
            data_digest=description["data_digest"],
            names=description["names"],
        )
    except (KeyError, ValueError, SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(f"{folder} holds no readable model: {type(error).__name__}: {error}") from error
