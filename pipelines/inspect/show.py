"""Contact sheet: images with their boxes, names, phrases and captions, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from detclipv2.image_decoding import decode_rgb
from pipelines.inspect.samples import DroppedRow, ShownSample
from schemas.training import TrainingSample

Colour = tuple[int, int, int]

CELL_WIDTH_PX, IMAGE_HEIGHT_PX, MARGIN_PX = 320, 240, 16
MIN_COLUMNS = 3  # so that a title fits
TITLE_PX, CAPTION_PX, SMALL_PX = 24, 14, 12
MAX_CAPTION_LINES, MAX_PHRASE_LINES = 3, 2
INK, GREY, PAPER, GROUND, BLUE = (23, 23, 23), (110, 110, 110), (250, 250, 249), (231, 229, 228), (29, 78, 216)
# Dark enough for white text, and told apart by people who do not see all colours (after Okabe and Ito).
PALETTE: tuple[Colour, ...] = ((0, 92, 153), (176, 72, 0), (0, 120, 90), (150, 70, 120), (40, 40, 40), (120, 90, 0))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An image (None: there is none) and the texts below it: (text, colour) each."""

    image: Image.Image | None
    texts: tuple[tuple[str, Colour], ...]


def sample_cell(sample: ShownSample) -> Cell:
    """An image with its boxes, and below it each caption with its phrases, or the names."""
    annotation = sample.annotation
    image, scale = _fitted(sample.jpeg)
    texts = [] if annotation.caption is None else [(annotation.caption, INK)]
    if annotation.labels:
        _draw_boxes(image, annotation, scale=scale)
    without_box = [text for i, text in enumerate(annotation.concepts) if i not in annotation.labels]
    if without_box:
        texts.append((" · ".join(without_box), BLUE))
    elif not annotation.concepts:
        texts.append(("no phrase", GREY))
    if annotation.labels:
        names = [annotation.concepts[label] for label in annotation.labels]
        texts.append((f"{len(names)} boxes: {', '.join(dict.fromkeys(names))}", GREY))
    for other in annotation.other_captions:
        phrases = (" · ".join(other.concepts), BLUE) if other.concepts else ("no phrase", GREY)
        texts += [(other.caption, INK), phrases]
    return Cell(image=image, texts=tuple(texts))


def dropped_cell(row: DroppedRow) -> Cell:
    """The image of a dropped pair where there is one, its caption and its URL."""
    image = None if row.jpeg is None else _fitted(row.jpeg)[0]
    return Cell(image=image, texts=((row.caption or "(no caption)", INK), (row.url, GREY)))


def contact_sheet(cells: Sequence[Cell], *, title: str, num_columns: int = 6) -> Image.Image:
    """Cells in rows under a title; a row is as high as its highest cell, and rows without any image hold text alone."""
    rows = [cells[i : i + num_columns] for i in range(0, len(cells), num_columns)]
    image_heights = [IMAGE_HEIGHT_PX if any(cell.image for cell in row) else 0 for row in rows]
    heights = [top + max(map(_text_height, row)) for top, row in zip(image_heights, rows, strict=True)]
    width = max(MIN_COLUMNS, min(num_columns, len(cells))) * (CELL_WIDTH_PX + MARGIN_PX) + MARGIN_PX
    head = TITLE_PX + 2 * MARGIN_PX
    sheet = Image.new("RGB", (width, head + sum(heights) + len(rows) * MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX), title, font=font(TITLE_PX, weight="bold"), fill=INK)
    top = head
    for row, image_height, height in zip(rows, image_heights, heights, strict=True):
        for column, cell in enumerate(row):
            left = MARGIN_PX + column * (CELL_WIDTH_PX + MARGIN_PX)
            if image_height:
                _paste(sheet, draw, cell.image, left=left, top=top)
            y = top + image_height + MARGIN_PX // 2
            for text, colour, size_px in _lines(cell):
                draw.text((left, y), text, font=font(size_px), fill=colour)
                y += _line_height(size_px)
        top += height + MARGIN_PX
    return sheet


@cache
def font(size_px: int, *, weight: str = "regular") -> ImageFont.FreeTypeFont:
    """A font with the letters of most alphabets, which matplotlib carries."""
    name = {"regular": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf"}[weight]
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size_px)


def wrapped(text: str, *, font: ImageFont.FreeTypeFont, width_px: int, max_lines: int) -> list[str]:
    """The text in lines that fit, broken between words where it can be; the last line tells by an ellipsis that more follows."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width_px:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while font.getlength(word) > width_px:
            fitting = next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width_px)
            lines[-1], word = word[:fitting], word[fitting:]
            lines.append("")
        lines[-1] = word
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    while last and font.getlength(f"{last}…") > width_px:
        last = last[:-1]
    return [*lines[: max_lines - 1], f"{last.rstrip()}…"]


def _fitted(jpeg: bytes) -> tuple[Image.Image, float]:
    """An image as large as its place allows, and by how much it was enlarged."""
    image = decode_rgb(jpeg)
    fitted = ImageOps.contain(image, (CELL_WIDTH_PX, IMAGE_HEIGHT_PX), Image.Resampling.LANCZOS)
    return fitted, fitted.width / image.width


def _draw_boxes(image: Image.Image, annotation: TrainingSample, *, scale: float) -> None:
    draw = ImageDraw.Draw(image)
    boxes = [tuple(round(value * scale) for value in box) for box in annotation.boxes_xyxy]
    colours = [PALETTE[label % len(PALETTE)] for label in annotation.labels]
    for (x1, y1, x2, y2), colour in zip(boxes, colours, strict=True):
        extent = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(extent, outline="white", width=3)
        draw.rectangle(extent, outline=colour, width=2)
    for (x1, y1, _, _), label, colour in zip(boxes, annotation.labels, colours, strict=True):
        _draw_tag(draw, annotation.concepts[label], at=(x1, y1), colour=colour, within=image.size)


def _draw_tag(
    draw: ImageDraw.ImageDraw, text: str, *, at: tuple[float, float], colour: Colour, within: tuple[int, int]
) -> None:
    """White text on a coloured ground whose lower left corner is ``at``, moved so that all lies within (width, height)."""
    pad = 3
    left, top, right, bottom = font(SMALL_PX).getbbox(text)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0.0, min(at[0], within[0] - width))
    y = max(0.0, min(at[1] - height, within[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pad - left, y + pad - top), text, font=font(SMALL_PX), fill="white")


def _lines(cell: Cell) -> list[tuple[str, Colour, int]]:
    """Text, colour and size of every line below the image."""
    found = []
    for text, colour in cell.texts:
        size_px, max_lines = (CAPTION_PX, MAX_CAPTION_LINES) if colour == INK else (SMALL_PX, MAX_PHRASE_LINES)
        lines = wrapped(text, font=font(size_px), width_px=CELL_WIDTH_PX, max_lines=max_lines)
        found += [(line, colour, size_px) for line in lines]
    return found


def _text_height(cell: Cell) -> int:
    return sum(_line_height(size_px) for _, _, size_px in _lines(cell)) + MARGIN_PX // 2


def _line_height(size_px: int) -> int:
    return round(size_px * 1.4)


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image | None, *, left: int, top: int) -> None:
    """The image in the middle of its place, or what says that there is none."""
    draw.rectangle((left, top, left + CELL_WIDTH_PX - 1, top + IMAGE_HEIGHT_PX - 1), fill=GROUND)
    if image is None:
        middle = (left + CELL_WIDTH_PX / 2, top + IMAGE_HEIGHT_PX / 2)
        draw.text(middle, "no image", font=font(CAPTION_PX), fill=GREY, anchor="mm")
    else:
        x, y = left + (CELL_WIDTH_PX - image.width) // 2, top + (IMAGE_HEIGHT_PX - image.height) // 2
        sheet.paste(image, (x, y))
