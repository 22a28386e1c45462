"""Loader throughput on one core: the loader of detclipv2 against webdataset and Pillow doing the same work.

``python benchmarks/loader.py`` writes shards of photographs (of ``../shared/data/coco_ccby`` where that is, else of smooth random
images), reads them in turn with either, each in a process of its own with one thread, and prints a table. It exits with
status 1 where the loader is less than 1.5 times as fast. Both end with float pixels on the processor; what the loader hands
out before, for a GPU to make float, is measured too.
"""

import io
import itertools
import json
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from benchmarks.processes import interleaved, run_script
from detclipv2.config import Supervision, SupervisionConfig
from detclipv2.data.loader import Stream
from detclipv2.data.tar_shards import Shard
from detclipv2.data.transforms import canvas_size, fitted_size

LEAST_RATIO = 1.5
NUM_ROUNDS = 3
WARM_UP_BATCHES = 2
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "coco_ccby" / "images"

Way = Literal["float", "uint8", "webdataset"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is read, and how many of it."""

    supervision: Supervision
    longer_px: tuple[int, int]  # of the stored images, from and to
    image_size: int
    shorter_size: int | None
    scale_jitter: tuple[float, float]
    batch_size: int
    num_samples: int
    num_batches: int

    @property
    def config(self) -> SupervisionConfig:
        """Of the loader."""
        return SupervisionConfig(
            batch_size=self.batch_size,
            image_size=self.image_size,
            shorter_size=self.shorter_size,
            scale_jitter=self.scale_jitter,
        )


CASES = {
    "image-text, 320 px": Case(
        supervision="image_text",
        longer_px=(400, 640),
        image_size=320,
        shorter_size=None,
        scale_jitter=(1.0, 1.0),
        batch_size=32,
        num_samples=256,
        num_batches=16,
    ),
    "detection, 1333 x 800": Case(
        supervision="detection",
        longer_px=(1024, 2000),
        image_size=1333,
        shorter_size=800,
        scale_jitter=(0.6, 1.0),  # shorter side from 480 to 800 px
        batch_size=4,
        num_samples=64,
        num_batches=20,
    ),
}


def photographs() -> list[Image.Image]:
    """Images with detail, to be cut and resized."""
    if PHOTOS.is_dir():
        return [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))[:60]]
    rng = np.random.default_rng(0)
    waves = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(20)]
    return [wave.resize((640, 480), Image.Resampling.BICUBIC) for wave in waves]


def write_shards(case: Case, folder: Path) -> None:
    """Two shards of JPEG images, quality 90, four in five of them landscape, with a caption or three boxes."""
    rng, photos = random.Random(0), photographs()
    for number in range(2):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(case.num_samples // 2):
                longer = rng.randint(*case.longer_px)
                width, height = (longer, longer * 3 // 4) if rng.random() < 0.8 else (longer * 3 // 4, longer)
                jpeg = io.BytesIO()
                rng.choice(photos).resize((width, height), Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=90)
                boxed = case.supervision == "detection"
                annotation = {
                    "supervision": case.supervision,
                    "width": width,
                    "height": height,
                    "concepts": ["dog"],
                    "boxes_xyxy": [[10, 10, 200 + box, 200] for box in range(3)] if boxed else [],
                    "labels": [0, 0, 0] if boxed else [],
                    "caption": None if boxed else "a dog",
                }
                for suffix, content in (("jpg", jpeg.getvalue()), ("json", json.dumps(annotation).encode())):
                    member = tarfile.TarInfo(f"{number}-{row:05d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def ours(case: Case, folder: Path) -> Generator[Any, None, None]:
    """The loader."""
    return Stream(
        supervision=case.supervision,
        shards=[Shard(url=str(path), num_samples=case.num_samples // 2) for path in sorted(folder.glob("*.tar"))],
        config=case.config,
        vocabulary=[],
        seed=0,
        rank=0,
        world_size=1,
        prefetch_batches=1,
    ).batches()


def with_webdataset(case: Case, folder: Path) -> Generator[Any, None, None]:
    """The same with the means of webdataset and Pillow: decode, resize, flip, make float, pad, batch."""
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=2, seed=0).shuffle(case.num_samples // 4)
    prepared = samples.repeat().decode("pil").to_tuple("jpg", "json").map(lambda pair: prepare(case, *pair))
    iterator = iter(prepared)
    while True:
        yield collate(case, list(itertools.islice(iterator, case.batch_size)))


def prepare(case: Case, image: Image.Image, annotation: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Pixels [3, h, w] in 0..1 and boxes of a sample."""
    longer, shorter = case.config.sides_px
    factor = random.uniform(*case.scale_jitter)
    height, width = fitted_size((image.height, image.width), longer=longer * factor, shorter=shorter * factor)
    if case.supervision == "image_text":
        height = width = case.image_size
    boxes = torch.tensor(annotation["boxes_xyxy"]).reshape(-1, 4)
    boxes = boxes * torch.tensor([width / image.width, height / image.height]).repeat(2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    if random.random() < case.config.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=-1)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, boxes


def collate(case: Case, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Pixels [B, 3, H, W], zeros around, and boxes."""
    longer, shorter = case.config.sides_px
    canvases = [
        canvas_size((pixels.shape[1], pixels.shape[2]), longer=longer, shorter=shorter) for pixels, _ in samples
    ]
    canvas = torch.zeros(len(samples), 3, max(h for h, _ in canvases), max(w for _, w in canvases))
    for slot, (pixels, _) in zip(canvas, samples, strict=True):
        slot[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return canvas, [boxes for _, boxes in samples]


def measure(case: Case, way: Way, folder: Path) -> float:
    """Images a second of processor time."""
    torch.set_num_threads(1)
    with closing(with_webdataset(case, folder) if way == "webdataset" else ours(case, folder)) as batches:
        for number in itertools.count():
            if number == WARM_UP_BATCHES:
                started = time.process_time()
            batch = next(batches)
            if way == "float":
                batch = batch.to(torch.device("cpu"))
            if number + 1 == WARM_UP_BATCHES + case.num_batches:
                return case.num_batches * case.batch_size / (time.process_time() - started)
    raise AssertionError("endless")


def measure_apart(case: str, way: Way, folder: Path) -> float:
    """``measure`` in a process of its own, with one thread."""
    return float(run_script(__file__, case, way, str(folder)))


def main() -> None:
    """Measure both, print the table, judge."""
    titles = ("webdataset + PIL", "detclipv2", "ratio", "detclipv2, uint8", "ratio")
    table = Table(
        Column("", no_wrap=True),
        *(Column(title, justify="right") for title in titles),
        title="images a second of one core",
    )
    slow = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory(prefix="loader-") as made:
            folder = Path(made)
            write_shards(case, folder)
            ways: tuple[Way, ...] = ("webdataset", "float", "uint8")
            runs = {way: partial(measure_apart, name, way, folder) for way in ways}
            theirs, as_float, as_uint8 = map(statistics.median, interleaved(runs, rounds=NUM_ROUNDS).values())
        ratios = [as_float / theirs, as_uint8 / theirs]
        table.add_row(
            name, f"{theirs:.0f}", f"{as_float:.0f}", f"{ratios[0]:.2f}", f"{as_uint8:.0f}", f"{ratios[1]:.2f}"
        )
        if ratios[0] < LEAST_RATIO:
            slow.append(f"{name}: {ratios[0]:.2f} times as fast, at least {LEAST_RATIO} are wanted")
    Console(width=120).print(table)
    sys.exit("\n".join(slow) or 0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(CASES[sys.argv[1]], sys.argv[2], Path(sys.argv[3])))  # type: ignore[arg-type]
    else:
        main()
