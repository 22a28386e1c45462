"""LVIS v1 for training: COCO's pictures with boxes of 1,203 categories."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.sources.coco import Coco
from pipelines.sources.picture_index import PictureIndex


@dataclass(frozen=True, kw_only=True)
class Lvis(Coco):
    """A `pipelines.sources.source.BoxedSource` of supervision detection.

    Underscores in names become spaces. A picture's file is found by ``coco_url``, with or without its folder (``train2017``,
    ``val2017``). LVIS is federated: ``neg_category_ids`` and ``not_exhaustive_category_ids`` say what is verified of a
    picture. A training sample has no place for either (training takes what is not boxed for absent); `CocoValidation` keeps both.
    """

    name: ClassVar[str] = "lvis"

    def read_index(self) -> PictureIndex:
        if any(picture.absent is None for picture in self.coco.pictures):
            raise ValueError(f"{self.annotations} is no LVIS JSON: an image has no 'neg_category_ids'; read it as COCO")
        return super().read_index()
