"""Image-text pairs of emoji scenes as an endless stream; it also makes the scenes with boxes and the validation set.

A share of the indices misbehaves as the web does: that an index answers 404, or repeats another one's image, depends on
(seed, index) alone, as do its image and its caption.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from random import Random
from typing import ClassVar, Literal

import pyarrow as pa
from PIL import Image

from pipelines.sources.emoji_scenes.boxed import BoxedScenes
from pipelines.sources.emoji_scenes.captions import CAPTION_SHARES, caption
from pipelines.sources.emoji_scenes.emoji_concepts import draw_mixed
from pipelines.sources.emoji_scenes.render import JPEG_QUALITY, SceneSource, compose
from pipelines.sources.emoji_scenes.validation_scenes import ValidationScenes
from pipelines.sources.input_files import encode_jpeg
from pipelines.sources.source import PairBlock
from schemas.tables import PAIRS

KIND_SHARES = {
    "picture": 0.88,
    "redirect": 0.02,  # 302 to the image on another host
    "not_found": 0.03,
    "forbidden": 0.01,
    "drip": 0.001,  # the body comes byte by byte and never ends
    "short_body": 0.004,  # fewer bytes than Content-Length says
    "cut_jpeg": 0.005,  # half of the file
    "html": 0.008,  # a page that calls itself a JPEG
    "tiny": 0.006,  # 8x8
    "wide": 0.006,  # 600x20
    "noai": 0.006,  # X-Robots-Tag: noai
    "duplicate": 0.008,  # an earlier image's bytes and caption under another URL
    "recaptioned": 0.006,  # an earlier image's bytes with a caption of its own
    "near_duplicate": 0.01,  # an earlier image, smaller and re-encoded, with a caption of its own
}
HOSTS = (
    "img1.emoji-scenes.test",
    "img2.emoji-scenes.test",
    "cdn.sticker-shop.test",
    "static.photo-prints.test",
    "blog.craft-ideas.test",
)
_REPEATS = ("duplicate", "recaptioned", "near_duplicate")


def _draw(shares: Mapping[str, float], rng: Random) -> str:
    return rng.choices(list(shares), cum_weights=list(accumulate(shares.values())))[0]


@dataclass(frozen=True, kw_only=True)
class EmojiScenes(SceneSource):
    """Scenes of Twemoji images; a :class:`~pipelines.sources.source.PairSource` that also gives boxes and a validation set.

    Every scene is a pure function of (seed, kind of scene, index): it can be rendered alone, in any process, to the same bytes.
    """

    seed: int = 0
    image_size_px: int = 160

    name: ClassVar[str] = "emoji_scenes"

    def __post_init__(self) -> None:
        if self.image_size_px < 64:
            raise ValueError(f"image_size_px is {self.image_size_px}: below 64 the objects cannot be recognised")

    def detection(self, num_images: int) -> BoxedScenes:
        """Images of base concepts with their boxes and names; a larger number only appends images."""
        return self._boxed("detection", num_images)

    def grounding(self, num_images: int) -> BoxedScenes:
        """Images of base concepts with phrases and their boxes; a larger number only appends images."""
        return self._boxed("grounding", num_images)

    def validation(self, num_images: int) -> ValidationScenes:
        """Images of base and novel concepts, all boxed, in LVIS v1 format."""
        return ValidationScenes(seed=self.seed, image_size_px=self.image_size_px, num_images=num_images)

    def blocks(self, limit: int | None = None, *, num_rows: int) -> list[PairBlock]:
        """A block a shard: any range of the stream can be made without what is before it.

        Raises:
            ValueError: no limit was given; the stream has no end.
        """
        if limit is None:
            raise ValueError("emoji_scenes: the stream of pairs has no end; give blocks(limit=...) a number")
        config = self.config
        ranges = [range(limit)[start : start + num_rows] for start in range(0, limit, num_rows)]
        return [
            PairBlock(
                name=f"{self.name}-{shard:05d}",
                first_shard=shard,
                config={**config, "start": indices.start, "stop": indices.stop},
                num_rows=len(indices),
                read=partial(self._read, indices.start, indices.stop),
            )
            for shard, indices in enumerate(ranges)
        ]

    def pairs(self, start: int, stop: int) -> pa.Table:
        """The pairs of a range of indices: columns ``url`` and ``caption``."""
        indices = range(start, stop)
        columns = {"url": [self.url(i) for i in indices], "caption": [self.caption(i) for i in indices]}
        return pa.table(columns, schema=PAIRS)

    def _read(self, start: int, stop: int) -> Iterator[pa.Table]:
        yield self.pairs(start, stop)

    def url(self, index: int) -> str:
        """Where the image of a pair lies."""
        return f"http://{self._rng('host', index).choice(HOSTS)}/{index:06d}.jpg"

    def kind_of(self, index: int) -> str:
        """How the web treats the URL of a pair."""
        kind = self._drawn_kind(index)
        return "picture" if kind in _REPEATS and self.original_of(index) == index else kind

    def caption_kind_of(self, index: int) -> str:
        """What sort of caption a pair has."""
        if self.kind_of(index) == "duplicate":
            return self.caption_kind_of(self.original_of(index))
        return _draw(CAPTION_SHARES, self._rng("caption-kind", index))

    def original_of(self, index: int) -> int:
        """The earlier index whose image this one repeats; the index itself where it repeats none."""
        if self._drawn_kind(index) not in _REPEATS:
            return index
        start = index - self._rng("original", index).randint(1, 500)
        return next((i for i in range(start, -1, -1) if self._drawn_kind(i) == "picture"), index)

    def names(self, index: int) -> list[str]:
        """Concepts of the image of a pair, one an object."""
        return draw_mixed(self._rng("pairs", self.original_of(index)))

    def caption(self, index: int) -> str:
        """The alt-text of a pair."""
        if self.kind_of(index) == "duplicate":
            return self.caption(self.original_of(index))
        rng = self._rng("caption", index)
        others = draw_mixed(rng)
        return caption(self.caption_kind_of(index), names=self.names(index), other_names=others, rng=rng)

    def image(self, index: int) -> bytes:
        """The JPEG of a pair as an honest server sends it."""
        rng = self._rng("pairs", self.original_of(index))
        image = compose(draw_mixed(rng), rng, size_px=self.image_size_px).image
        match self.kind_of(index):
            case "near_duplicate":
                side = round(self.image_size_px * 0.9)
                return encode_jpeg(image.resize((side, side), Image.Resampling.LANCZOS), quality=70)
            case "tiny":
                image = image.resize((8, 8))
            case "wide":
                image = image.resize((600, 20))
        return encode_jpeg(image, quality=JPEG_QUALITY)

    def _boxed(self, supervision: Literal["detection", "grounding"], num_images: int) -> BoxedScenes:
        return BoxedScenes(
            seed=self.seed, image_size_px=self.image_size_px, supervision=supervision, num_images=num_images
        )

    def _drawn_kind(self, index: int) -> str:
        return _draw(KIND_SHARES, self._rng("kind", index))

    def _rng(self, purpose: str, index: int) -> Random:
        return Random(f"{self.seed}/{purpose}/{index}")
