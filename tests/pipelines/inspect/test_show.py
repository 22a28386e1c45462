"""What a contact sheet shows."""

import numpy as np
import pytest
from PIL import Image

from pipelines.inspect.built_dataset import BuiltDataset
from pipelines.inspect.samples import draw_dropped, draw_samples
from pipelines.inspect.show import (
    BLUE,
    CELL_WIDTH_PX,
    GREY,
    IMAGE_HEIGHT_PX,
    INK,
    MARGIN_PX,
    PALETTE,
    contact_sheet,
    dropped_cell,
    font,
    sample_cell,
    wrapped,
)


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(image, dtype=int) - colour).max(axis=-1) < 12).sum())


def test_samples_are_drawn_without_repetition_and_by_seed(dataset: BuiltDataset) -> None:
    every = draw_samples(dataset, "image_text", num=99, seed=0)
    assert [sample.key for sample in every] == ["a1", "b1", "b2"]
    assert [sample.annotation.caption for sample in every] == ["a red square", "a blue square", "a black square"]
    two = [[sample.key for sample in draw_samples(dataset, "image_text", num=2, seed=seed)] for seed in range(8)]
    assert all(len(set(keys)) == 2 for keys in two)
    assert len(set(map(tuple, two))) > 1
    assert two[3] == [sample.key for sample in draw_samples(dataset, "image_text", num=2, seed=3)]


def test_an_unknown_supervision(dataset: BuiltDataset) -> None:
    with pytest.raises(ValueError, match="--supervision grounding: dataset small has detection, image_text"):
        draw_samples(dataset, "grounding", num=1, seed=0)


def test_dropped_rows_with_and_without_image(dataset: BuiltDataset) -> None:
    short = draw_dropped(dataset, "caption_too_short", num=9, seed=0)
    assert (short.total, [(row.key, row.asset) for row in short.rows]) == (1, [("a2", "filtered")])
    assert short.rows[0].jpeg.startswith(b"\xff\xd8")
    gone = draw_dropped(dataset, "http_404", num=9, seed=0)
    assert [(row.url, row.jpeg) for row in gone.rows] == [("http://web.test/a3.jpg", None)]


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (
            "nope",
            r"--dropped nope: nothing was dropped for it; reasons are box_empty 3, caption_too_short 1, crowd 1, http_404 1",
        ),
        ("box_empty", "--dropped box_empty: it was counted 3 times, but nothing was kept to show"),
    ],
)
def test_a_reason_without_rows(dataset: BuiltDataset, reason: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_dropped(dataset, reason, num=1, seed=0)


def test_cells(dataset: BuiltDataset) -> None:
    pairs = [sample_cell(sample) for sample in draw_samples(dataset, "image_text", num=3, seed=0)]
    assert [cell.texts for cell in pairs] == [
        (("a red square", INK), ("red square · square", BLUE)),
        (("a blue square", INK), ("square", BLUE)),
        (("a black square", INK), ("no phrase", GREY)),
    ]
    assert pairs[0].image.size == (CELL_WIDTH_PX, IMAGE_HEIGHT_PX)
    boxed = [sample_cell(sample) for sample in draw_samples(dataset, "detection", num=3, seed=0)]
    assert boxed[2].texts == (("2 boxes: dot, square", GREY),)
    assert [count(cell.image, PALETTE[0]) > 100 for cell in boxed] == [False, True, True]
    assert [count(cell.image, PALETTE[1]) > 100 for cell in boxed] == [False, False, True]


def test_each_caption_of_an_image_is_shown_with_its_phrases(captions_dataset: BuiltDataset) -> None:
    samples = draw_samples(captions_dataset, "image_text", num=2, seed=0)
    texts = sorted((sample_cell(sample).texts for sample in samples), key=len)
    assert texts[0] == (("a dog on the beach", INK), ("dog · beach", BLUE))
    assert set(zip(texts[1][::2], texts[1][1::2], strict=True)) == {
        (("a cat on a wooden table", INK), ("cat · wooden table", BLUE)),
        (("a tabby beside a blue vase", INK), ("tabby · blue vase", BLUE)),
        (("a pet in the kitchen", INK), ("pet · kitchen", BLUE)),
    }


def test_boxes_are_drawn_where_they_lie(dataset: BuiltDataset) -> None:
    cell = sample_cell(draw_samples(dataset, "detection", num=3, seed=0)[2])  # boxes (0, 0, 10, 10), (5, 5, 40, 30), 8x
    pixels = np.asarray(cell.image)

    for x, y in ((20, 79), (79, 60)):  # the lower and the right edge of the first
        assert pixels[y, x].tolist() == list(PALETTE[0])
    for x, y in ((300, 239), (319, 150)):
        assert pixels[y, x].tolist() == list(PALETTE[1])


def test_a_sheet(dataset: BuiltDataset) -> None:
    cells = [sample_cell(sample) for sample in draw_samples(dataset, "image_text", num=3, seed=0)]
    sheet = contact_sheet(cells, title="three", num_columns=2)

    assert sheet.width == 3 * (CELL_WIDTH_PX + MARGIN_PX) + MARGIN_PX
    assert sheet.height > 2 * IMAGE_HEIGHT_PX
    for colour in ((254, 0, 0), (0, 0, 254), (0, 0, 0)):
        assert count(sheet, colour) >= CELL_WIDTH_PX * IMAGE_HEIGHT_PX
    text_alone = contact_sheet([dropped_cell(draw_dropped(dataset, "http_404", num=1, seed=0).rows[0])], title="gone")
    assert text_alone.height < IMAGE_HEIGHT_PX


def test_text_is_wrapped() -> None:
    small = font(12)
    lines = wrapped("one two three four five six seven eight", font=small, width_px=80, max_lines=9)
    assert " ".join(lines) == "one two three four five six seven eight"
    assert len(lines) > 3 and all(small.getlength(line) <= 80 for line in lines)
    cut = wrapped("one two three four five six seven eight", font=small, width_px=80, max_lines=2)
    assert len(cut) == 2 and cut[0] == lines[0] and cut[1].endswith("…")
    assert all(small.getlength(line) <= 80 for line in cut)
    broken = wrapped("http://" + "x" * 60, font=small, width_px=80, max_lines=20)
    assert "".join(broken) == "http://" + "x" * 60
    assert wrapped("", font=small, width_px=80, max_lines=2) == [""]
