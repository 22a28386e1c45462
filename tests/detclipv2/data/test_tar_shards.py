import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detclipv2.data.tar_shards import Shard, ShardIndex, key_and_suffix, parse_record, scan_shard

Annotation = Callable[..., dict[str, Any]]


def _tar(path: Path, members: dict[str, bytes], **options: Any) -> str:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            if name.endswith("/"):
                folder = tarfile.TarInfo(name)
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def test_an_index_from_the_tar(tmp_path: Path) -> None:
    sizes = {"a": (4, 3), "b": (3, 4), "c": (3, 3)}
    members = {}
    for key, (width, height) in sizes.items():
        members[f"{key}.jpg"] = b"x" * 600
        members[f"{key}.json"] = f'{{"width": {width}, "height": {height}}}'.encode()
    index = scan_shard(_tar(tmp_path / "a.tar", members), supervision="detection")

    assert index.offsets.tolist() == [0, 2560, 5120]
    assert index.num_bytes.tolist() == [2560] * 3  # two headers, two blocks and one
    assert index.is_portrait.tolist() == [False, True, False]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_any_tar_gives_its_records_back(tmp_path: Path, layout: int) -> None:
    folder = "d.1/" + "long" * 20  # names of more than 100 bytes have headers of their own
    names = [f"{folder}/{key}.{suffix}" for key in ("one" * 8, "two" * 8) for suffix in ("JPG", "json")]
    members = {"d.1/": b""} | {name: name.encode() * 99 for name in names}
    url = _tar(tmp_path / "a.tar", members, format=layout)
    content = Path(url).read_bytes()
    index = scan_shard(url, supervision="image_text")

    records = [
        parse_record(io.BytesIO(content[offset : offset + length]), url=url, offset=offset)
        for offset, length in zip(index.offsets.tolist(), index.num_bytes.tolist(), strict=True)
    ]
    assert records == [
        {"__url__": url, "__key__": f"{folder}/{key}"}
        | {suffix.lower(): members[f"{folder}/{key}.{suffix}"] for suffix in ("JPG", "json")}
        for key in ("one" * 8, "two" * 8)
    ]


def test_keys_end_at_the_first_dot_of_the_file() -> None:
    assert key_and_suffix("a.jpg") == ("a", "jpg")
    assert key_and_suffix("x.y/a.seg.PNG") == ("x.y/a", "seg.png")


def test_a_damaged_tar_is_named(tmp_path: Path, write_shard: Callable[..., Shard], annotation: Annotation) -> None:
    path = Path(write_shard("00000", {key: annotation() for key in "ab"}).url)
    content = path.read_bytes()
    path.write_bytes(content[:700])
    with pytest.raises(ValueError, match=f"^{path} is damaged: unexpected end of data; build the dataset again"):
        scan_shard(str(path), supervision="detection")
    path.write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match=f"^{path} is damaged: "):
        scan_shard(str(path), supervision="detection")


def test_an_annotation_without_a_size_is_named(tmp_path: Path) -> None:
    url = _tar(tmp_path / "a.tar", {"k.jpg": b"", "k.json": b"{}"})
    with pytest.raises(ValueError, match=f"^{url}, key 'k': cannot be decoded: KeyError: 'height'"):
        scan_shard(url, supervision="grounding")
    assert len(scan_shard(url, supervision="image_text").offsets) == 1, "a pair becomes a square in any case"


@pytest.mark.parametrize("num_samples", [1, 3])
def test_another_number_of_samples(write_shard: Callable[..., Shard], annotation: Annotation, num_samples: int) -> None:
    written = write_shard("00000", {key: annotation() for key in "ab"})
    index = written.read_index("detection")
    for shard in (
        Shard(url=written.url, num_samples=num_samples),
        Shard(url=written.url, num_samples=num_samples, index=lambda: index),
    ):
        with pytest.raises(ValueError, match=f"^{written.url}: 2 samples, {num_samples} are expected: damaged; build"):
            shard.read_index("detection")


def test_the_given_index_is_taken(tmp_path: Path) -> None:
    index = ShardIndex(offsets=np.zeros(1, np.int64), num_bytes=np.ones(1, np.int64), is_portrait=np.ones(1, np.bool_))
    shard = Shard(url=str(tmp_path / "never opened"), num_samples=1, index=lambda: index)

    assert shard.read_index("detection") is index


def test_bytes_that_are_no_sample(write_shard: Callable[..., Shard], annotation: Annotation) -> None:
    shard = write_shard("00000", {key: annotation() for key in "ab"})
    content = Path(shard.url).read_bytes()
    for part, message in (
        (content, "at byte 512: key 'b' after 'a': not its index"),
        (content[:600], "at byte 512, key 'a': damaged: unexpected end of data"),
        (b"x" * 1024, "at byte 512, key None: damaged: "),
    ):
        with pytest.raises(ValueError, match=f"^{shard.url}, {message}"):
            parse_record(io.BytesIO(part), url=shard.url, offset=512)
