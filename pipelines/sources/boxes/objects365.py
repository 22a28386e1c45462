"""Objects365 v1 and v2 for training, its category names corrected."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipelines.sources.boxes.coco import Coco
from pipelines.sources.boxes.coco_json import NameOf
from schemas.manifest import canonical_json, sha256_hex

_CORRECTIONS: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MISSPELT, INCOMPLETE = _CORRECTIONS["misspelt"], _CORRECTIONS["incomplete"]


def corrected_name(name: str) -> str:
    """A category's name as the text of its boxes.

    Lower case, so that "Person" here and "person" in COCO are one concept; misspellings corrected; ``cabinet/shelf`` becomes
    "cabinet or shelf": each alternative alone would be false for some of the boxes, and the text encoder reads words.
    """
    plain = re.sub(r"\s+", " ", name.replace("_", " ")).strip().lower()
    plain = {**MISSPELT, **INCOMPLETE}.get(plain, plain)
    return " or ".join(part.strip() for part in plain.split("/"))


@dataclass(frozen=True, kw_only=True)
class Objects365(Coco):
    """A `pipelines.sources.source.BoxedSource` of supervision detection; see `corrected_name` for its names.

    File names hold folders (``images/v1/patch8/objects365_v1_00420917.jpg``): ``images`` may be the folder at any of them.
    A crowd (``iscrowd``: one box around many) is dropped.
    """

    name: str = "objects365"
    name_of: ClassVar[NameOf] = staticmethod(corrected_name)

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "names_sha256": sha256_hex(canonical_json([MISSPELT, INCOMPLETE, "or"]))}
