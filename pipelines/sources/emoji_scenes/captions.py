"""Captions as the web has them: mostly English about the image; some empty, foreign, a file name, or about something else."""

import html
from collections import Counter
from random import Random
from typing import Literal

from pipelines.sources.emoji_scenes.phrases import counted, enumerated

CaptionKind = Literal["described", "mixed_language", "foreign", "empty", "file_name", "mismatch"]
CAPTION_SHARES: dict[CaptionKind, float] = {
    "described": 0.82,  # usable English
    "mixed_language": 0.03,  # a foreign sentence with English names
    "foreign": 0.05,
    "empty": 0.03,
    "file_name": 0.03,
    "mismatch": 0.04,  # English, about something else
}
MENTION_SHARE = 0.85  # each concept of an image is mentioned with this probability, at least one always

# {all} becomes "a guitar, an owl and two taxis"; {names} "guitar, owl, taxi"; {title} "Guitar And Owl"; {tags} "#guitar #owl".
_PROSE = (
    "a photo of {all}",
    "there is {all} in this picture",
    "photo of {all} on a blue background",
    "a drawing that shows {all}",
    "here is {all}",
    "we found {all} at the flea market",
    "my kids drew {all} today",
    "a picture with {all}",
    "cartoon of {all} for children",
    "look at {all}!",
    "illustration of {all}, free download",
    "this image contains {all}",
    "{all}",
    "{all} in a colorful scene",
    "{all} on a white background.",
)
_LISTS = (
    "{names}",
    "{names} - buy prints online",
    "{names} | free stock photo",
    "{names}, clip art, vector",
    "{title} - Wall Art Print 30x40 cm",
    "Stickers: {names}",
)
_HASHTAGS = ("{tags} cute", "{tags} #drawing #instaart", "so cute {tags}")
_MIXED = (
    "kostenloses Foto: {names}",
    "Aufkleber mit {names} für Kinder, jetzt günstig kaufen",
    "dibujo de {names} para imprimir gratis",
    "foto de {names}, descarga gratuita",
    "dessin de {names} à colorier pour les enfants",
    "{names} の無料イラスト素材",
)
_FOREIGN = (
    "Schöne Bilder für das Kinderzimmer, jetzt günstig online bestellen",
    "Hochwertige Aufkleber in vielen Farben und Größen",
    "Das Bild zeigt mehrere Gegenstände auf buntem Hintergrund",
    "Bonitos dibujos para imprimir y colorear con los niños",
    "Imágenes gratis de alta calidad para tu proyecto",
    "Una ilustración muy alegre con muchos colores",
    "De jolis autocollants pour décorer la chambre des enfants",
    "Une belle image à télécharger gratuitement",
    "Affiche murale pour le salon, livraison offerte",
    "かわいいイラストの無料素材、商用利用もできます",
    "子供部屋に飾るポスターとステッカーのセット",
    "カラフルな背景の絵文字の写真",
)
_FILE_NAMES = ("IMG_{0}.JPG", "DSC0{0}.jpg", "image-{0}.png", "2019{0}_101523.jpg", "Screenshot_{0}.png", "P{0}57.JPG")
_UNRELATED = (
    "our team at the annual meeting in 2019",
    "how to save money on your next holiday",
    "the view from the hotel window at night",
    "click here to see the full size image",
    "bride and groom on their wedding day",
    "football player celebrates after the match",
    "the best restaurants in the old town",
    "share of households with internet access, by year",
)
_MODIFIERS = ("small", "big", "cute", "colorful", "little")


def describe(names: list[str], rng: Random) -> str:
    """A usable English caption that mentions a subset of the objects, each concept once."""
    counts = Counter(names)
    mentioned = [name for name in counts if rng.random() < MENTION_SHARE] or [rng.choice(names)]
    rng.shuffle(mentioned)
    style = rng.random()
    template = rng.choice(_PROSE if style < 0.78 else _LISTS if style < 0.96 else _HASHTAGS)
    qualified = [f"{rng.choice(_MODIFIERS)} {name}" if rng.random() < 0.06 else name for name in mentioned]
    caption = template.format(
        all=enumerated([counted(q, counts[n]) for q, n in zip(qualified, mentioned, strict=True)]),
        names=", ".join(qualified),
        title=" And ".join(q.title() for q in qualified),
        tags=" ".join(f"#{name.replace(' ', '')}" for name in mentioned),
    )
    return _add_noise(caption, rng)


def _add_noise(caption: str, rng: Random) -> str:
    """Now and then what careless pages do to an alt-text: capitals, HTML entities, sizes, white space."""
    draw = rng.random()
    if draw < 0.03:
        return caption.upper()
    if draw < 0.06:
        return f"&quot;{html.escape(caption.replace(' and ', ' & '))}&quot;"
    if draw < 0.08:
        return f"{caption} (1024×768)"
    if draw < 0.10:
        return f"  {caption.replace(', ', ',  ')}\n"
    return caption[0].upper() + caption[1:] if draw < 0.5 else caption


def caption(kind: CaptionKind, *, names: list[str], other_names: list[str], rng: Random) -> str:
    """The caption of an image.

    Args:
        kind: what sort of caption.
        names: concepts of the image, one an object.
        other_names: concepts of another image, which half of the mismatches describe.
        rng: where everything is drawn from.
    """
    if kind == "described":
        return describe(names, rng)
    if kind == "mixed_language":
        return rng.choice(_MIXED).format(names=", ".join(dict.fromkeys(names)))
    if kind == "foreign":
        return rng.choice(_FOREIGN)
    if kind == "file_name":
        return rng.choice(_FILE_NAMES).format(rng.randint(1000, 9999))
    if kind == "mismatch":
        return describe(other_names, rng) if rng.random() < 0.5 else rng.choice(_UNRELATED)
    return ""
