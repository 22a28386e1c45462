"""Annotation parsing: seconds and peak memory of reading one large COCO JSON, of this checkout and of another one.

``python benchmarks/annotations.py`` writes an instances JSON as COCO's is (polygons, areas, crowds) and indexes it with
`pipelines.sources.boxes.coco_json`, in fresh processes. ``--against FOLDER`` names another checkout to compare
with: the two take turns, and the command fails if this one is slower or needs more memory. The memory is the peak of the
process after its imports, so that what other modules need does not count.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.processes import ROOT, interleaved, job_process, memory_bytes

NUM_CATEGORIES = 80
IMAGE_WH = (640, 480)
SLACK = 1.05  # two runs of one checkout differ by so much


def write_instances(path: Path, *, num_annotations: int, num_images: int) -> None:
    """An instances JSON, written piece by piece; equal arguments give equal bytes."""
    rng = random.Random(0)
    width, height = IMAGE_WH
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        for i in range(num_images):
            name = f"{i + 1:012d}.jpg"
            image = {"license": 4, "file_name": name, "coco_url": f"http://images.cocodataset.org/train2017/{name}"}
            image |= {"height": height, "width": width, "date_captured": "2013-11-14 17:02:52", "id": i + 1}
            file.write(", " * (i > 0) + json.dumps(image))
        file.write('], "annotations": [')
        for i in range(num_annotations):
            w, h = rng.uniform(8, width / 2), rng.uniform(8, height / 2)
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            points = [round(x + w * rng.random() if k % 2 == 0 else y + h * rng.random(), 2) for k in range(40)]
            annotation = {
                "segmentation": [points],
                "area": round(w * h / 2, 4),
                "iscrowd": int(i % 100 == 0),
                "image_id": rng.randint(1, num_images),
                "bbox": [round(side, 2) for side in (x, y, w, h)],
                "category_id": rng.randint(1, NUM_CATEGORIES),
                "id": i + 1,
            }
            file.write(", " * (i > 0) + json.dumps(annotation))
        categories = [{"supercategory": "thing", "id": i + 1, "name": f"thing {i + 1}"} for i in range(NUM_CATEGORIES)]
        file.write('], "categories": ' + json.dumps(categories) + "}")


def measure(path: Path) -> dict[str, float]:
    """Seconds and peak MB of one index in this process."""
    from pipelines.sources.boxes.coco import Coco

    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    started = time.perf_counter()
    index = Coco(annotations=path, images=()).coco
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak_mb": (memory_bytes("VmHWM") - before) / 2**20,
        "kept_mb": (memory_bytes("VmRSS") - before) / 2**20,
        "num_boxes": sum(len(image.annotations) for image in index.images),
    }


def run_measure(path: Path, checkout: Path) -> dict[str, float]:
    """`measure` in a fresh process whose packages are those of a checkout."""
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--measure", str(path)]
    arguments = job_process(PYTHONPATH=str(checkout)) | {"cwd": checkout}
    result: dict[str, float] = json.loads(
        subprocess.run(command, **arguments, stdout=subprocess.PIPE, check=True).stdout
    )
    return result


def main(
    *, num_annotations: int = 1_000_000, num_images: int = 100_000, rounds: int = 3, against: Path | None = None
) -> None:
    """Measure how long a large annotation file takes to read, and how much memory.

    Args:
        num_annotations: in the file.
        num_images: in the file.
        rounds: fresh processes a checkout.
        against: another checkout, to compare with.
    """
    checkouts = {"this": ROOT} | ({"against": against.resolve()} if against else {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_instances(path, num_annotations=num_annotations, num_images=num_images)
        title = f"{num_annotations:,} annotations, {num_images:,} images, {path.stat().st_size / 2**20:.0f} MB"
        ways = {name: partial(run_measure, path, checkout) for name, checkout in checkouts.items()}
        results = interleaved(ways, rounds=rounds)
    table = Table("checkout", "seconds", "peak, MB", "kept, MB", "annotations", title=title)
    keys = ("seconds", "peak_mb", "kept_mb", "num_boxes")
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in keys} for name, runs in results.items()
    }
    for name, figures in medians.items():
        table.add_row(name, f"{figures['seconds']:.2f}", *(f"{figures[key]:,.0f}" for key in keys[1:]))
    if against:
        ratios = {key: medians["this"][key] / medians["against"][key] for key in keys}
        table.add_row("ratio", *(f"{ratios[key]:.2f}" for key in keys))
    Console().print(table)
    if against and max(ratios["seconds"], ratios["peak_mb"]) > SLACK:
        sys.exit("benchmarks/annotations.py: this checkout is slower or needs more memory")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        tyro.cli(main)
