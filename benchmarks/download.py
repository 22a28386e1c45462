"""Images a second of our download stage and of plain img2dataset, from the same web on loopback.

    python -m benchmarks.download --images 2000 --repeats 3

Both fetch with the same number of threads in this process, shrink in the same way and write one tar a shard. The runs
alternate, and the ratio is that of medians, so that a busy machine troubles both alike. Ours decodes in a second process,
which helps where a core is idle; the processor time, of both processes together, shows what it costs.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipelines.fetch.decoder import decoder_for
from pipelines.fetch.download import Download
from pipelines.fetch.http_client import HttpConfig
from pipelines.sources.small_web import PHOTOS_HOST, SmallWeb
from schemas.tables import URLS

TARGET = 0.9
NUM_HOSTS = 40
NUM_FILES = 100


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds for one shard: of the clock, and of the processors."""

    wall_s: float
    cpu_s: float


def main(
    *,
    images: int = 2000,
    repeats: int = 3,
    threads: int = 64,
    size: tuple[int, int] = (800, 600),
    image_size_px: int = 320,
) -> None:
    """Measure, print a table, and fail below the target.

    Args:
        images: URLs of a shard.
        repeats: shards for each of the two, after one to warm up.
        threads: that fetch.
        size: width and height of the images of the web, in pixels.
        image_size_px: shorter side of the stored ones.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "web", size=size)
        stage = Download(image_size_px=image_size_px, thread_count=threads)
        with SmallWeb(folder / "web", folder=folder) as web:
            address = web.connect_to[PHOTOS_HOST]
            ours = our_run(stage, address, num_urls=images)
            plain = plain_run(stage, address, num_urls=images)
            costs: dict[str, list[Cost]] = {"plain img2dataset": [], "download stage": []}
            for i in range(repeats + 1):
                for (label, seen), run in zip(costs.items(), (plain, ours), strict=True):
                    cost = measured(run, folder / f"{label.split()[0]}-{i}", stage)
                    seen.extend([cost] if i else [])
    report(costs, num_urls=images)


def draw(folder: Path, *, size: tuple[int, int]) -> None:
    """Images of soft coloured noise, which compress as photos do."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    width, height = size
    for i in range(NUM_FILES):
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        grain = rng.integers(-12, 13, (height, width, 1))
        smooth = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), dtype=np.int64)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=88)


def our_run(stage: Download, address: str, *, num_urls: int) -> Callable[[Path], int]:
    """The stage on a shard of URLs at many hosts, each with its robots.txt; gives the number of images kept."""
    hosts = [f"photos{i}.test" for i in range(NUM_HOSTS)]
    urls = [f"http://{hosts[i % NUM_HOSTS]}/{i % NUM_FILES}.jpg?{i}" for i in range(num_urls)]
    keys = [f"{i:016x}" for i in range(num_urls)]
    rows = [{"key": key, "url": url, "caption": "", "source": ""} for key, url in zip(keys, urls, strict=True)]
    table = pa.Table.from_pylist(rows, schema=URLS)
    http = HttpConfig(connect_to=dict.fromkeys(hosts, address))
    ready = Download(image_size_px=stage.image_size_px, thread_count=stage.thread_count, http=http)

    def run(folder: Path) -> int:
        return int(ready.run(table, folder=folder).column("drop_reason").null_count)

    return run


def plain_run(stage: Download, address: str, *, num_urls: int) -> Callable[[Path], int]:
    """img2dataset's own downloader, resizer and WebDataset writer, as its ``download`` puts them together."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    urls = pa.table({"url": [f"http://{address}/{i % NUM_FILES}.jpg?{i}" for i in range(num_urls)]})

    def run(folder: Path) -> int:
        shard = folder / "urls.feather"
        with pa.ipc.new_file(str(shard), urls.schema) as feather:
            feather.write_table(urls)
        Downloader(
            sample_writer_class=WebDatasetSampleWriter,
            resizer=Resizer(
                image_size=stage.image_size_px,
                resize_mode="keep_ratio",
                resize_only_if_bigger=True,
                encode_quality=stage.encode_quality,
            ),
            thread_count=stage.thread_count,
            save_caption=False,
            extract_exif=False,
            output_folder=str(folder),
            column_list=["url"],
            timeout=10,
            number_sample_per_shard=num_urls,
            oom_shard_count=5,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,
            user_agent_token=None,
            disallowed_header_directives=None,
        ).download_shard((0, str(shard)))
        statuses = pq.read_table(folder / "00000.parquet").column("status").to_pylist()
        return statuses.count("success")

    return run


def measured(run: Callable[[Path], int], folder: Path, stage: Download) -> Cost:
    """What one shard costs; all its images have to come."""
    folder.mkdir()
    decoder = psutil.Process(decoder_for(stage.resizer).pid)
    wall_s, cpu_s = time.perf_counter(), time.process_time() + sum(decoder.cpu_times()[:2])
    num_kept = run(folder)
    wall_s = time.perf_counter() - wall_s
    cpu_s = time.process_time() + sum(decoder.cpu_times()[:2]) - cpu_s
    print(f"{folder.name}: {num_kept} images, {wall_s:.1f} s, {cpu_s:.1f} s of processor", flush=True)
    return Cost(wall_s=wall_s, cpu_s=cpu_s)


def report(costs: dict[str, list[Cost]], *, num_urls: int) -> None:
    """Print medians and ratios.

    Raises:
        SystemExit: ours is slower than the target allows.
    """
    table = Table("", "images a second", "images a second of processor")
    rates = {}
    for label, seen in costs.items():
        wall = num_urls / statistics.median(cost.wall_s for cost in seen)
        cpu = num_urls / statistics.median(cost.cpu_s for cost in seen)
        rates[label] = (wall, cpu)
        table.add_row(label, f"{wall:.0f}", f"{cpu:.0f}")
    (plain_wall, plain_cpu), (our_wall, our_cpu) = rates.values()
    table.add_row("ratio", f"{our_wall / plain_wall:.2f}", f"{our_cpu / plain_cpu:.2f}")
    Console().print(table)
    if our_wall < TARGET * plain_wall:
        raise SystemExit(f"slower than {TARGET} of plain img2dataset")


if __name__ == "__main__":
    tyro.cli(main)
