"""Images that come with their captions are stored as the download stage stores those of the web."""

import hashlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from pipelines.fetch.download import Download
from pipelines.fetch.http_client import HttpConfig
from pipelines.fetch.ingest import Ingest
from pipelines.stages.urls import Urls
from pipelines.storage.tars import read_tar
from schemas.source_images import ImagePair, pair_key
from schemas.tables import IMAGES, PAIRS, with_drop_reason

sys.path.append(str(Path(__file__).parent))  # what pytest imports without it, the decoding process has to find too
from crashing_resizer import CRASH, CrashingResizer


def pair(number: int, image: bytes | None, *, caption: str | None = "a red apple", **options) -> ImagePair:
    return ImagePair(url=f"http://img.test/{number}", caption=caption, image=image, **options)


def test_rows_and_bytes_equal_those_of_the_download(web, page, make_image, tmp_path):
    jpeg = make_image(size=(90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    contents = [
        jpeg, make_image(size=(30, 20)), make_image(format="PNG", size=(200, 70)), make_image(mode="L"), make_image(exif=exif),
        make_image(format="WEBP"), jpeg[:-100], b"<html>", b"", make_image(format="PNG")[:-30], make_image(size=(300, 300)),
    ]  # fmt: skip
    web.pages = {f"/{i}": page(body=content) for i, content in enumerate(contents)}
    options = {"image_size_px": 40, "max_pixels": 50_000}
    for name in ("web", "mirror"):
        (tmp_path / name).mkdir()
    pairs = [pair(i, content) for i, content in enumerate(contents)]

    http = HttpConfig(deadline_s=5, connect_to={"img.test": web.address})
    urls = Urls(source="s")(PAIRS.empty_table().from_pylist([{"url": p.url, "caption": p.caption} for p in pairs]))
    wanted = Download(http=http, thread_count=2, **options).run(urls.drop(["drop_reason"]), folder=tmp_path / "web")
    found = Ingest(**options).run(reversed(pairs), source="s", folder=tmp_path / "mirror")

    kept = [row for row in wanted.to_pylist() if row["drop_reason"] is None]
    assert [row for row in found.to_pylist() if row["drop_reason"] is None] == kept
    assert len(kept) == 6
    reasons = {row["key"]: row["drop_reason"] for row in wanted.to_pylist()}
    assert {row["key"]: row["drop_reason"] for row in found.to_pylist()} == reasons
    assert set(reasons.values()) == {None, "truncated", "not_an_image", "too_many_pixels"}
    assert (tmp_path / "mirror" / "images.tar").read_bytes() == (tmp_path / "web" / "images.tar").read_bytes()
    assert (found.schema, os.listdir(tmp_path / "mirror")) == (with_drop_reason(IMAGES), ["images.tar"])


def test_the_scores_of_a_pair_are_in_its_row(make_image, tmp_path):
    pairs = [pair(0, make_image(), scores={"similarity": 0.25}), pair(1, b"<html>", scores={"punsafe": 1.0})]
    rows = {row["url"]: row for row in Ingest().run(pairs, source="s", folder=tmp_path).to_pylist()}
    scores = [(row["similarity"], row["punsafe"]) for _, row in sorted(rows.items())]
    assert scores == [(0.25, None), (None, 1.0)]


def test_every_reason_that_comes_before_the_image(make_image, tmp_path):
    jpeg = make_image()
    pairs = [
        pair(0, jpeg),
        pair(1, None),
        pair(2, None, drop_reason="too_large"),
        pair(3, jpeg, caption=None),
        pair(4, jpeg, caption=" \t"),
        pair(0, jpeg),
        pair(0, jpeg, caption="a blue apple"),
    ]
    rows = Ingest(image_size_px=40).run(pairs, source="s", folder=tmp_path).to_pylist()

    found = sorted((row["url"][-1], row["caption"], row["drop_reason"] or "") for row in rows)
    assert found == [
        ("0", "a blue apple", ""), ("0", "a red apple", ""), ("0", "a red apple", "duplicate_pair"),
        ("1", "a red apple", "image_missing"), ("2", "a red apple", "too_large"), ("3", "", "caption_not_text"),
        ("4", " \t", "caption_empty"),
    ]  # fmt: skip
    assert all(row["key"] == pair_key(row["url"], row["caption"]) and row["source"] == "s" for row in rows)
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    first = next(row for row in rows if row["drop_reason"] is None)
    assert first["sha256"] == hashlib.sha256(jpeg).hexdigest()
    samples = {sample.key: sample.members["jpg"] for sample in read_tar(tmp_path / "images.tar")}
    assert sorted(samples) == sorted(row["key"] for row in rows if row["drop_reason"] is None)
    assert Image.open(io.BytesIO(samples[first["key"]])).size == (first["width"], first["height"]) == (53, 40)


@dataclass(frozen=True, kw_only=True)
class CrashingIngest(Ingest):
    crashing: CrashingResizer

    @property
    def resizer(self) -> CrashingResizer:
        return self.crashing


def poisoned(jpeg: bytes) -> bytes:
    return jpeg[:2] + CRASH + jpeg[2:]


@pytest.mark.parametrize("way", ["kill", "null pointer", "exit"])
def test_an_image_that_crashes_its_decoder_costs_its_own_rows(make_image, tmp_path, way):
    images = [make_image(size=(50 + i, 60)) for i in range(12)]
    images[3], images[4], images[9] = (poisoned(images[i]) for i in (3, 4, 9))
    pairs = [pair(i, image, caption=f"caption {j}") for i, image in enumerate(images) for j in range(2)]
    table = CrashingIngest(crashing=CrashingResizer(way=way)).run(pairs, source="s", folder=tmp_path)

    found = {(row["url"].rpartition("/")[2], row["caption"]): row for row in table.to_pylist()}
    assert {key: row["drop_reason"] for key, row in found.items()} == {
        (str(i), f"caption {j}"): "quarantined" if i in (3, 4, 9) else None for i in range(12) for j in range(2)
    }
    assert {row["sha256"] is None for row in found.values() if row["drop_reason"]} == {True}
    others = [p for i, p in enumerate(pairs) if i // 2 not in (3, 4, 9)]
    (tmp_path / "others").mkdir()
    Ingest(image_size_px=40).run(others, source="s", folder=tmp_path / "others")
    assert (tmp_path / "images.tar").read_bytes() == (tmp_path / "others" / "images.tar").read_bytes()


def test_captions_of_one_image_are_decoded_once(make_image, tmp_path):
    counting = CrashingResizer(crashes=tmp_path / "decoded", num_crashes=0)
    images = [poisoned(make_image(size=(80 + i, 60))) for i in range(2)]
    pairs = [pair(i, image, caption=f"caption {j}") for i, image in enumerate(images) for j in range(100)]
    table = CrashingIngest(crashing=counting).run(pairs, source="s", folder=tmp_path)

    assert ((tmp_path / "decoded").read_bytes(), table["drop_reason"].null_count) == (b"xx", 200)
    samples = {sample.key: sample.members["jpg"] for sample in read_tar(tmp_path / "images.tar")}
    assert list(samples) == table["key"].to_pylist()
    by_url: dict[str, set[tuple[bytes, str]]] = {}
    for row in table.to_pylist():
        by_url.setdefault(row["url"], set()).add((samples[row["key"]], row["sha256"]))
    assert [len(found) for found in by_url.values()] == [1, 1]


def test_a_shard_without_any_pair_is_an_empty_table(tmp_path):
    table = Ingest().run([], source="s", folder=tmp_path)
    assert (table.num_rows, table.schema) == (0, with_drop_reason(IMAGES))
    assert list(read_tar(tmp_path / "images.tar")) == []


def test_the_settings_are_those_of_the_download():
    assert Ingest().config == Download().config
    assert Ingest(image_size_px=64).config != Ingest().config


def test_a_full_disk_says_so_and_leaves_nothing(make_image, tmp_path, file_size_limit):
    big = make_image(size=(600, 600))
    with pytest.raises(OSError, match="no space left while writing"), file_size_limit(2000):
        Ingest(image_size_px=600).run([pair(i, big) for i in range(40)], source="s", folder=tmp_path)
    assert os.listdir(tmp_path) == []
