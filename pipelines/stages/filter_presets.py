"""Filter thresholds of published data sets, as far as they are rules on what the tables hold."""

from dataclasses import dataclass

from pipelines.stages.dedup import Dedup
from pipelines.stages.filters import Filters


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of the two stages that drop pairs."""

    filters: Filters
    dedup: Dedup


PRESETS = {
    # The basic filter of DataComp (arXiv:2304.14108): English, more than one word, more than 5 characters, shorter side
    # at least 200 px, aspect ratio at most 3.
    "datacomp": Preset(filters=Filters(), dedup=Dedup()),
    # LAION-400M and LAION-5B (arXiv:2111.02114, arXiv:2210.08402), the English part: at least 5 characters. Sizes in
    # pixels are free; files under 5 KB went, which no table here tells. CLIP ViT-B/32's cosine had to be 0.30 (400M) or 0.28
    # (5B), so that the latter leaves both as they were published and is for tables that were not cut by it. What may be
    # unsafe (punsafe) was marked and not dropped. Doubles were pairs of one URL and caption, which `Urls` drops anyway.
    "laion": Preset(
        filters=Filters(
            min_side_px=1,
            max_aspect_ratio=None,
            min_similarity=0.28,
            min_words=1,
            min_chars=5,
            max_words=10_000,
            max_chars=100_000,
        ),
        dedup=Dedup(),
    ),
    # FILIP (arXiv:2111.07783): shorter side at least 200 px, aspect ratio at most 3, English, no file names, no caption
    # seen more than 10 times. Names became "<person>": `NounPhrases(person_word="<person>")`.
    "filip": Preset(
        filters=Filters(min_words=1, min_chars=1, max_words=10_000, max_chars=100_000),
        dedup=Dedup(max_caption_count=10),
    ),
}
