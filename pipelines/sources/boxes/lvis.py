"""LVIS v1 for training: COCO's images with boxes of 1,203 categories."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.sources.boxes.coco import Coco
from pipelines.sources.boxes.image_index import ImageIndex


@dataclass(frozen=True, kw_only=True)
class Lvis(Coco):
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    Underscores in names become spaces. An image's file is found by ``coco_url``, with or without its folder (``train2017``,
    ``val2017``). LVIS is federated: ``neg_category_ids`` and ``not_exhaustive_category_ids`` say what is verified of a
    image. A training sample has no place for either (training takes what is not boxed for absent); `CocoValidation` keeps both.
    """

    name: ClassVar[str] = "lvis"

    def read_index(self) -> ImageIndex:
        if any(image.absent is None for image in self.coco.images):
            raise ValueError(f"{self.annotations} is no LVIS JSON: an image has no 'neg_category_ids'; read it as COCO")
        return super().read_index()
