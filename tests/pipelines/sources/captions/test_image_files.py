"""Endings of images, and files that are not the user's."""

import io

import pytest
from PIL import Image

from pipelines.fetch.image_resizer import ImageResizer
from pipelines.sources.captions.image_files import IMAGE_ENDINGS, ending_of, is_hidden


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_what_has_one_of_the_endings_is_decoded(ending: str) -> None:
    Image.init()
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, format=Image.registered_extensions()[f".{ending}"])
    stored = ImageResizer()(buffer.getvalue())
    assert (stored.width, stored.height) == (40, 30)


@pytest.mark.parametrize(("name", "ending"), [("a.JPG", "jpg"), ("a.b/c", ""), ("22.04.png", "png"), ("a.", "")])
def test_ending(name: str, ending: str) -> None:
    assert ending_of(name) == ending


@pytest.mark.parametrize(
    ("name", "wanted"), [("a/._1.jpg", True), ("__MACOSX/1.jpg", True), ("a/.DS_Store", True), (".a/1.jpg", False)]
)
def test_hidden(name: str, wanted: bool) -> None:
    assert is_hidden(name) == wanted
