"""The training sample: two members of a WebDataset shard, ``<key>.jpg`` and ``<key>.json``, the latter as below."""

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

Supervision = Literal["detection", "grounding", "image_text"]


class CaptionPhrases(BaseModel, frozen=True, extra="forbid"):
    """A caption with its distinct noun phrases."""

    caption: str
    concepts: list[str]


class TrainingSample(BaseModel, frozen=True, extra="forbid"):
    """Annotation of one image (the triplet of section 3.1 of arXiv:2304.04514, less the negatives).

    ``concepts`` are the distinct texts of the sample: category names (detection), annotated phrases (grounding) or noun
    phrases of the caption (image-text). ``labels[i]`` is the index into ``concepts`` of box ``i``. Boxes are in pixels of the
    stored image and lie inside it.

    An image with several captions is one sample: ``caption`` and ``concepts`` are its first, and each epoch draws one of all.
    Where there are no others, the JSON has no field ``other_captions``, so that it has the bytes of version 1.
    """

    supervision: Supervision
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    concepts: list[str]
    boxes_xyxy: list[tuple[float, float, float, float]] = Field(default_factory=list)
    labels: list[int] = Field(default_factory=list)
    caption: str | None = None
    other_captions: list[CaptionPhrases] = Field(default_factory=list, exclude_if=lambda others: not others)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.boxes_xyxy) != len(self.labels):
            raise ValueError(f"{len(self.boxes_xyxy)} boxes but {len(self.labels)} labels")
        if any(not 0 <= label < len(self.concepts) for label in self.labels):
            raise ValueError("a label is not an index into concepts")
        for x1, y1, x2, y2 in self.boxes_xyxy:
            if not (0 <= x1 < x2 <= self.width and 0 <= y1 < y2 <= self.height):
                raise ValueError(f"box {(x1, y1, x2, y2)} is empty or outside the {self.width}x{self.height} image")
        if self.supervision == "image_text" and (self.caption is None or self.boxes_xyxy):
            raise ValueError("an image-text sample has a caption and no boxes")
        if self.other_captions and self.supervision != "image_text":
            raise ValueError("other captions are for image-text samples alone")
        return self
