"""Filters of image-text pairs by the size of the image and the text of the caption."""

import dataclasses
import html
import itertools
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.stages.database import connected
from schemas.tables import IMAGES, with_drop_reason

_WORDS = tomllib.loads(Path(__file__).with_name("word_lists.toml").read_text(encoding="utf-8"))
_FILE_NAME = (
    r"(?i)\S*\.(jpe?g|png|gif|webp|bmp|tiff?|svg)"
    r"|(img|dsc[nf]?|pict?|mvi|p|image|photo|screenshot|untitled)?[-_ ]*[\d_-]{3,}(\s*\(?\d+\)?)?"
)
_TAG = re.compile(r"</?(?:a|b|i|u|p|br|em|strong|span|div|font|small|sup|sub|h[1-6])\b[^<>]*>", re.IGNORECASE)
_FEW_CHARACTERS, _MAX_MARKS = 512, 30  # Unicode's stream-safe text has no more marks in a row
_PERSON = re.compile("<person>", re.IGNORECASE)  # what stands for a name in Conceptual 12M
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))


@dataclass(frozen=True, kw_only=True)
class Filters:
    """IMAGES to IMAGES: cleans captions, then drops rows by the first reason that applies, as listed below.

    Cleaning unescapes HTML entities, removes markup and invisible characters, composes Unicode (NFC), writes "person"
    for "<PERSON>" and makes every run of white space one space; ``key`` stays.

    The defaults are the basic filter of DataComp; `pipelines.stages.filter_presets` has those of other data sets. DetCLIPv2
    states no filter. What needs all rows at once, repeated captions, is counted by `Dedup`.

    Attributes:
        min_side_px: ``image_too_small`` below, of the shorter side as the server sent the image.
        max_aspect_ratio: ``image_too_wide`` above, of the longer over the shorter side; None: no limit.
        min_area_px, max_area_px: ``image_area_too_small`` below, ``image_area_too_large`` above, of width times height
            as the server sent the image; None: no limit.
        min_similarity: ``low_similarity`` below, of CLIP's cosine of image and caption as the source tells it; a pair without
            that score stays. None: no limit.
        max_unsafe: ``unsafe`` above, of the source's probability that an image is unsafe for work; a pair without that
            score stays. None: no limit.
        blocked_words: ``caption_blocked_word`` where one of these words, or sequences of words, stands in the caption:
            whole words, in any case. None unless a person names some: what to block depends on the use.
        min_words, min_chars: ``caption_too_short`` below.
        max_words, max_chars: ``caption_too_long`` above.
        min_letter_share: ``caption_low_alpha`` below, of letters among the characters that are not space.
        min_latin_share, min_ascii_share: ``caption_not_english`` below, of Latin and of plain ASCII letters among the
            letters. The same slug is given where the words of another language (``word_lists.toml``; a letter with an
            accent counts as one) outnumber the English ones: a cheap test, with no model, that lets short captions pass.

    ``caption_file_name`` has no threshold: the whole caption is a file name, or the name a camera gave.

    Raises:
        ValueError: a blocked word without a letter or digit, which would block what it does not say.
    """

    min_side_px: int = 200
    max_aspect_ratio: float | None = 3.0
    min_area_px: int | None = None
    max_area_px: int | None = None
    min_similarity: float | None = None
    max_unsafe: float | None = None
    blocked_words: tuple[str, ...] = ()
    min_words: int = 2
    min_chars: int = 6
    max_words: int = 64
    max_chars: int = 512
    min_letter_share: float = 0.5
    min_latin_share: float = 0.95
    min_ascii_share: float = 0.8

    name: ClassVar[str] = "filters"
    version: ClassVar[int] = 3
    input_schema: ClassVar[pa.Schema] = IMAGES
    output_schema: ClassVar[pa.Schema] = IMAGES

    def __post_init__(self) -> None:
        for word in self.blocked_words:
            if not any(character.isalnum() for character in word):
                raise ValueError(
                    f"blocked word {word!r} has no letter or digit: name the words to block, or leave it out"
                )

    @property
    def config(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"blocked_words": sorted(self.blocked_words)}

    def __call__(self, table: pa.Table) -> pa.Table:
        """IMAGES with cleaned captions and ``drop_reason``, in the order of ``table``."""
        captions = pa.array([clean_caption(caption) for caption in table.column("caption").to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index("caption"), IMAGES.field("caption"), captions)
        pairs = table.select(["original_width", "original_height", "similarity", "punsafe", "caption"])
        pairs = pairs.append_column("row", pa.array(np.arange(len(table))))
        with connected(num_threads=1) as database:
            database.register("pairs", pairs)
            foreign = [words.split() for words in _WORDS["foreign"].values()]
            patterns = {
                "file_name": _FILE_NAME,
                "blocked": _any_word(self.blocked_words),
                "foreign_word": rf"\b(?:{'|'.join(sorted(set().union(*foreign)))})\b",
                "foreign": foreign,
                "english": _WORDS["english"].split(),
            }
            thresholds = {name: value for name, value in self.config.items() if name != "blocked_words"}
            reason = database.sql(_REASONS, params=thresholds | patterns).to_arrow_table().column("drop_reason")
        return table.append_column("drop_reason", reason).cast(with_drop_reason(IMAGES))


def clean_caption(caption: str) -> str:
    """The caption as a reader of the page would see it."""
    if caption.isascii() and "&" not in caption and "<" not in caption:  # most are, and nothing below would apply
        return " ".join(caption.split())
    try:
        text = html.unescape(caption)
    except ValueError:  # a character of thousands of digits
        text = caption
    text = " ".join(_TAG.sub(" ", part) for part in _between_comments(text.translate(_INVISIBLE)))
    return " ".join(_composed(_PERSON.sub("person", text)).split())


def _between_comments(text: str) -> Iterator[str]:
    """What is left and right of HTML comments, each of which lies in one line; the text is searched once, whatever is in it."""
    done = start = 0
    end = -1
    while (start := text.find("<!--", start)) >= 0:
        if end < start + 4 and (end := text.find("-->", start + 4)) < 0:
            break
        line_end = text.find("\n", start)
        if 0 <= line_end < end:
            start = line_end
            continue
        yield text[done:start]
        done = start = end + 3
    yield text[done:]


def _composed(text: str) -> str:
    """In normal form C, unless so many marks stand on one letter that sorting them would take the square of their number."""
    if len(text) > _FEW_CHARACTERS:
        marks = (bool(unicodedata.combining(character)) for character in text)
        if any(is_mark and sum(1 for _ in run) >= _MAX_MARKS for is_mark, run in itertools.groupby(marks)):
            return text
    return unicodedata.normalize("NFC", text)


def _any_word(words: tuple[str, ...]) -> str | None:
    """A pattern (RE2) that finds any of the words as whole words, whatever the case and the space between them."""
    if not words:
        return None
    alternatives = "|".join(r"\s+".join(re.escape(part) for part in word.split()) for word in sorted(words))
    return rf"(?i)(?:^|[^\p{{L}}\p{{N}}])(?:{alternatives})(?:$|[^\p{{L}}\p{{N}}])"


# Only captions that may be of another language are split into words; only those that are not plain ASCII are searched
# for letters of any script: both are slow. RE2's \b knows ASCII alone, so all others may be.
_REASONS = r"""
WITH sized AS (
    SELECT
        row,
        least(original_width, original_height) AS shorter_px,
        greatest(original_width, original_height) AS longer_px,
        original_width::BIGINT * original_height AS area_px,
        similarity,
        punsafe,
        caption,
        strlen(caption) = len(caption) AS is_ascii,
        len(regexp_replace(caption, '[^A-Za-z]+', '', 'g')) AS num_ascii_letters
    FROM pairs
), measured AS (
    SELECT
        *,
        len(string_split(caption, ' ')) AS num_words,
        CASE WHEN is_ascii THEN num_ascii_letters ELSE len(regexp_replace(caption, '\P{L}+', '', 'g')) END AS num_letters,
        CASE WHEN is_ascii THEN num_ascii_letters ELSE len(regexp_replace(caption, '\P{Latin}+', '', 'g')) END
            AS num_latin_letters,
        len(replace(caption, ' ', '')) AS num_visible,
        CASE WHEN NOT is_ascii OR len(regexp_extract_all(lower(caption), $foreign_word)) >= 2
            THEN list_distinct(regexp_extract_all(lower(caption), '[\p{L}]+'))
            END AS words
    FROM sized
)
SELECT CASE
    WHEN shorter_px < $min_side_px THEN 'image_too_small'
    WHEN longer_px > $max_aspect_ratio * shorter_px THEN 'image_too_wide'
    WHEN area_px < $min_area_px THEN 'image_area_too_small'
    WHEN area_px > $max_area_px THEN 'image_area_too_large'
    WHEN similarity < $min_similarity::FLOAT THEN 'low_similarity'
    WHEN punsafe > $max_unsafe::FLOAT THEN 'unsafe'
    WHEN regexp_full_match(caption, $file_name) THEN 'caption_file_name'
    WHEN num_words < $min_words OR len(caption) < $min_chars THEN 'caption_too_short'
    WHEN num_words > $max_words OR len(caption) > $max_chars THEN 'caption_too_long'
    WHEN num_letters < $min_letter_share * num_visible THEN 'caption_low_alpha'
    WHEN num_latin_letters < $min_latin_share * num_letters OR num_ascii_letters < $min_ascii_share * num_letters
        OR CASE WHEN words IS NOT NULL THEN
            list_max([len(list_intersect(words, language)) FOR language IN $foreign])
            + (num_latin_letters > num_ascii_letters)::INT
            >= greatest(2, 1 + len(list_intersect(words, $english)))
        END
        THEN 'caption_not_english'
    WHEN regexp_matches(caption, $blocked) THEN 'caption_blocked_word'
    END AS drop_reason
FROM measured ORDER BY row
"""
