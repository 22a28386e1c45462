"""Object categories of the scenes: a fixed, curated list of things that Twemoji draws and that English names in one or two words.

Base concepts have boxes in the detection and grounding scenes; novel ones occur in the captions of the image-text pairs
only, so that whatever a detector knows of them it learnt from image-text pairs. No word of a novel name is a word of a base
name (a box of "hot dog" would otherwise tell where a "dog" is), no two images are near twins, and both splits cover every
theme.
"""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A thing with a name, an image and a definition."""

    name: str  # singular, lower case
    character: str  # the emoji whose Twemoji image shows it
    definition: str  # for LVIS's `def` and for concept enrichment
    split: str  # base or novel


with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    CONCEPTS = tuple(
        Concept(name=row["name"], character=row["character"], definition=row["definition"], split=row["split"])
        for row in csv.DictReader(_file)
    )
BASE_NAMES = tuple(concept.name for concept in CONCEPTS if concept.split == "base")
NOVEL_NAMES = tuple(concept.name for concept in CONCEPTS if concept.split == "novel")
