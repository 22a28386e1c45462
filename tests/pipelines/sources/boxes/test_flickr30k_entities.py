"""Flickr30k Entities: a sample a sentence, the boxes of its entities."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.boxes.flickr30k_entities import Flickr30kEntities

SENTENCES = """[/EN#1/people A little girl] and [/EN#2/animals/other two dogs] in [/EN#3/scene the park] .
[/EN#1/people She] waves to [/EN#4/other somebody] .
A quiet [/EN#3/scene park] .
"""
ANNOTATION = """<annotation><filename>36979.jpg</filename><size><width>40</width><height>30</height></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>2</name><bndbox><xmin>11</xmin><ymin>3</ymin><xmax>15</xmax><ymax>9</ymax></bndbox></object>
<object><name>2</name><name>5</name><bndbox><xmin>21</xmin><ymin>3</ymin><xmax>25</xmax><ymax>9</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>
<object><name>4</name><scene>0</scene><nobndbox>1</nobndbox></object></annotation>"""


@pytest.fixture
def flickr(tmp_path: Path, noise: Callable[..., bytes]) -> Callable[..., Flickr30kEntities]:
    def write(sentences: str = SENTENCES, *, number: str = "36979", **options: Any) -> Flickr30kEntities:
        for folder in ("Sentences", "Annotations", "images"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "Sentences" / f"{number}.txt").write_text(sentences)
        (tmp_path / "Annotations" / f"{number}.xml").write_text(ANNOTATION)
        (tmp_path / "images" / f"{number}.jpg").write_bytes(noise())
        return Flickr30kEntities(entities=tmp_path, images=(tmp_path / "images",), **options)

    return write


def test_a_sentence_is_a_sample_with_the_boxes_of_its_entities(flickr: Callable[..., Flickr30kEntities]) -> None:
    source = flickr()
    first, second = source.read(0, 9)

    assert first.sample.caption == "A little girl and two dogs in the park ."
    assert first.sample.concepts == ["little girl", "two dogs"]
    assert first.sample.boxes_xyxy == [(0, 0, 10, 20), (10, 2, 15, 9), (20, 2, 25, 9)]
    assert (first.sample.labels, first.dropped_boxes) == ([0, 1, 1], {})
    assert (second.sample.caption, second.sample.labels) == ("She waves to somebody .", [])
    assert second.dropped_boxes == {"no_phrase": 1}
    assert (first.key, second.key) == ("000000036979-0", "000000036979-1")
    assert (source.supervision, source.vocabulary()) == ("grounding", ["little girl", "two dogs"])


def test_a_box_that_two_phrases_share_counts_once_a_phrase(flickr: Callable[..., Flickr30kEntities]) -> None:
    (image,) = flickr("[/EN#2/animals dogs] , [/EN#5/animals dogs] and [/EN#5/animals a puppy]").read(0, 9)
    assert image.sample.concepts == ["dogs", "puppy"]
    assert image.sample.boxes_xyxy == [(10, 2, 15, 9), (20, 2, 25, 9), (20, 2, 25, 9)]
    assert image.dropped_boxes == {"duplicate_box": 1, "no_phrase": 1}, "one box no sentence mentions"


def test_a_list_chooses_the_images(flickr: Callable[..., Flickr30kEntities], tmp_path: Path) -> None:
    for number in ("36979", "65567", "101"):
        flickr(number=number)
    (tmp_path / "train.txt").write_text("65567\n101\n")
    source = flickr(image_set=tmp_path / "train.txt")
    assert [image.key for image in source.read(0, 9)] == [
        "000000000101-0", "000000000101-1", "000000065567-0", "000000065567-1",
    ]  # fmt: skip


def test_errors_name_the_file(flickr: Callable[..., Flickr30kEntities], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"36979.txt: row 2 has a phrase that is not \[/EN#number/type words\]: 'a \[/E"
    ):
        len(flickr("a dog\na [/EN#x dog]"))
    (tmp_path / "list.txt").write_text("../secret")
    with pytest.raises(ValueError, match="list.txt: '../secret' is no number of an image"):
        len(flickr(image_set=tmp_path / "list.txt"))
    (tmp_path / "list2.txt").write_text("7")
    with pytest.raises(ValueError, match="7.txt cannot be read"):
        len(flickr(image_set=tmp_path / "list2.txt"))
    with pytest.raises(ValueError, match="Sentences names no image"):
        len(Flickr30kEntities(entities=tmp_path / "images", images=(tmp_path,)))
    with pytest.raises(ValueError, match="it has no sentences with a box"):
        len(flickr("no phrase here", max_side_px=64))
