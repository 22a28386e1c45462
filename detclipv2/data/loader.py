"""Data loader: an endless, deterministic stream of batches of one supervision type, from WebDataset shards.

What a rank reads depends on the seed and on what was read alone (``order.py``), so that a resumed run goes on where it
stopped, with as many ranks as before or others; which of its captions a sample shows, and how it is flipped, scaled and
given negatives, on its epoch.
"""

import random
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from detclipv2.config import Supervision, SupervisionConfig
from detclipv2.data.decode import Sample, parse_sample
from detclipv2.data.epochs import Epochs
from detclipv2.data.negatives import NegativePool, concept_list
from detclipv2.data.order import Order, Segment, merged_segments
from detclipv2.data.prefetch import prefetch_in_processes, prefetch_in_thread
from detclipv2.data.reading import ReadAhead, Record, SampleReader
from detclipv2.data.tar_shards import Shard
from detclipv2.data.transforms import canvas_size, fit, pad_to_canvas
from detclipv2.structures import Batch
from detclipv2.text.dictionary import normalise

# What a loader worker shuffles: some tens of MiB of stored images.
SAMPLES_PER_BLOCK: Mapping[Supervision, int] = {"detection": 512, "grounding": 512, "image_text": 2048}


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
    loader_workers: int = 0  # processes that make the batches; 0: a thread of this one
    prefetch_batches: int = 2  # of each
    caption_as_concept: bool = True
    # What is encoded for a category name (section 3.1's concept enrichment); a text that is not there is encoded as it is.
    texts: Mapping[str, str] = field(default_factory=dict)
    dictionary: Sequence[str] = ()  # concepts from everywhere, for negatives of grounding

    def batches(self, history: Sequence[Segment] = (), done: int = 0) -> Generator[Batch, None, None]:
        """Batches of ``config.samples_per_worker(world_size)`` samples without end; closing it ends its thread or processes.

        Args:
            history: what earlier numbers of ranks and workers took.
            done: batches of this type that each rank took since; they are not read again.

        Raises:
            ValueError: there are no samples, a shard is damaged, or a record cannot be decoded.
            OSError: a shard cannot be read.
        """
        if not any(shard.num_samples for shard in self.shards):
            raise ValueError(
                f"{self.supervision}: no sample in {len(self.shards)} shard(s): build a dataset that has some, or train"
                f" without {self.supervision}"
            )
        present = Segment(
            world_size=self.world_size, loader_workers=self.loader_workers, num_batches={self.supervision: done}
        )
        segments = merged_segments([*history, present], supervision=self.supervision)
        _ = self._negatives, self._dictionary  # before there are processes, which then share them
        if self.loader_workers == 0:
            return prefetch_in_thread(self._worker(segments, 0), num_prefetched=self.prefetch_batches)
        return prefetch_in_processes(
            partial(self._worker, segments),
            num_workers=self.loader_workers,
            first_worker=segments[-1].num_batches[self.supervision] % self.loader_workers,
            num_prefetched=self.prefetch_batches,
        )

    @cached_property
    def _negatives(self) -> NegativePool:
        return NegativePool(self.vocabulary)

    @cached_property
    def _dictionary(self) -> NegativePool:
        known = {normalise(text) for text in self.vocabulary}
        return NegativePool(text for text in self.dictionary if normalise(text) not in known)

    def _worker(self, segments: Sequence[Segment], worker: int) -> Generator[Batch, None, None]:
        """The batches of one loader worker of this rank."""
        shards = sorted(self.shards, key=lambda shard: shard.url.rsplit("/", 1)[-1])
        epochs = Epochs(num_samples=[shard.num_samples for shard in shards], seed=f"{self.seed}-{self.supervision}")
        reader = SampleReader(shards, supervision=self.supervision)
        order = Order(
            supervision=self.supervision,
            length=epochs.length,
            seed=self.seed,
            samples_per_block=SAMPLES_PER_BLOCK[self.supervision],
            batch_size=self.config.samples_per_worker,
            is_portrait=None
            if self.supervision == "image_text"  # all become squares
            else lambda positions: reader.is_portrait(epochs.places(positions)),
        )
        try:
            started: deque[tuple[NDArray[np.int64], ReadAhead]] = deque()
            for positions in order.blocks(segments, rank=self.rank, worker=worker):
                started.append((positions, reader.start(epochs.places(positions.ravel()))))
                if len(started) > 1:  # while this one is used, the next is on its way
                    yield from self._batches_of(*started.popleft())
        finally:
            reader.close()

    def _batches_of(self, positions: NDArray[np.int64], read: ReadAhead) -> Iterator[Batch]:
        """The batches of a block, from its positions [num_batches, batch_size] and its samples, in the same order."""
        for first, batch in zip(range(0, positions.size, positions.shape[1]), positions.tolist(), strict=True):
            records = read.records(first, first + len(batch))
            yield self._batch([self._sample(at, record) for at, record in zip(batch, records, strict=True)])

    def _sample(self, position: int, record: Record) -> tuple[Sample, list[str]]:
        """A sample as it is at a position, whichever worker reads it, and its texts."""
        rng = random.Random(f"sample-{self.seed}-{self.supervision}-{position}")
        sample = fit(parse_sample(record, rng=rng), self.config, rng=rng)
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

    def _batch(self, samples: list[tuple[Sample, list[str]]]) -> Batch:
        longer, shorter = self.config.sides_px
        sizes_hw = [(sample.image.shape[1], sample.image.shape[2]) for sample, _ in samples]
        canvases = [canvas_size(size, longer=longer, shorter=shorter) for size in sizes_hw]
        return Batch(
            supervision=self.supervision,
            keys=[sample.key for sample, _ in samples],
            # With landscape and portrait images together the canvas is a square.
            pixels=pad_to_canvas(
                [sample.image for sample, _ in samples], (max(h for h, _ in canvases), max(w for _, w in canvases))
            ),
            image_sizes_hw=sizes_hw,
            boxes_xyxy=[sample.boxes_xyxy for sample, _ in samples],
            labels=[sample.labels for sample, _ in samples],
            concepts=[concepts for _, concepts in samples],
        )
