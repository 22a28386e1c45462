"""Drawing of detections on an image."""

from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw, ImageFont

from detclipv2.image_decoding import upright_rgb

MIN_LONG_SIDE_PX = 480  # smaller images are enlarged, or else their labels could not be read
SUPERSAMPLING = 2
ORDINARY, HIGHLIGHTED = (37, 99, 235), (219, 39, 119)  # RGB: blue, magenta; white text is legible on both

Box = tuple[float, float, float, float]  # x1, y1, x2, y2
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_detections(
    image: Image.Image,
    boxes_xyxy: Sequence[Sequence[float]],
    labels: Sequence[str],
    scores: Sequence[float],
    *,
    highlight: Collection[str] = (),
) -> Image.Image:
    """A new RGB image with the boxes, their labels and scores; small images come back enlarged.

    Args:
        image: of any mode; it is left as it is, and drawn upright.
        boxes_xyxy: N boxes x1, y1, x2, y2 in pixels of ``image`` turned upright.
        labels: N texts.
        scores: N numbers in [0, 1].
        highlight: labels to draw in another colour and with a diamond (say, concepts that no training box showed).

    Raises:
        ValueError: the numbers of boxes, labels and scores differ, or the image cannot be read.
    """
    if not len(boxes_xyxy) == len(labels) == len(scores):
        raise ValueError(
            f"{len(boxes_xyxy)} boxes, {len(labels)} labels and {len(scores)} scores: their numbers differ"
        )
    image = upright_rgb(image)
    scale = max(1.0, MIN_LONG_SIDE_PX / max(image.size))
    canvas = image.convert("RGBA").resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )
    overlay = Image.new("RGBA", (canvas.width * SUPERSAMPLING, canvas.height * SUPERSAMPLING))
    draw = ImageDraw.Draw(overlay)
    font = ImageFont.load_default(size=max(overlay.size) / 28)

    by_score = sorted(range(len(scores)), key=lambda index: float(scores[index]), reverse=True)
    boxes = [_scaled(box, scale * SUPERSAMPLING) for box in boxes_xyxy]
    for index in reversed(by_score):  # the best on top
        colour = HIGHLIGHTED if labels[index] in highlight else ORDINARY
        x1, y1, x2, y2 = boxes[index]
        inclusive = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(inclusive, outline=colour, width=max(overlay.size) // 190)
    taken: list[Box] = []
    for index in by_score:  # the best chooses its place first
        marked = labels[index] in highlight
        text = f"{labels[index]} {float(scores[index]):.2f}"
        taken.append(_draw_label(draw, text, boxes[index], font=font, size=overlay.size, marked=marked, taken=taken))
    return Image.alpha_composite(canvas, overlay.resize(canvas.size, Image.Resampling.BOX)).convert("RGB")


def _scaled(box: Sequence[float], scale: float) -> Box:
    x1, y1, x2, y2 = (float(value) * scale for value in box)
    return x1, y1, x2, y2


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: Box,
    *,
    font: Font,
    size: tuple[int, int],
    marked: bool,
    taken: Sequence[Box],
) -> Box:
    """Draw a label at the first free place around its box and return its rectangle."""
    image_width, image_height = size
    em = font.getbbox("x")[3]
    pad = em // 3
    marker_width = em if marked else 0
    width = marker_width + font.getlength(text) + 2 * pad
    height = em + 3 * pad
    x1, y1, x2, y2 = box
    places = [(x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2), (x1, y1), (x1, y2 - height)]
    inside = [
        (x, y) for x, y in places if x >= 0 and y >= 0 and x + width <= image_width and y + height <= image_height
    ]
    clamped = (max(0, min(x1, image_width - width)), max(0, min(y1 - height, image_height - height)))
    rectangles = [(x, y, x + width, y + height) for x, y in [*inside, clamped]]
    free = [rectangle for rectangle in rectangles if not any(_overlap(rectangle, other) for other in taken)]
    label = (free or rectangles)[0]
    draw.rectangle(label, fill=HIGHLIGHTED if marked else ORDINARY)
    left, top = label[0] + pad, label[1] + height / 2
    if marked:
        radius = em * 0.36
        centre = left + radius
        draw.polygon(
            [(centre - radius, top), (centre, top - radius), (centre + radius, top), (centre, top + radius)],
            fill="white",
        )
    draw.text((left + marker_width, top), text, font=font, fill="white", anchor="lm")
    return label


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
