"""Captions as the web has them: mostly English about the image; some empty, foreign, a file name, or about something else."""

import html
import tomllib
from collections import Counter
from pathlib import Path
from random import Random

from pipelines.sources.emoji_scenes.phrases import counted, enumerated

CAPTION_SHARES = {
    "described": 0.82,  # usable English
    "mixed_language": 0.03,  # a foreign sentence with English names
    "foreign": 0.05,
    "empty": 0.03,
    "file_name": 0.03,
    "mismatch": 0.04,  # English, about something else
}
MENTION_SHARE = 0.85  # each concept of an image is mentioned with this probability, at least one always

# Templates and whole captions, by sort.
_TEXTS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def describe(names: list[str], rng: Random) -> str:
    """A usable English caption that mentions a subset of the objects, each concept once."""
    counts = Counter(names)
    mentioned = [name for name in counts if rng.random() < MENTION_SHARE] or [rng.choice(names)]
    rng.shuffle(mentioned)
    style = rng.random()
    template = rng.choice(_TEXTS["prose"] if style < 0.78 else _TEXTS["lists"] if style < 0.96 else _TEXTS["hashtags"])
    qualified = [f"{rng.choice(_TEXTS['modifiers'])} {name}" if rng.random() < 0.06 else name for name in mentioned]
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


def caption(kind: str, *, names: list[str], other_names: list[str], rng: Random) -> str:
    """The caption of an image of the concepts ``names``, one an object; half of the mismatches describe ``other_names``."""
    if kind == "described":
        return describe(names, rng)
    if kind == "mixed_language":
        return rng.choice(_TEXTS["mixed"]).format(names=", ".join(dict.fromkeys(names)))
    if kind == "foreign":
        return rng.choice(_TEXTS["foreign"])
    if kind == "file_name":
        return rng.choice(_TEXTS["file_names"]).format(rng.randint(1000, 9999))
    if kind == "mismatch":
        return describe(other_names, rng) if rng.random() < 0.5 else rng.choice(_TEXTS["unrelated"])
    return ""
