"""Endings of images, and files that are not the user's."""

import pytest
from PIL import Image

from pipelines.fetch.image_resizer import FORMATS
from pipelines.sources.captions.image_files import IMAGE_ENDINGS, ending_of, is_hidden


def test_the_endings_are_those_of_what_is_decoded() -> None:
    Image.init()
    formats = {ending: Image.registered_extensions()[f".{ending}"] for ending in IMAGE_ENDINGS}
    assert set(formats.values()) <= set(FORMATS)
    assert set(FORMATS) <= set(formats.values())


@pytest.mark.parametrize(("name", "ending"), [("a.JPG", "jpg"), ("a.b/c", ""), ("22.04.png", "png"), ("a.", "")])
def test_ending(name: str, ending: str) -> None:
    assert ending_of(name) == ending


@pytest.mark.parametrize(
    ("name", "wanted"), [("a/._1.jpg", True), ("__MACOSX/1.jpg", True), ("a/.DS_Store", True), (".a/1.jpg", False)]
)
def test_hidden(name: str, wanted: bool) -> None:
    assert is_hidden(name) == wanted
