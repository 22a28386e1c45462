"""Text and JSON files of sources with boxes, read with errors that name the file, and JPEGs to store."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image


def read_text(path: Path) -> str:
    """The content of an annotation file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def parse_json(text: str, *, path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def encode_jpeg(image: Image.Image, *, quality: int) -> bytes:
    """JPEG bytes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
