import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.fetch.decoder import DecoderProcess, close_decoder
from pipelines.fetch.download import Download
from pipelines.fetch.drop_reasons import ImageError
from pipelines.fetch.http_client import HttpConfig
from pipelines.fetch.image_resizer import ImageResizer
from schemas.source_images import StoredImage
from schemas.tables import SCORES, URLS

sys.path.append(str(Path(__file__).parent))  # what pytest imports without it, the decoding process has to find too
from crashing_resizer import CRASH, CrashingResizer, UnstartableResizer


@dataclass(frozen=True, kw_only=True)
class CrashingDownload(Download):
    crashing: CrashingResizer

    @property
    def resizer(self) -> CrashingResizer:
        return self.crashing


@pytest.fixture(autouse=True)
def no_decoder_left():
    yield
    close_decoder()


@pytest.fixture
def crashing_image(make_image: Callable[..., bytes]) -> bytes:
    jpeg = make_image(size=(50, 50))
    return jpeg[:2] + CRASH + jpeg[2:]


def test_gives_what_the_resizer_gives(make_image):
    resizer = ImageResizer(image_size_px=40, encode_quality=95, max_pixels=10_000)
    decoder = DecoderProcess(resizer)
    contents = [
        make_image(),
        make_image(format="PNG"),
        b"no image",
        b"",
        make_image(size=(200, 200)),
        make_image(size=(90, 60)),
    ] * 2
    decodings = [decoder.submit(content) for content in contents]
    results = [decoder.finish(decoding) for decoding in decodings]
    for content, result in zip(contents, results, strict=True):
        if isinstance(result, StoredImage):
            assert result == resizer(content)
        else:
            with pytest.raises(ImageError, match=f"^{result}$"):
                resizer(content)
    assert [isinstance(result, StoredImage) for result in results] == [True, True, False, False, False, True] * 2
    decoder.close()


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("kill", "died of SIGKILL, then died of SIGKILL"),
        ("null pointer", "died of SIGSEGV, then died of SIGSEGV"),
        ("exit", "ended with status 3, then ended with status 3"),
        ("sleep", "was at work for 1 s, then was at work for 1 s"),
    ],
)
def test_an_image_that_kills_twice_is_quarantined_and_the_next_is_decoded(make_image, crashing_image, way, cause):
    decoder = DecoderProcess(CrashingResizer(way=way), limit_s=1)
    sizes = (30, 31, None, 32, 33, 34, None, 35)
    contents = [crashing_image if size is None else make_image(size=(size, size)) for size in sizes]
    results = [decoder.finish(decoding) for decoding in [decoder.submit(content) for content in contents]]
    for size, result in zip(sizes, results, strict=True):
        if size is None:
            assert str(result) == f"quarantined: its decoder {cause}"
        else:
            assert isinstance(result, StoredImage) and result.width == size
    decoder.close()


def test_a_decoder_that_takes_nothing_more_does_not_block_its_parent(make_image, crashing_image):
    """An image that is at work for ever, in code that lets no other thread run, with more behind it than a socket holds."""
    decoder = DecoderProcess(CrashingResizer(way="keep the lock"), limit_s=1)
    good = make_image()
    good += bytes(2_000_000) + good[-2:]
    decodings = [decoder.submit(content) for content in (crashing_image, good, good, good)]
    slugs = [getattr(decoder.finish(decoding), "slug", None) for decoding in decodings]
    assert slugs == ["quarantined", None, None, None]
    decoder.close()


def test_a_process_that_dies_between_two_shards_leaves_no_answer_to_a_wrong_image(make_image):
    decoder = DecoderProcess(ImageResizer(image_size_px=40, encode_quality=95, max_pixels=10_000))
    given_up = decoder.submit(make_image(size=(20, 20)))  # by a shard that failed
    decoder._process.kill()
    decoder._process.wait()
    decoder.start()
    decodings = [decoder.submit(make_image(size=(size, size))) for size in (21, 22)]
    assert [decoder.finish(decoding).width for decoding in (*decodings, given_up)] == [21, 22, 20]
    decoder.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's")
def test_memory_that_an_image_asks_for_is_refused_and_the_process_goes_on(make_image, crashing_image):
    decoder = DecoderProcess(CrashingResizer(way="memory"))
    decodings = [decoder.submit(content) for content in (make_image(), crashing_image, make_image())]
    pid = decoder.pid
    slugs = [getattr(decoder.finish(decoding), "slug", None) for decoding in decodings]
    assert (slugs, decoder.pid) == ([None, "too_much_memory", None], pid)
    decoder.close()


def test_a_crash_by_chance_costs_nothing(crashing_image, tmp_path):
    decoder = DecoderProcess(CrashingResizer(crashes=tmp_path / "crashes", num_crashes=1))
    result = decoder.finish(decoder.submit(crashing_image))
    assert isinstance(result, StoredImage) and (result.width, result.original_width) == (40, 50)
    assert (tmp_path / "crashes").read_bytes() == b"xx"
    decoder.close()


def test_a_process_that_does_not_start_is_no_fault_of_the_image(make_image):
    decoder = DecoderProcess(UnstartableResizer())
    with pytest.raises(RuntimeError, match="^the decoding process does not start: it ended with status 7$"):
        decoder.submit(make_image())
    assert isinstance(decoder.error, RuntimeError)


def test_the_process_ends_with_its_parent(tmp_path):
    code = (
        "import os, signal\n"
        "from pipelines.fetch.decoder import decoder_for\n"
        "from pipelines.fetch.image_resizer import ImageResizer\n"
        "decoder = decoder_for(ImageResizer(image_size_px=40, encode_quality=95, max_pixels=1000))\n"
        "decoder.wait_until_ready()\n"
        "print(decoder._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[3]
    parent = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    child = Path(f"/proc/{int(parent.stdout)}/stat")
    deadline = time.monotonic() + 30
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def run(web, page, make_image, crashing_image, tmp_path):
    """Download 12 good images and 2 crashing ones; outcomes by path, the tar, and how often each path was asked for."""

    def run(crashing: CrashingResizer, *, thread_count: int = 4) -> tuple[dict[str, str | None], bytes, dict[str, int]]:
        web.requests.clear()
        for i in range(14):
            web.pages[f"/{i}.jpg"] = page(body=crashing_image if i in (3, 8) else make_image(size=(50 + i, 60)))
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        folder.mkdir()
        urls = [f"http://img.test/{i}.jpg" for i in range(14)]
        keys = [f"{i:016x}" for i in range(14)]
        columns = {"key": keys, "url": urls, "caption": ["x"] * 14, "source": ["test"] * 14}
        table = pa.table({**columns, **dict.fromkeys(SCORES, pa.nulls(14))})
        http = HttpConfig(connect_to={"img.test": web.address}, robots="ignore")
        stage = CrashingDownload(crashing=crashing, thread_count=thread_count, http=http)
        rows = stage.run(table, folder=folder).to_pylist()
        asked = [path for _, path, _ in web.requests]
        outcomes = {row["url"].removeprefix("http://img.test"): row["drop_reason"] for row in rows}
        return outcomes, (folder / "images.tar").read_bytes(), {path: asked.count(path) for path in asked}

    return run


def test_one_shard_loses_its_crashing_images_and_nothing_else_and_fetches_nothing_twice(run):
    outcomes, _, asked = run(CrashingResizer())
    assert outcomes == {f"/{i}.jpg": "quarantined" if i in (3, 8) else None for i in range(14)}
    assert asked == {f"/{i}.jpg": 1 for i in range(14)}


def test_the_table_is_the_same_whatever_the_order_of_crashes(run):
    assert len({run(CrashingResizer(), thread_count=n)[1] for n in (1, 2, 7)}) == 1


def test_a_shard_in_which_a_decoder_crashes_by_chance_is_as_if_it_had_not(run, tmp_path):
    unharmed = run(CrashingResizer(num_crashes=0))
    crashes = tmp_path / "crashes"
    harmed = run(CrashingResizer(crashes=crashes, num_crashes=1))
    assert harmed == unharmed
    assert set(harmed[0].values()) == {None}
    assert crashes.read_bytes() == b"xxx"  # one crash, its second try, and the other crashing image


def test_a_decoder_that_does_not_start_fails_the_shard(web, page, make_image, tmp_path):
    web.pages["/a.jpg"] = page(body=make_image())
    row = {"key": "a", "url": "http://img.test/a.jpg", "caption": "x", "source": "test"}
    table = pa.Table.from_pylist([row], schema=URLS)
    stage = CrashingDownload(crashing=CrashingResizer(), http=HttpConfig(connect_to={"img.test": web.address}))
    with pytest.raises(RuntimeError, match="the decoding process does not start"):
        replace(stage, crashing=UnstartableResizer()).run(table, folder=tmp_path)  # type: ignore[arg-type]
