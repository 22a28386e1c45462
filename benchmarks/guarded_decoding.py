"""Images a second of the decoding process where images are at hand: pairs that bring theirs, and images with boxes.

    python -m benchmarks.guarded_decoding --against FOLDER [--boxes FOLDER_OF_COCO]

The same work is done with the packages of this folder and of another checkout, each in a process of its own, in turn; the ratio
is that of medians. What both store is compared, too. ``--boxes`` has ``instances.json`` and ``images/``.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import psutil

TARGET = 0.9
NUM_FILES = 50


def main(
    *, against: Path, boxes: Path | None = None, images: int = 500, repeats: int = 5, size: tuple[int, int] = (800, 600)
) -> None:
    """Measure, print, and fail below the target or where other bytes are stored.

    Args:
        against: folder of another checkout.
        boxes: images with boxes, 100 of which are made a shard.
        images: pairs of a shard.
        repeats: shards for each of the two, after one to warm up.
        size: width and height of the images of the pairs, in pixels.
    """
    folders = {"this": Path.cwd(), "other": against.resolve()}
    failed = False
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name), size=size)
        works = {"ingest": [name, str(images)]} | ({} if boxes is None else {"boxes": [str(boxes.resolve()), "100"]})
        for work, arguments in works.items():
            seconds: dict[str, list[float]] = {which: [] for which in folders}
            cpu_seconds: dict[str, list[float]] = {which: [] for which in folders}
            digests: dict[str, str] = {}
            for _ in range(repeats):
                for which, folder in folders.items():
                    found = run_apart(folder, work, *arguments)
                    seconds[which].append(found["seconds"])
                    cpu_seconds[which].append(found["cpu_seconds"])
                    digests[which] = found["sha256"]
            this, other = (statistics.median(seconds[which]) for which in folders)
            this_cpu, other_cpu = (statistics.median(cpu_seconds[which]) for which in folders)
            is_same = len(set(digests.values())) == 1
            print(
                f"{work}: {other / this:.2f} as fast ({this:.2f} s, the other {other:.2f} s; "
                f"of processors {this_cpu:.2f} s, the other {other_cpu:.2f} s); "
                f"stored bytes {'equal' if is_same else 'DIFFER'}"
            )
            failed |= other / this < TARGET or not is_same
    if failed:
        raise SystemExit(1)


def run_apart(folder: Path, *arguments: str) -> dict[str, Any]:
    """Seconds and digest of the second of two shards, with the packages of ``folder``."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def draw(folder: Path, *, size: tuple[int, int]) -> None:
    """Images of soft coloured noise, which compress as photos do."""
    import numpy as np
    from PIL import Image

    for i in range(NUM_FILES):
        noise = np.random.default_rng(i).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)


def ingest(source: Path, num_images: int) -> Callable[[Path], object]:
    """One shard of pairs that bring their images."""
    from pipelines.fetch.ingest import Ingest
    from schemas.source_images import ImagePair

    contents = [path.read_bytes() for path in sorted(source.glob("*.jpg"))]

    def pairs() -> Iterator[ImagePair]:
        for i in range(num_images):
            yield ImagePair(url=f"http://img.test/{i}", caption="a photo", image=contents[i % len(contents)])

    return lambda folder: Ingest().run(pairs(), source="s", folder=folder)


def boxes(source: Path, num_images: int) -> Callable[[Path], object]:
    """One shard of images with boxes."""
    from pipelines.build.jobs import boxed_jobs
    from pipelines.sources.boxes.coco import Coco

    coco = Coco(annotations=source / "instances.json", images=(source / "images",))
    job = boxed_jobs("detection", coco, images_per_shard=num_images)[0]
    return job.work


def work() -> None:
    """The main function of a measured process."""
    name, source, count = sys.argv[1:]
    run = {"ingest": ingest, "boxes": boxes}[name](Path(source), int(count))
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        for i in range(2):
            folder = Path(scratch) / str(i)
            folder.mkdir()
            start, cpu_start = time.perf_counter(), cpu_s()
            run(folder)
            seconds, cpu_seconds = time.perf_counter() - start, cpu_s() - cpu_start
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.tar")))).hexdigest()
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "sha256": digest}))


def cpu_s() -> float:
    """Processor time of this process and of those that it has started."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in ("ingest", "boxes"):
        work()
    else:
        import tyro

        tyro.cli(main)
