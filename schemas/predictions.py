"""Detections as JSON: what ``detclip predict --out x.json`` writes and what evaluation reads (the LVIS results format)."""

from pydantic import BaseModel, ConfigDict


class LvisDetection(BaseModel):
    """One row of an LVIS results file; ``bbox`` is x, y, width, height in pixels of the original image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
