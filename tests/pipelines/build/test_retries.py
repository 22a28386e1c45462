"""Failed downloads tried again: only those, once each, and remembered by every later build."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from pipelines.build.asset_inputs import AssetInputs
from pipelines.build.asset_rates import EGRESS_BYTES_PER_URL
from pipelines.build.assets import ASSETS
from pipelines.build.build_config import BuildConfig, DatasetConfig
from pipelines.build.forecast import forecast
from pipelines.build.retries import RETRIES_NAME, Retries, reasons_of, request_retry
from pipelines.build.runner import AssetRun, Runner
from pipelines.fetch.download import IMAGES_TAR_NAME, Download
from pipelines.fetch.drop_reasons import RETRY_CLASSES, TRANSIENT_REASONS
from pipelines.fetch.http_client import HttpConfig
from pipelines.sources.captions.pairs_file import PairsFile
from pipelines.storage import KEPT
from pipelines.storage.tars import read_tar
from tests.loopback_web import Page, Web

NUM_PAIRS = 8
BUSY = {1, 5}  # answer 503 until they are fixed
GONE = {2}  # answer 404
ALL_5XX = RETRY_CLASSES["5xx"]


class FlakyWeb(Web):
    """Images ``/<i>.jpg``, and how often each was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.is_fixed = False
        self.counts: Counter[int] = Counter()

    def find(self, path: str) -> Page:
        name = path.strip("/").removesuffix(".jpg")
        if not name.isdecimal():  # robots.txt
            return Page(status=404)
        i = int(name)
        self.counts[i] += 1
        if i in GONE or (i in BUSY and not self.is_fixed):
            return Page(status=404 if i in GONE else 503)
        buffer = io.BytesIO()
        Image.linear_gradient("L").rotate(40 * i).resize((240, 200 + i)).convert("RGB").save(buffer, format="JPEG")
        return Page(body=buffer.getvalue())


@pytest.fixture
def web() -> Iterator[FlakyWeb]:
    with FlakyWeb().serving() as web:
        yield web


@pytest.fixture
def dataset(web: FlakyWeb, tmp_path: Path) -> DatasetConfig:
    """Eight pairs in two shards; the first has a busy and a gone image, the second a busy one."""
    rows = [f"http://{web.address}/{i}.jpg,a grey picture of noise {i}" for i in range(NUM_PAIRS)]
    (tmp_path / "pairs.csv").write_text("\n".join(["url,caption", *rows]) + "\n")
    return DatasetConfig(
        name="mine",
        pairs=(PairsFile(path=tmp_path / "pairs.csv"),),
        pairs_per_shard=4,
        download=Download(http=HttpConfig(allow_loopback=True, max_tries=1)),
    )


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "data", dataset="mine", console=Console(file=io.StringIO()))


def inputs_of(dataset: DatasetConfig, runner: Runner) -> AssetInputs:
    return AssetInputs(dataset=dataset, root=runner.root, tables=runner.tables, retries=Retries.read(runner.root))


def build(dataset: DatasetConfig, runner: Runner) -> dict[str, AssetRun]:
    """The assets up to the first that depends on the images."""
    inputs = inputs_of(dataset, runner)
    return {
        asset: runner.run(asset, ASSETS[asset].jobs(inputs), where="here") for asset in ("urls", "images", "filtered")
    }


def retry(dataset: DatasetConfig, runner: Runner, reasons: frozenset[str] = ALL_5XX) -> None:
    request_retry(runner.root, inputs_of(dataset, runner).downloads(), dataset.download, reasons=reasons)


def test_only_what_failed_is_asked_for_again_and_later_builds_keep_it(
    web: FlakyWeb, dataset: DatasetConfig, runner: Runner
) -> None:
    before = build(dataset, runner)["images"].tables
    assert build(dataset, runner)["images"].dropped == {"http_5xx": 2, "http_404": 1}
    assert set(web.counts.values()) == {1}

    web.is_fixed = True
    retry(dataset, runner)
    runs = build(dataset, runner)

    assert {i: count for i, count in web.counts.items() if count > 1} == dict.fromkeys(BUSY, 2)
    assert runs["images"].reasons == ["retry 1 of http_5xx"] * 2
    assert runs["images"].dropped == {"http_404": 1}
    assert runs["images"].rows_in == NUM_PAIRS
    assert runs["filtered"].reasons == ["parent changed: images 1 changed"] * 2
    for shard, table in runs["images"].tables.items():
        kept = pq.read_table(table.folder / KEPT)
        members = {sample.key: sample.members for sample in read_tar(table.folder / IMAGES_TAR_NAME)}
        assert list(members) == kept["key"].to_pylist() == sorted(kept["key"].to_pylist())
        for sample in read_tar(before[shard].folder / IMAGES_TAR_NAME):
            assert members[sample.key] == sample.members, "images of the first download stay as they are"

    again = build(dataset, runner)
    assert [run.reasons for run in again.values()] == [[], [], []]
    assert again["images"].dropped == {"http_404": 1}


def test_a_retried_table_has_the_bytes_of_one_that_never_failed(
    web: FlakyWeb, dataset: DatasetConfig, runner: Runner, tmp_path: Path
) -> None:
    build(dataset, runner)
    web.is_fixed = True
    retry(dataset, runner)
    retried = build(dataset, runner)["images"].tables
    fresh = build(dataset, Runner(tmp_path / "fresh", dataset="mine", console=runner.console))["images"].tables

    assert {s: t.manifest.files for s, t in retried.items()} == {s: t.manifest.files for s, t in fresh.items()}


def test_a_retry_in_vain_changes_nothing_downstream_and_may_be_repeated(
    web: FlakyWeb, dataset: DatasetConfig, runner: Runner
) -> None:
    build(dataset, runner)
    retry(dataset, runner)
    runs = build(dataset, runner)
    assert runs["images"].reasons == ["retry 1 of http_5xx"] * 2
    assert runs["filtered"].reasons == []

    web.is_fixed = True
    retry(dataset, runner)
    runs = build(dataset, runner)
    assert runs["images"].reasons == ["retry 2 of http_5xx"] * 2
    assert runs["images"].dropped == {"http_404": 1}
    assert {web.counts[i] for i in BUSY} == {3}
    assert all(web.counts[i] == 1 for i in range(NUM_PAIRS) if i not in BUSY)


def test_only_shards_with_such_a_row_are_touched(web: FlakyWeb, dataset: DatasetConfig, runner: Runner) -> None:
    build(dataset, runner)
    retry(dataset, runner, frozenset({"http_404"}))

    assert build(dataset, runner)["images"].reasons == ["retry 1 of http_404"]
    assert web.counts[2] == 2


def test_a_retry_that_was_killed_is_finished_by_the_next_build(
    web: FlakyWeb, dataset: DatasetConfig, runner: Runner
) -> None:
    build(dataset, runner)
    web.is_fixed = True
    retry(dataset, runner)  # the build that was to follow never came
    retry(dataset, runner)  # and the person asks once more, which adds no second attempt

    assert build(dataset, runner)["images"].reasons == ["retry 1 of http_5xx"] * 2
    assert {web.counts[i] for i in BUSY} == {2}


def test_what_a_retry_started_from_may_be_gone(web: FlakyWeb, dataset: DatasetConfig, runner: Runner) -> None:
    first = build(dataset, runner)["images"].tables
    web.is_fixed = True
    retry(dataset, runner)
    build(dataset, runner)
    for table in first.values():
        (table.folder / "MANIFEST.json").unlink()

    assert build(dataset, runner)["images"].reasons == []

    for table in build(dataset, runner)["images"].tables.values():
        (table.folder / "MANIFEST.json").unlink()
    runs = build(dataset, runner)
    assert runs["images"].reasons == ["unfinished or gone"] * 2
    assert runs["images"].dropped == {"http_404": 1}


def test_another_dataset_of_the_same_root_has_the_retried_images(
    web: FlakyWeb, dataset: DatasetConfig, runner: Runner
) -> None:
    build(dataset, runner)
    web.is_fixed = True
    retry(dataset, runner)
    build(dataset, runner)

    other = build(dataset, Runner(runner.root, dataset="other", console=runner.console))
    assert other["images"].reasons == []
    assert other["images"].dropped == {"http_404": 1}


def test_errors_say_what_to_do(dataset: DatasetConfig, runner: Runner) -> None:
    build(dataset, runner)
    with pytest.raises(ValueError, match=r"nothing to retry: no row was dropped for dns, timeout"):
        retry(dataset, runner, reasons_of("dns, timeout"))
    with pytest.raises(ValueError, match=r"--retry dns,slow: name one or more of dns, connection, timeout, "):
        reasons_of("dns,slow")
    with pytest.raises(ValueError, match=r"--retry ,: name one or more of "):
        reasons_of(",")
    (runner.root / RETRIES_NAME).write_text(json.dumps({"x": 1}))
    with pytest.raises(
        ValueError, match=r"retries\.json is damaged: x: Input should be a valid array; bring back a copy"
    ):
        Retries.read(runner.root)


def test_classes_cover_what_may_pass() -> None:
    assert reasons_of("transient") == TRANSIENT_REASONS
    assert reasons_of("dns,timeout,5xx") == {"dns", "timeout", "http_5xx"}
    classes = [reasons for name, reasons in RETRY_CLASSES.items() if name != "transient"]
    assert frozenset[str]().union(*classes) >= TRANSIENT_REASONS


def test_a_plan_tells_what_a_retry_would_do_and_writes_nothing(
    web: FlakyWeb, dataset: DatasetConfig, tmp_path: Path
) -> None:
    config = BuildConfig(urls=(tmp_path / "pairs.csv",), root=tmp_path / "data", allow_loopback=True, name="planned")
    runner = Runner(config.root, dataset="planned", console=Console(file=io.StringIO()))
    build(config.dataset(), runner)
    asked = web.counts.copy()

    entries = {entry.asset: entry for entry in forecast(config, retry="5xx,dns")}

    images = entries["images"]
    assert (images.num_jobs, images.num_rows, images.egress_bytes) == (1, len(BUSY), len(BUSY) * EGRESS_BYTES_PER_URL)
    assert images.why == "retry 1 of http_5xx (pairs-00000)"
    assert entries["filtered"].why == "depends on 1 changed shard of images"
    assert not (config.root / RETRIES_NAME).exists()
    assert web.counts == asked
