"""Detections as JSON: what ``detclip predict --out x.json`` writes and what evaluation reads (the LVIS results format)."""

from pydantic import BaseModel


class LvisDetection(BaseModel, frozen=True, extra="forbid"):
    """One row of an LVIS results file; ``bbox`` is x, y, width, height in pixels of the original image."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
