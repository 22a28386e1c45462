"""An endless, deterministic stream of batches of one supervision type, from WebDataset shards.

What a rank reads depends on the seed, the rank and the position alone, so that a resumed run goes on where it stopped.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_expander

from detclipv2.config import Supervision, SupervisionConfig
from detclipv2.data.concepts import NegativePool, concept_list
from detclipv2.data.decode import decode_sample
from detclipv2.data.opener import opened
from detclipv2.data.order import Segment
from detclipv2.data.transforms import canvas_size, fit, pad_to_canvas
from detclipv2.structures import Batch
from detclipv2.text.dictionary import normalise

# Encoded samples held for shuffling: some tens of MiB at web-image sizes.
SHUFFLE_BUFFER = 2000


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar file (a path, or a URL that fsspec opens) and how many samples it holds."""

    url: str
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Batches of one supervision type for one rank."""

    supervision: Supervision
    shards: Sequence[Shard]
    config: SupervisionConfig
    vocabulary: Sequence[str]  # categories or phrases of the dataset: what negatives are drawn from
    seed: int
    rank: int
    world_size: int
    caption_as_concept: Literal["on", "off"] = "on"
    # What is encoded for a category name (section 3.1's concept enrichment); a text that is not there is encoded as it is.
    texts: Mapping[str, str] = field(default_factory=dict)
    dictionary: Sequence[str] = ()  # concepts from everywhere, for negatives of grounding

    def batches(self, history: Sequence[Segment] = (), done: int = 0) -> Iterator[Batch]:
        """Batches of this rank after the first ``done`` of the present segment; skipped samples are not decoded.

        Args:
            history: earlier segments of the training.
            done: batches of this type that each worker took in the present segment.

        Raises:
            ValueError: there are fewer samples than ranks, or a record cannot be decoded.
        """
        num_samples = sum(shard.num_samples for shard in self.shards)
        if num_samples < self.world_size:
            raise ValueError(
                f"{self.supervision}: {num_samples} sample(s) in {len(self.shards)} shard(s) for {self.world_size} worker(s);"
                " every worker needs one: add data, or train with fewer workers"
            )
        size = self.config.samples_per_worker(self.world_size)
        position = done * size
        records = self._records(position)
        for first in itertools.count(position, size):
            numbered = zip(range(first, first + size), records, strict=False)
            yield self._batch([self._sample(number, record) for number, record in numbered])

    @cached_property
    def _negatives(self) -> NegativePool:
        return NegativePool(self.vocabulary)

    @cached_property
    def _dictionary(self) -> NegativePool:
        known = {normalise(text) for text in self.vocabulary}
        return NegativePool(text for text in self.dictionary if normalise(text) not in known)

    def _records(self, skip: int) -> Iterator[dict[str, Any]]:
        """Encoded records of epoch after epoch, less the first ``skip``."""
        for epoch in itertools.count():
            mine, by_sample = self._my_shards(epoch)
            count = sum(shard.num_samples for shard in mine)
            if by_sample:
                count = len(range(self.rank, count, self.world_size))
            if skip >= count > 0:
                skip -= count
                continue
            yield from itertools.islice(self._epoch(epoch, mine, by_sample), skip, None)
            skip = 0

    def _my_shards(self, epoch: int) -> tuple[list[Shard], bool]:
        """Shards of this rank in an epoch; shuffled before they are split, so that ranks meet all data over the epochs.

        With fewer shards than ranks every rank reads all of them and keeps every n-th sample.
        """
        shards = sorted(self.shards, key=lambda shard: shard.url.rsplit("/", 1)[-1])
        random.Random(f"shards-{self.seed}-{self.supervision}-{epoch}").shuffle(shards)
        by_sample = len(shards) < self.world_size
        return (shards if by_sample else shards[self.rank :: self.world_size]), by_sample

    def _epoch(self, epoch: int, shards: list[Shard], by_sample: bool) -> Iterator[dict[str, Any]]:
        records = group_by_keys(tar_file_expander(opened(shard.url for shard in shards)))
        if by_sample:
            records = itertools.islice(records, self.rank, None, self.world_size)
        rng = random.Random(f"samples-{self.seed}-{self.supervision}-{epoch}-{self.rank}")
        return iter(wds.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng)(records))

    def _sample(self, number: int, record: dict[str, Any]) -> tuple[Any, list[str]]:
        rng = random.Random(f"sample-{self.seed}-{self.supervision}-{self.rank}-{number}")
        sample = fit(decode_sample(record), self.config, rng=rng)
        concepts = concept_list(
            sample,
            negatives=self._negatives,
            dictionary=self._dictionary,
            dictionary_share=self.config.dictionary_share,
            num_concepts=self.config.num_concepts,
            caption_as_concept=self.caption_as_concept,
            rng=rng,
        )
        return sample, [self.texts.get(concept, concept) for concept in concepts]

    def _batch(self, samples: list[tuple[Any, list[str]]]) -> Batch:
        longer, shorter = self.config.sides_px
        sizes_hw = [(sample.image.shape[1], sample.image.shape[2]) for sample, _ in samples]
        canvases = [canvas_size(size, longer=longer, shorter=shorter) for size in sizes_hw]
        return Batch(
            supervision=self.supervision,
            keys=[sample.key for sample, _ in samples],
            # Where some pictures lie and some stand, the canvas is a square.
            pixels=pad_to_canvas(
                [sample.image for sample, _ in samples], (max(h for h, _ in canvases), max(w for _, w in canvases))
            ),
            image_sizes_hw=sizes_hw,
            boxes_xyxy=[sample.boxes_xyxy for sample, _ in samples],
            labels=[sample.labels for sample, _ in samples],
            concepts=[concepts for _, concepts in samples],
        )
