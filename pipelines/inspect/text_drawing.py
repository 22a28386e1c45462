"""Text drawing on images: fonts, line breaks, tags."""

from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]


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


def draw_tag(
    draw: ImageDraw.ImageDraw,
    text: str,
    *,
    at: tuple[float, float],
    font: ImageFont.FreeTypeFont,
    colour: Colour,
    within: tuple[int, int],
) -> None:
    """White text on a coloured ground whose lower left corner is ``at``, moved so that all lies within (width, height)."""
    pad = 3
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0.0, min(at[0], within[0] - width))
    y = max(0.0, min(at[1] - height, within[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pad - left, y + pad - top), text, font=font, fill="white")
