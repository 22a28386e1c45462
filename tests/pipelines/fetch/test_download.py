import hashlib
import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.fetch.download import Download
from pipelines.fetch.http_client import HttpConfig
from pipelines.fetch.image_resizer import ImageResizer
from pipelines.fetch.spool import DATABASE_NAME, Spool
from pipelines.stages.urls import Urls
from pipelines.storage.tars import read_tar
from schemas.tables import IMAGES, URLS, with_drop_reason

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(web, tmp_path):
    """Download paths of the web; rows by path, and the images by key."""

    def run(paths: list[str], **options):
        pairs = pa.table({"url": [f"http://img.test{p}" for p in paths], "caption": ["a red apple"] * len(paths)})
        table = Urls(source="test")(pairs).drop(["drop_reason"])
        http = HttpConfig(deadline_s=2, connect_to={"img.test": web.address}, max_bytes=200_000)
        stage = replace(Download(image_size_px=40, thread_count=4, http=http), **options)
        result = stage.run(table, folder=tmp_path)
        assert os.listdir(tmp_path) == ["images.tar"]
        samples = list(read_tar(tmp_path / "images.tar"))
        assert all(set(sample.members) == {"jpg"} for sample in samples)
        images = {sample.key: Image.open(io.BytesIO(sample.members["jpg"])) for sample in samples}
        keys = result.column("key").to_pylist()
        assert keys == sorted(keys)
        assert list(images) == [row["key"] for row in result.to_pylist() if row["drop_reason"] is None]
        assert result.schema == with_drop_reason(IMAGES)
        return {row["url"].removeprefix("http://img.test"): row for row in result.to_pylist()}, images

    return run


def colours(image: Image.Image) -> tuple[str, str]:
    """The nearest of red, blue and white at the left and the right."""

    def name(x: int) -> str:
        red, _, blue = np.asarray(image.convert("RGB"))[image.height // 2, x]
        return "white" if red > 200 and blue > 200 else "red" if red > blue else "blue"

    return name(2), name(image.width - 3)


def test_images_are_made_smaller_never_larger(run, web, page, make_image):
    sizes = {"/large.jpg": (80, 60), "/small.jpg": (30, 20), "/tall.jpg": (40, 200)}
    for path, size in sizes.items():
        web.pages[path] = page(body=make_image(size=size))
    rows, images = run(list(sizes))
    stored = {path: (row["width"], row["height"]) for path, row in rows.items()}
    assert stored == {"/large.jpg": (53, 40), "/small.jpg": (30, 20), "/tall.jpg": (40, 200)}
    assert {path: (row["original_width"], row["original_height"]) for path, row in rows.items()} == sizes
    for path, row in rows.items():
        image = images[row["key"]]
        assert image.format == "JPEG"
        assert image.size == stored[path]
        assert row["sha256"] == hashlib.sha256(web.pages[path].body).hexdigest()
        assert (
            row["phash"]
            == ImageResizer(image_size_px=40, encode_quality=95, max_pixels=10**6)(web.pages[path].body).phash
        )
        assert imagehash.hex_to_hash(row["phash"]) - imagehash.phash(image) <= 4


def test_every_failure_by_its_slug(run, web, page, make_image):
    jpeg, png = make_image(), make_image(format="PNG")
    thumbnail = jpeg[:2] + b"\xff\xe1\x00\x06\xff\xd8\xff\xd9" + jpeg[2:]  # an end mark before the image, as in EXIF
    web.pages |= {
        "/403": page(status=403),
        "/404": page(status=404),
        "/410": page(status=410),
        "/429": page(status=429),
        "/500": page(status=500),
        "/451": page(status=451),
        "/loop": page(status=302, headers={"Location": "/loop"}),
        "/file": page(status=302, headers={"Location": "file:///etc/hostname"}),
        "/inside": page(status=302, headers={"Location": "http://127.0.0.1:1234/"}),
        "/drip": page(body=b"x" * 1000, byte_interval_s=0.05),
        "/large": page(announced_bytes=10**9),
        "/page": page(body=b"<html>not found, but 200</html>"),
        "/empty": page(),
        "/short": page(body=jpeg[:-100], announced_bytes=len(jpeg)),
        "/cut.jpg": page(body=jpeg[:-100]),
        "/cut-thumbnail.jpg": page(body=thumbnail[:-100]),
        "/cut.png": page(body=png[:-30]),
        "/noai": page(body=jpeg, headers={"X-Robots-Tag": "noai"}),
        "/noai-us": page(body=jpeg, headers={"X-Robots-Tag": "detclipv2-dataset-builder: noindex"}),
        "/noai-them": page(body=jpeg, headers={"X-Robots-Tag": "otherbot: noai"}),
        "/bomb": page(body=make_image(size=(1000, 500), format="PNG")),
        "/good.jpg": page(body=jpeg),
    }
    rows, _ = run(list(web.pages), max_pixels=499_999)
    assert {path: row["drop_reason"] for path, row in rows.items()} == {
        "/403": "http_403",
        "/404": "http_404",
        "/410": "http_404",
        "/429": "http_429",
        "/500": "http_5xx",
        "/451": "http_other",
        "/loop": "http_other",
        "/file": "bad_redirect",
        "/inside": "forbidden_address",
        "/drip": "timeout",
        "/large": "too_large",
        "/page": "not_an_image",
        "/empty": "not_an_image",
        "/short": "truncated",
        "/cut.jpg": "truncated",
        "/cut-thumbnail.jpg": "truncated",
        "/cut.png": "truncated",
        "/noai": "opted_out",
        "/noai-us": "opted_out",
        "/noai-them": None,
        "/bomb": "too_many_pixels",
        "/good.jpg": None,
    }
    assert {rows["/404"][name] for name in ("width", "original_width", "sha256", "phash")} == {None}


def test_urls_that_cannot_be_requested(run, tmp_path):
    urls = ["no scheme", "ftp://a.test/", "http://127.0.0.1:1234/", "http://a.test:99999/"]
    rows = [{"key": key, "url": url, "caption": "", "source": ""} for key, url in zip("abcd", urls, strict=True)]
    table = pa.Table.from_pylist(rows, schema=URLS)
    result = Download(http=HttpConfig(allow_loopback=True)).run(table, folder=tmp_path)
    assert result.column("drop_reason").to_pylist() == ["bad_url", "bad_url", "connection", "bad_url"]


def test_formats_orientation_and_depth(run, web, page, make_image):
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down: red comes to the right
    grey16 = io.BytesIO()
    Image.new("I;16", (50, 50), 128 * 256).save(grey16, "PNG")
    transparent = io.BytesIO()
    Image.new("RGBA", (50, 50), (255, 0, 0, 0)).save(transparent, "PNG")
    web.pages |= {
        "/upright.jpg": page(body=make_image()),
        "/turned.jpg": page(body=make_image(exif=turned)),
        "/cmyk.jpg": page(body=make_image(mode="CMYK")),
        "/palette.gif": page(body=make_image(format="GIF", mode="P")),
        "/lossless.png": page(body=make_image(format="PNG")),
        "/new.webp": page(body=make_image(format="WEBP")),
        "/transparent.png": page(body=transparent.getvalue()),
        "/grey16.png": page(body=grey16.getvalue()),
    }
    rows, images = run(list(web.pages))
    assert [row["drop_reason"] for row in rows.values()] == [None] * 8
    assert {path: colours(images[row["key"]]) for path, row in rows.items() if path != "/grey16.png"} == {
        "/upright.jpg": ("red", "blue"),
        "/turned.jpg": ("blue", "red"),
        "/cmyk.jpg": ("red", "blue"),
        "/palette.gif": ("red", "blue"),
        "/lossless.png": ("red", "blue"),
        "/new.webp": ("red", "blue"),
        "/transparent.png": ("white", "white"),
    }
    assert images[rows["/grey16.png"]["key"]].convert("L").getpixel((20, 20)) == pytest.approx(128, abs=2)


def test_the_same_web_gives_the_same_bytes_whatever_the_threads(run, web, page, make_image, tmp_path):
    for i in range(12):
        web.pages[f"/{i}.jpg"] = page(body=make_image(size=(50 + i, 60)), byte_interval_s=0.00001 * (i % 3))
    run(list(web.pages), thread_count=1)
    first = (tmp_path / "images.tar").read_bytes()
    (tmp_path / "images.tar").unlink()
    run(list(web.pages), thread_count=8)
    assert (tmp_path / "images.tar").read_bytes() == first


def test_no_rows(run):
    assert run([]) == ({}, {})


def test_a_full_disk_stops_the_shard_with_its_cause(run, web, page, tmp_path, file_size_limit):
    noise = io.BytesIO()
    Image.effect_noise((300, 300), 100).save(noise, "PNG")
    web.pages["/noise.png"] = page(body=noise.getvalue())
    with file_size_limit(20_000), pytest.raises(OSError, match="no space left while writing: free some and run again"):
        run(["/noise.png"], image_size_px=300)
    assert os.listdir(tmp_path) == []


def test_a_failure_does_not_wait_for_the_urls_that_are_left(run, web, page, make_image, tmp_path, monkeypatch):
    """Sixty URLs for two threads, which wait for a slot: the failure ends them."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    web.pages |= {f"/{i}.jpg": page(body=make_image()) for i in range(60)}
    monkeypatch.setattr(Spool, "add", fail)
    started = time.monotonic()
    with pytest.raises(KeyError, match="a bug"):
        run(list(web.pages), thread_count=2)
    assert time.monotonic() - started < 30
    assert os.listdir(tmp_path) == []
    assert len(num_requests(web)) < 30


def test_nothing_is_written_to_the_terminal(run, web, page, make_image, capfd):
    web.pages |= {"/good.jpg": page(body=make_image()), "/cut.jpg": page(body=make_image()[:-50])}
    run(list(web.pages))
    assert capfd.readouterr() == ("", "")


def test_golden(run, web, page, make_image, golden):
    web.pages |= {"/a.jpg": page(body=make_image()), "/b.png": page(body=make_image(format="PNG", size=(200, 50)))}
    rows, _ = run(["/a.jpg", "/b.png", "/missing"])
    columns = ("key", "width", "height", "original_width", "original_height", "phash", "drop_reason")
    golden(Download(image_size_px=40), [{name: row[name] for name in columns} for row in rows.values()])


def num_requests(web) -> Counter[str]:
    return Counter(path for _, path, _ in web.requests if path != "/robots.txt")


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from pipelines.fetch.download import Download
from pipelines.fetch.http_client import HttpConfig
from pipelines.fetch.image_resizer import ImageResizer
from pipelines.fetch.spool import Spool

address, urls, folder, spool = sys.argv[1:]
add = Spool.add
def add_and_die(self, key, row, *, jpeg):
    add(self, key, row, jpeg=jpeg)
    if len(self.rows) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
Spool.add = add_and_die
http = HttpConfig(deadline_s=2, connect_to={"img.test": address}, max_bytes=200_000)
Download(image_size_px=40, thread_count=4, http=http).run(pq.read_table(urls), folder=Path(folder), spool=Path(spool))
"""


def test_a_killed_download_goes_on_and_asks_for_nothing_twice(web, page, make_image, tmp_path):
    web.pages |= {f"/{i}.jpg": page(body=make_image(size=(50 + i, 60))) for i in range(16)}
    web.pages |= {"/404": page(status=404), "/cut.jpg": page(body=make_image()[:-50])}
    pairs = pa.table({"url": [f"http://img.test{p}" for p in web.pages], "caption": ["a red apple"] * len(web.pages)})
    table = Urls(source="test")(pairs).drop(["drop_reason"])
    pq.write_table(table, tmp_path / "urls.parquet")
    http = HttpConfig(deadline_s=2, connect_to={"img.test": web.address}, max_bytes=200_000)
    stage = Download(image_size_px=40, thread_count=4, http=http)
    whole, resumed, spool = tmp_path / "whole", tmp_path / "resumed", tmp_path / "spool"
    for folder in (whole, resumed):
        folder.mkdir()
    expected = stage.run(table, folder=whole)
    web.requests.clear()

    command = [sys.executable, "-c", KILLED, web.address, str(tmp_path / "urls.parquet"), str(resumed), str(spool)]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    asked = num_requests(web)
    with closing(sqlite3.connect(shutil.copytree(spool, tmp_path / "copy") / DATABASE_NAME)) as database:
        num_settled, num_kept = (
            database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("rows", "answers")
        )
    assert num_settled == 5 and 5 <= len(asked) <= 18
    assert num_kept

    assert stage.run(table, folder=resumed, spool=spool).equals(expected)
    assert (resumed / "images.tar").read_bytes() == (whole / "images.tar").read_bytes()
    again = num_requests(web)
    assert again.keys() == web.pages.keys()
    # At most those whose answer was on its way to one of the four threads, and the 404, which has no body to be kept.
    assert again.total() - len(again) <= 5
    stage.run(table, folder=resumed, spool=spool)
    assert num_requests(web) == again


def test_a_url_of_several_captions_is_fetched_once(web, page, make_image, tmp_path):
    """Each row has the answer, and the tar the image under each key; a run that goes on asks for nothing again."""
    web.pages |= {"/cat.jpg": page(body=make_image()), "/dog.jpg": page(body=make_image(size=(60, 90)))}
    paths = ["/cat.jpg"] * 5 + ["/gone.jpg"] * 3 + ["/dog.jpg"] * 2
    pairs = {
        "url": [f"http://img.test{path}" for path in paths],
        "caption": [f"caption {i}" for i in range(len(paths))],
    }
    table = Urls(source="test")(pa.table(pairs)).drop(["drop_reason"])
    http = HttpConfig(deadline_s=2, connect_to={"img.test": web.address})
    (spool := tmp_path / "spool").mkdir()
    for name in ("first", "again"):
        (folder := tmp_path / name).mkdir()
        result = Download(image_size_px=40, http=http).run(table, folder=folder, spool=spool)
        assert num_requests(web) == dict.fromkeys(paths, 1)
        assert result.num_rows == 10
        rows = [(row["url"][15:], row["drop_reason"], row["sha256"]) for row in result.to_pylist()]
        cat, dog = (hashlib.sha256(web.pages[path].body).hexdigest() for path in ("/cat.jpg", "/dog.jpg"))
        wanted = [("/cat.jpg", None, cat)] * 5 + [("/dog.jpg", None, dog)] * 2 + [("/gone.jpg", "http_404", None)] * 3
        assert sorted(rows, key=lambda row: row[0]) == wanted
        images = {sample.key: sample.members["jpg"] for sample in read_tar(folder / "images.tar")}
        assert list(images) == [row["key"] for row in result.to_pylist() if row["drop_reason"] is None]
        assert len(set(images.values())) == 2


def test_failures_that_the_kill_may_have_caused_are_tried_again(web, page, make_image, tmp_path):
    keys = {"http_404": "/gone.jpg", "connection": "/back.jpg", "truncated": "/cut.jpg"}
    web.pages |= {path: page(body=make_image()) for path in keys.values()}
    rows = [{"key": k, "url": f"http://img.test{path}", "caption": "", "source": ""} for k, path in keys.items()]
    table = pa.Table.from_pylist(rows, schema=URLS)
    spool = tmp_path / "spool"
    spool.mkdir()
    with Spool(spool) as before:
        for reason in keys:
            before.add(reason, {"drop_reason": reason}, jpeg=None)
    http = HttpConfig(deadline_s=2, connect_to={"img.test": web.address})
    folder = tmp_path / "folder"
    folder.mkdir()
    result = Download(image_size_px=40, http=http).run(table, folder=folder, spool=spool)
    assert dict(zip(result["key"].to_pylist(), result["drop_reason"].to_pylist(), strict=True)) == {
        "connection": None,
        "http_404": "http_404",
        "truncated": "truncated",
    }
    assert [sample.key for sample in read_tar(folder / "images.tar")] == ["connection"]
