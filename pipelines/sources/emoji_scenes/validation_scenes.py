"""The validation set: scenes of base and novel concepts alike, every category about equally often, in LVIS v1 format."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import emoji

from pipelines.sources.boxes.lvis_format import LvisCategory, LvisImage, NamedBox, lvis_annotations
from pipelines.sources.emoji_scenes.emoji_concepts import CONCEPTS, Concept
from pipelines.sources.emoji_scenes.render import SceneSource, compose
from pipelines.sources.source import ResizeAll, ValidationCounts, resize_here
from schemas.manifest import canonical_json

NUM_NEGATIVES = 10
_OBJECTS_IN_TURN = (2, 3, 4, 5)  # of image i: entry i modulo 4
_REPEAT_SHARE = 0.2  # of the images: one more object of the first one's concept
_NOT_EXHAUSTIVE_SHARE = 0.3  # of the categories with several objects in an image: one of them loses its box


@dataclass(frozen=True, kw_only=True)
class ValidationScenes(SceneSource):
    """A :class:`~pipelines.sources.source.ValidationSource`; its scenes are never those of training."""

    num_images: int

    name: ClassVar[str] = "emoji_scenes_validation"

    @property
    def config(self) -> dict[str, Any]:
        """What the set depends on, JSON values."""
        return {**super().config, "num_images": self.num_images}

    def write(
        self, folder: Path, *, train_image_counts: dict[str, int], resize_all: ResizeAll = resize_here
    ) -> ValidationCounts:
        """Write ``annotations.json`` and ``images/``; see :class:`~pipelines.sources.source.ValidationSource`."""
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        entries = [self._write_image(index, images) for index in range(self.num_images)]
        annotations = lvis_annotations(
            entries,
            categories=[_category(concept) for concept in CONCEPTS],
            train_image_counts=train_image_counts,
            description="emoji_scenes validation; graphics: Twemoji, CC BY 4.0",
        )
        (folder / "annotations.json").write_text(canonical_json(annotations) + "\n")
        return ValidationCounts(num_images=len(entries), num_boxes=sum(len(entry.boxes) for entry in entries))

    def _write_image(self, index: int, images: Path) -> LvisImage:
        rng = Random(f"{self.seed}/validation/{index}")
        names = self._dealt_names(index)
        if rng.random() < _REPEAT_SHARE:
            names.append(names[0])
        scene = compose(names, rng, size_px=self.image_size_px)
        file_name = f"{index + 1:012d}.jpg"
        (images / file_name).write_bytes(scene.jpeg)

        boxes = [NamedBox(name=placed.name, box_xyxy=placed.box_xyxy) for placed in scene.objects]
        not_exhaustive = []
        for name, count in Counter(box.name for box in boxes).items():
            if count > 1 and rng.random() < _NOT_EXHAUSTIVE_SHARE:
                not_exhaustive.append(name)
                boxes.remove(next(box for box in boxes if box.name == name))
        absent = [concept.name for concept in CONCEPTS if concept.name not in names]
        return LvisImage(
            file_name=file_name,
            width=self.image_size_px,
            height=self.image_size_px,
            boxes=boxes,
            negatives=rng.sample(absent, NUM_NEGATIVES),
            not_exhaustive=not_exhaustive,
        )

    def _dealt_names(self, index: int) -> list[str]:
        """Concepts are dealt from shuffled decks of all of them, so that each comes once before any comes again."""
        rounds, turn = divmod(index, len(_OBJECTS_IN_TURN))
        first = rounds * sum(_OBJECTS_IN_TURN) + sum(_OBJECTS_IN_TURN[:turn])
        return [self._dealt_name(card) for card in range(first, first + _OBJECTS_IN_TURN[turn])]

    def _dealt_name(self, card: int) -> str:
        deck, position = divmod(card, len(CONCEPTS))
        return Random(f"{self.seed}/validation-deck/{deck}").sample(CONCEPTS, len(CONCEPTS))[position].name


def _category(concept: Concept) -> LvisCategory:
    """Synonyms are the concept's name and the emoji's own English name and aliases."""
    entry = emoji.EMOJI_DATA[concept.character]
    aliases = (alias.strip(":").replace("_", " ") for alias in (entry["en"], *entry.get("alias", ())))
    return LvisCategory(
        name=concept.name, definition=concept.definition, synonyms=tuple(dict.fromkeys((concept.name, *aliases)))
    )
