"""WebDataset tars of strangers: what is read, what is counted, and what is refused."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipelines.sources.captions.webdataset_mirror import MirrorShard, WebDatasetMirror
from schemas.source_images import ImagePair


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def meta(**values: Any) -> bytes:
    return json.dumps(values).encode()


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., MirrorShard]:
    def write(content: bytes, *, name: str = "cc3m-0000.tar", **options: Any) -> MirrorShard:
        (tmp_path / name).write_bytes(content)
        (shard,) = WebDatasetMirror(path=str(tmp_path / name), name="cc3m_wds", **options).shards()
        return shard

    return write


@pytest.mark.parametrize("name", ["cc3m-0000.tar", "cc3m-0000.tar.gz", "cc3m-0000.tgz"])
def test_captions_and_urls_in_every_form(shard: Callable[..., MirrorShard], name: str) -> None:
    content = tar(
        member("0001.jpg", b"one"), member("0001.txt", b"a dog\n"), member("0001.json", meta(url="http://a.test/1")),
        member("0002.json", meta(url="http://a.test/2", caption="a cat")), member("0002.PNG", b"two"),
        member("./sub/0003.webp", b"three"), member("./sub/0003.txt", b"\xc3\xa9t\xc3\xa9"),
    )  # fmt: skip
    source = shard(content if name.endswith(".tar") else gzip.compress(content), name=name)

    assert source.name == "cc3m_wds-cc3m-0000"
    assert list(source.read()) == [
        ImagePair(url="http://a.test/1", caption="a dog", image=b"one"),
        ImagePair(url="http://a.test/2", caption="a cat", image=b"two"),
        ImagePair(url=f"webdataset://cc3m_wds/{name}/sub/0003", caption="été", image=b"three"),
    ]


def test_what_cannot_be_used_has_a_reason(shard: Callable[..., MirrorShard]) -> None:
    content = tar(
        member("1.txt", b"no image"),
        member("2.jpg", b"two"),
        member("3.jpg", b"three"), member("3.json", b"{broken"),
        member("4.jpg", b"four"), member("4.json", meta(caption=4, url=["x"])),
        member("5.jpg", b"x" * 101), member("5.txt", b"too large"),
        member("6.cls", b"6"), member("6.mp4", b"x" * 1000),
        member("7.jpg", b"seven"), member("7.txt", b"x" * (2**20 + 1)),
    )  # fmt: skip
    pairs = list(shard(content, max_image_bytes=100).read())

    assert [(pair.caption, pair.image, pair.drop_reason) for pair in pairs] == [
        ("no image", None, "image_missing"),
        (None, b"two", None),
        (None, b"three", None),
        (None, b"four", None),
        ("too large", None, "too_large"),
        (None, None, "image_missing"),
        (None, b"seven", None),
    ]


def test_scores_are_those_of_the_json(shard: Callable[..., MirrorShard]) -> None:
    content = tar(
        member("1.jpg", b"one"), member("1.json", b'{"caption": "a", "similarity": 0.3, "PUNSAFE": 1}'),
        member("2.jpg", b"two"), member("2.json", b'{"caption": "a", "similarity": NaN, "punsafe": "UNLIKELY"}'),
        member("3.jpg", b"three"), member("3.txt", b"a"),
    )  # fmt: skip
    assert [pair.scores for pair in shard(content).read()] == [{"similarity": 0.3, "punsafe": 1.0}, {}, {}]


def test_no_name_becomes_a_path_and_links_are_passed_over(shard: Callable[..., MirrorShard], tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    content = tar(
        member("../../escape.jpg", b"one"), member("../../escape.txt", b"out"),
        member("/etc/passwd.jpg", b"two"), member("/etc/passwd.txt", b"root"),
        member("3.jpg", b"three"),
        member("3.txt", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.txt")),
        member("4.jpg", type=tarfile.LNKTYPE, linkname="3.jpg"), member("4.txt", b"four"),
        member("5.jpg", type=tarfile.CHRTYPE), member("5.txt", b"five"),
        member("folder", type=tarfile.DIRTYPE),
    )  # fmt: skip
    source = shard(content)
    before = sorted(tmp_path.rglob("*"))
    pairs = list(source.read())

    assert [(pair.caption, pair.image) for pair in pairs] == [
        ("out", b"one"), ("root", b"two"), (None, b"three"), ("four", None), ("five", None),
    ]  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before


def good(count: int = 30) -> bytes:
    return tar(*(m for i in range(count) for m in (member(f"{i:04d}.jpg", b"x" * 5000), member(f"{i:04d}.txt", b"a"))))


@pytest.mark.parametrize("is_zipped", [False, True])
def test_every_cut_is_noticed(shard: Callable[..., MirrorShard], is_zipped: bool) -> None:
    content = good()
    assert len(list(shard(gzip.compress(content) if is_zipped else content).read())) == 30
    # Between two members, within a header, within an image, and within the end mark.
    for length in (0, 512 + 5120, 512 + 5120 + 100, 512 + 3000, 30 * (512 + 5120 + 1024) + 512):
        cut = content[:length]
        with pytest.raises(
            ValueError, match=r"cc3m-0000.tar.* is (no whole tar|cut off or damaged at byte \d+).*: fetch"
        ):
            list(shard(gzip.compress(cut) if is_zipped else cut).read())
    if is_zipped:
        with pytest.raises(ValueError, match="is no whole tar .*: fetch it again"):
            list(shard(gzip.compress(content)[:-100]).read())


def test_a_broken_header_in_the_middle_is_noticed(shard: Callable[..., MirrorShard]) -> None:
    content = bytearray(good())
    start = 10 * (512 + 5120 + 1024)
    assert content[start : start + 8] == b"0010.jpg"
    content[start + 150] ^= 0xFF  # within the checksum
    with pytest.raises(ValueError, match=f"is cut off or damaged at byte {start}: fetch it again"):
        list(shard(bytes(content)).read())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"no tar" * 1000, {}, "is no whole tar"),
        (good(), {"max_members": 59}, "has more than 59 members"),
        (gzip.compress(good()), {"max_shard_bytes": 100_000}, "unpacks to more than 100000 bytes"),
        (
            tar(member("1.jpg", b"a"), member("2.jpg", b"b"), member("1.txt", b"c")),
            {},
            "the members of '1' do not follow each other; pack it again, sorted by name",
        ),
    ],
)
def test_what_is_refused(
    shard: Callable[..., MirrorShard], content: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"cc3m-0000.tar.* {message}"):
        list(shard(content, **options).read())


def test_a_tar_gives_a_shard_whatever_the_others_are(tmp_path: Path) -> None:
    for name in ("b/00001.tar", "b/00000.tar", "a/00000.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(good(1))
    mirror = WebDatasetMirror(path=str(tmp_path), name="m")
    configs = {shard.name: shard.config for shard in mirror.shards()}
    assert list(configs) == ["m-a_00000", "m-b_00000", "m-b_00001"]

    (tmp_path / "b" / "00002.tar").write_bytes(good(2))
    after = {shard.name: shard.config for shard in mirror.shards()}
    assert {name: after[name] for name in configs} == configs
    assert str(tmp_path) not in str(after)
    (tmp_path / "a" / "00000.tar").write_bytes(good(1))
    with pytest.raises(ValueError, match="two tars give the shard 'm-a_00000'; rename one"):
        mirror.shards()


def test_a_store_in_memory_is_read_alike() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/mirror/00000.tar", good(3))
    try:
        (shard,) = WebDatasetMirror(path="memory://mirror/*.tar", name="m").shards()
        assert [pair.url for pair in shard.read()] == [f"webdataset://m/00000.tar/{i:04d}" for i in range(3)]
    finally:
        memory.rm("/mirror", recursive=True)
