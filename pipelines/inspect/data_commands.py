"""``detclip data``: look at data that was built. The entry point group ``detclip.commands`` names `commands`."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from upath import UPath

from detclipv2.terminal import InertConsole
from pipelines.inspect.built_dataset import open_dataset
from pipelines.inspect.gc import collect
from pipelines.inspect.page import funnel_tables, size, split_table, write_page
from pipelines.inspect.samples import draw_dropped, draw_samples
from pipelines.inspect.show import contact_sheet, dropped_cell, sample_cell
from pipelines.inspect.stats import dataset_stats
from pipelines.inspect.verify import FIX, MAX_PROBLEMS_PER_SHARD, check_dataset, empty_parts
from pipelines.storage import DataRoot, data_root
from pipelines.storage.file_cache import abandoned_work, remove_oldest, unused_bytes

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_Dataset = tyro.conf.Positional[UPath]


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read every byte of a dataset: hashes, tars, images, boxes, labels, keys, indexes. Status 2 where anything is wrong."""

    dataset: _Dataset
    """Its folder or manifest, such as outputs/data/datasets/demo or s3://bucket/data/datasets/demo."""
    num_workers: int = min(8, os.cpu_count() or 1)
    """Threads that read."""


SHOWN_FIRST = ("image_text", "grounding", "detection")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Draw a contact sheet of samples with boxes, names, phrases and captions, or of pairs that were dropped for a reason."""

    dataset: _Dataset
    """Its folder or manifest."""
    supervision: str | None = None
    """detection, grounding or image_text; the first of image_text, grounding and detection that the dataset has unless given."""
    dropped: str | None = None
    """Show pairs that were dropped for this reason instead, such as image_too_small."""
    num: int = 24
    """How many."""
    seed: int = 0
    """Which ones: another seed draws others."""
    out: Path = Path("sheet.jpg")
    """The image to write (.jpg, .png, .webp)."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Print the funnel of every source with sizes, and write a page with histograms and the most frequent concepts."""

    dataset: _Dataset
    """Its folder or manifest."""
    out: Path = Path("funnel.html")
    """The page to write."""


@dataclass(frozen=True, kw_only=True)
class Gc:
    """List what no dataset of a data root refers to: tables, leftovers of killed builds, copies of remote files.

    A first build that was killed has not made its tables part of a dataset: run it again before anything is deleted.
    """

    root: DataRoot = Path("outputs/data")
    """The data root: a folder or a URL."""
    delete: bool = False
    """Whether to remove it."""


def verify(config: Annotated[Verify, tyro.conf.arg(name="")]) -> None:
    """Run ``detclip data verify``; exits with status 2 where anything is wrong."""
    dataset = open_dataset(config.dataset)
    found = check_dataset(dataset, num_workers=config.num_workers, console=InertConsole(stderr=True))
    splits = dataset.manifest.supervisions
    num_shards = sum(len(split.shards) for split in splits.values())
    empty = empty_parts(dataset)
    for line in empty:
        print(f"{dataset.manifest.name}: {line}: fix the annotations or --images, and build again")
    if not found and empty:
        sys.exit(2)
    if not found:
        counts = {name: f"{split.num_samples:,} {name}" for name, split in splits.items()}
        if "image_text" in splits and dataset.num_captions != splits["image_text"].num_samples:
            counts["image_text"] += f" with {dataset.num_captions:,} captions"
        print(f"{dataset.manifest.name}: {num_shards} shards are whole: {', '.join(counts.values())}")
        return
    for path, problems in found.items():
        print(f"{path}: {len(problems)} problem(s)")
        for problem in problems[:MAX_PROBLEMS_PER_SHARD]:
            print(f"  {problem}")
        if len(problems) > MAX_PROBLEMS_PER_SHARD:
            print(f"  and {len(problems) - MAX_PROBLEMS_PER_SHARD} more")
    folders = sorted({path.rpartition("/")[0] if path.endswith(".tar") else path for path in found})
    print(f"{len(found)} damaged; {FIX}:")
    for folder in folders:
        print(f"  {dataset.root / folder}")
    sys.exit(2)


def show(config: Annotated[Show, tyro.conf.arg(name="")]) -> None:
    """Run ``detclip data show``.

    Raises:
        ValueError: there is nothing of the kind to show, or the output's kind is unknown.
    """
    if config.out.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"--out {config.out}: choose a name that ends in .jpg, .png or .webp")
    if config.num < 1:
        raise ValueError(f"--num {config.num}: show at least one")
    dataset = open_dataset(config.dataset)
    if config.dropped is None:
        present = dataset.manifest.supervisions
        kind = config.supervision or next((name for name in SHOWN_FIRST if name in present), SHOWN_FIRST[0])
        samples = draw_samples(dataset, kind, num=config.num, seed=config.seed)
        title = f"{dataset.manifest.name}: {len(samples)} of {present[kind].num_samples:,} {kind} samples"
        cells = [sample_cell(sample) for sample in samples]
    else:
        drawn = draw_dropped(dataset, config.dropped, num=config.num, seed=config.seed)
        title = f"{dataset.manifest.name}: {len(drawn.rows)} of {drawn.total:,} pairs dropped as {config.dropped}"
        cells = [dropped_cell(row) for row in drawn.rows]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(cells, title=title).save(config.out)
    print(f"{config.out}: {title}")


def stats(config: Annotated[Stats, tyro.conf.arg(name="")]) -> None:
    """Run ``detclip data stats``."""
    figures = dataset_stats(open_dataset(config.dataset))
    console = InertConsole()
    for table in (*funnel_tables(figures), split_table(figures)):
        console.print(table)
    write_page(config.out, figures)
    console.print(f"page: {config.out}", soft_wrap=True, highlight=False)


def gc(config: Annotated[Gc, tyro.conf.arg(name="")]) -> None:
    """Run ``detclip data gc``."""
    root = data_root(config.root)
    found = collect(root, delete=config.delete)
    for item in found:
        print(f"{size(item.num_bytes):>10}  {item.folder}  {item.why}")
    num_bytes = sum(item.num_bytes for item in found)
    if not isinstance(root, Path):
        cached, abandoned = unused_bytes(), abandoned_work()
        work_bytes = sum(work.num_bytes for work in abandoned)
        print(f"{size(cached):>10}  copies of remote files on this machine, unused for an hour")
        print(f"{size(work_bytes):>10}  work of killed jobs on this machine, untouched for a day")
        num_bytes += cached + work_bytes
        if config.delete:
            remove_oldest(max_bytes=0)
            for work in abandoned:
                shutil.rmtree(work.folder, ignore_errors=True)
    verb = "removed" if config.delete else "could be removed: run again with --delete"
    print(f"{size(num_bytes):>10}  in all {verb}")


commands: dict[str, Callable[..., None]] = {"verify": verify, "show": show, "stats": stats, "gc": gc}
