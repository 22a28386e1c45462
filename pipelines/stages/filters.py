"""Which pairs are worth training on, judged by the size of the picture and the text of the caption."""

import dataclasses
import html
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from schemas.tables import IMAGES, with_drop_reason

# Frequent words that hardly occur in English captions, brands and place names.
_FOREIGN_WORDS = (
    "und der das mit für von auf ein eine einem einen ist im zum zur nicht oder aus dem bei sind vom auch",  # German
    "les des et une dans avec pour sur est du au aux ou qui pas ce cette plus sans chez sous votre vos nous",  # French
    "el los las una con para por del en es su que más como sin sobre desde esta este al lo muy",  # Spanish
    "os uma para não dos das em na ao é seu sua mais como são você pela pelo",  # Portuguese
    "il gli della del di che per con una è nel nella sono dei delle alla al più come dal lo",  # Italian
    "het een van en met voor op bij zijn niet naar dit uit ook aan te je wij deze onze",  # Dutch
    "na się jest nie dla od po jak za przez oraz ze",  # Polish
    "och att det som en på är av för med den till har inte ett om från",  # Swedish
    "ve bir için ile bu da çok en olan gibi",  # Turkish
    "dan yang di untuk dengan ini dari pada adalah dalam tidak akan",  # Indonesian
)
_ENGLISH_WORDS = (
    "the a an i of in on at with and for to from by is are was as his her its their this that these your you my our it "
    "be do over under near into up down out new or not all how what who when where why has have had will can no one two"
)
_FILE_NAME = (
    r"(?i)\S*\.(jpe?g|png|gif|webp|bmp|tiff?|svg)"
    r"|(img|dsc[nf]?|pict?|mvi|p|image|photo|screenshot|untitled)?[-_ ]*[\d_-]{3,}(\s*\(?\d+\)?)?"
)
_MARKUP = re.compile(
    r"</?(?:a|b|i|u|p|br|em|strong|span|div|font|small|sup|sub|h[1-6])\b[^<>]*>|<!--.*?-->", re.IGNORECASE
)
_PERSON = re.compile("<person>", re.IGNORECASE)  # what stands for a name in Conceptual 12M
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"))


@dataclass(frozen=True, kw_only=True)
class Filters:
    """IMAGES to IMAGES: cleans captions, then drops rows by the first reason that applies, as listed below.

    Cleaning unescapes HTML entities, removes markup and invisible characters, composes Unicode (NFC), writes "person"
    for "<PERSON>" and makes every run of white space one space; ``key`` stays.

    The defaults are the basic filter of DataComp (arXiv:2304.14108, appendix: English, more than 1 word, more than 5
    characters, shorter side at least 200 px, aspect ratio at most 3). FILIP (arXiv:2111.07783, appendix) has the same
    limits on size, keeps English only and drops captions that look like file names. DetCLIPv2 states no filter.

    Attributes:
        min_side_px: ``image_too_small`` below, of the shorter side as the server sent the picture.
        max_aspect_ratio: ``image_too_wide`` above, of the longer over the shorter side.
        min_words, min_chars: ``caption_too_short`` below.
        max_words, max_chars: ``caption_too_long`` above.
        min_letter_share: ``caption_low_alpha`` below, of letters among the characters that are not space.
        min_latin_share, min_ascii_share: ``caption_not_english`` below, of Latin and of plain ASCII letters among the
            letters. The same slug is given where the words of another language (``_FOREIGN_WORDS``; a letter with an
            accent counts as one) outnumber the English ones: a cheap test, with no model, that lets short captions pass.

    ``caption_file_name`` has no threshold: the whole caption is a file name, or the name a camera gave.
    """

    min_side_px: int = 200
    max_aspect_ratio: float = 3.0
    min_words: int = 2
    min_chars: int = 6
    max_words: int = 64
    max_chars: int = 512
    min_letter_share: float = 0.5
    min_latin_share: float = 0.95
    min_ascii_share: float = 0.8

    name: ClassVar[str] = "filters"
    version: ClassVar[int] = 1
    input_schema: ClassVar[pa.Schema] = IMAGES
    output_schema: ClassVar[pa.Schema] = IMAGES

    @property
    def config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __call__(self, table: pa.Table) -> pa.Table:
        """IMAGES with cleaned captions and ``drop_reason``, in the order of ``table``."""
        captions = pa.array([clean_caption(caption) for caption in table.column("caption").to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index("caption"), IMAGES.field("caption"), captions)
        pairs = table.select(["original_width", "original_height", "caption"])
        pairs = pairs.append_column("row", pa.array(range(len(table)), pa.int64()))
        import duckdb  # only where it computes: each process that imports it prints its leaks at exit

        with duckdb.connect(config={"threads": 1}) as database:
            database.register("pairs", pairs)
            patterns = {
                "file_name": _FILE_NAME,
                "foreign": [words.split() for words in _FOREIGN_WORDS],
                "english": _ENGLISH_WORDS.split(),
            }
            reason = database.sql(_REASONS, params=self.config | patterns).to_arrow_table().column("drop_reason")
        return table.append_column("drop_reason", reason).cast(with_drop_reason(IMAGES))


def clean_caption(caption: str) -> str:
    """The caption as a reader of the page would see it."""
    text = _MARKUP.sub(" ", html.unescape(caption).translate(_INVISIBLE))
    return " ".join(unicodedata.normalize("NFC", _PERSON.sub("person", text)).split())


_REASONS = r"""
WITH measured AS (
    SELECT
        row,
        least(original_width, original_height) AS shorter_px,
        greatest(original_width, original_height) AS longer_px,
        caption,
        len(string_split(caption, ' ')) AS num_words,
        len(regexp_replace(caption, '\P{L}', '', 'g')) AS num_letters,
        len(regexp_replace(caption, '\P{Latin}', '', 'g')) AS num_latin_letters,
        len(regexp_replace(caption, '[^A-Za-z]', '', 'g')) AS num_ascii_letters,
        len(regexp_replace(caption, '\s', '', 'g')) AS num_visible,
        list_distinct(regexp_extract_all(lower(caption), '[\p{L}]+')) AS words
    FROM pairs
)
SELECT CASE
    WHEN shorter_px < $min_side_px THEN 'image_too_small'
    WHEN longer_px > $max_aspect_ratio * shorter_px THEN 'image_too_wide'
    WHEN regexp_full_match(caption, $file_name) THEN 'caption_file_name'
    WHEN num_words < $min_words OR len(caption) < $min_chars THEN 'caption_too_short'
    WHEN num_words > $max_words OR len(caption) > $max_chars THEN 'caption_too_long'
    WHEN num_letters < $min_letter_share * num_visible THEN 'caption_low_alpha'
    WHEN num_latin_letters < $min_latin_share * num_letters OR num_ascii_letters < $min_ascii_share * num_letters
        OR list_max([len(list_intersect(words, language)) FOR language IN $foreign])
           + (num_latin_letters > num_ascii_letters)::INT
           >= greatest(2, 1 + len(list_intersect(words, $english)))
        THEN 'caption_not_english'
    END AS drop_reason
FROM measured ORDER BY row
"""
