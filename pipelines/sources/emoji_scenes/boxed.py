"""Detection and grounding scenes: emoji scenes with boxes.

They show base concepts only, as open-vocabulary benchmarks filter their training images: a novel object without a box
would teach the detector that it is background.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from pipelines.sources.emoji_scenes.emoji_concepts import BASE_NAMES, draw_base
from pipelines.sources.emoji_scenes.phrases import ObjectPhrase, category_phrases, enumerated, grounding_phrases
from pipelines.sources.emoji_scenes.render import Scene, SceneSource, compose
from pipelines.sources.source import ResizeAll, resize_here
from schemas.source_images import BoxedImage
from schemas.training import TrainingSample


@dataclass(frozen=True, kw_only=True)
class BoxedScenes(SceneSource):
    """A :class:`~pipelines.sources.source.BoxedSource`; more images only append to fewer."""

    supervision: Literal["detection", "grounding"]
    num_images: int

    @property
    def name(self) -> str:
        return f"emoji_scenes_{self.supervision}"

    @property
    def config(self) -> dict[str, Any]:
        """What an image depends on; the number of images is not part of it."""
        return {**super().config, "supervision": self.supervision}

    def __len__(self) -> int:
        return self.num_images

    def vocabulary(self) -> list[str]:
        """All base concepts, or the distinct phrases of the images (for which every scene is laid out, some 2 ms each)."""
        if self.supervision == "detection":
            return sorted(BASE_NAMES)
        return sorted({p.phrase for index in range(len(self)) for p in self._scene_and_phrases(index)[1]})

    def read(self, start: int, stop: int, *, resize_all: ResizeAll = resize_here) -> Iterator[BoxedImage]:
        """The images of the positions ``start`` to ``stop``, the latter excluded; they are drawn, so none is decoded."""
        for index in range(start, min(stop, len(self))):
            scene, phrases = self._scene_and_phrases(index)
            label_of = {i: label for label, phrase in enumerate(phrases) for i in phrase.indices}
            sample = TrainingSample(
                supervision=self.supervision,
                width=self.image_size_px,
                height=self.image_size_px,
                concepts=[phrase.phrase for phrase in phrases],
                boxes_xyxy=[placed.box_xyxy for placed in scene.objects],
                labels=[label_of[i] for i in range(len(scene.objects))],
                caption=enumerated([p.with_determiner for p in phrases]) if self.supervision == "grounding" else None,
            )
            yield BoxedImage(key=f"{self.name}_{index:08d}", jpeg=scene.jpeg, sample=sample, dropped_boxes={})

    def _scene_and_phrases(self, index: int) -> tuple[Scene, list[ObjectPhrase]]:
        rng = Random(f"{self.seed}/{self.supervision}/{index}")
        scene = compose(draw_base(rng), rng, size_px=self.image_size_px)
        if self.supervision == "grounding":
            return scene, grounding_phrases(scene.objects, rng, size_px=self.image_size_px)
        return scene, category_phrases(scene.objects)
