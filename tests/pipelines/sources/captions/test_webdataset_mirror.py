"""WebDataset tars of strangers: what is read, what is counted, and what is refused."""

import gzip
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.captions.image_files import IMAGE_ENDINGS
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
        (None, None, "caption_missing"),
        (None, None, "caption_not_text"),
        (None, None, "caption_not_text"),
        ("too large", None, "too_large"),
        (None, None, "image_kind_unknown"),
        (None, None, "caption_too_large"),
    ]


@pytest.mark.parametrize("ending", [*IMAGE_ENDINGS, "WEBP", "Jpg"])
def test_every_kind_of_image_that_is_decoded_is_read(shard: Callable[..., MirrorShard], ending: str) -> None:
    (pair,) = shard(tar(member(f"1.{ending}", b"one"), member("1.TXT", b"a dog"))).read()
    assert (pair.caption, pair.image, pair.drop_reason) == ("a dog", b"one", None)


@pytest.mark.parametrize("ending", ["svg", "heic", "ico", "jxl"])
def test_a_kind_that_is_not_read_is_said(shard: Callable[..., MirrorShard], ending: str) -> None:
    (pair,) = shard(tar(member(f"1.{ending}", b"one"), member("1.txt", b"a dog"))).read()
    assert (pair.caption, pair.image, pair.drop_reason) == ("a dog", None, "image_kind_unknown")


@pytest.mark.parametrize(
    ("content", "caption", "reason"),
    [
        ("\ufeffa café".encode(), "a café", None),
        ("a café\r\n".encode("utf-16"), "a café", None),
        ("a café".encode("latin-1"), None, "caption_not_utf8"),
        ("a café".encode("utf-16-le"), None, "caption_not_utf8"),
        (b"", "", None),
    ],
)
def test_encodings_of_captions(
    shard: Callable[..., MirrorShard], content: bytes, caption: str | None, reason: str | None
) -> None:
    (pair,) = shard(tar(member("1.jpg", b"one"), member("1.txt", content))).read()
    assert (pair.caption, pair.drop_reason) == (caption, reason)


@pytest.mark.parametrize(
    ("content", "caption", "reason"),
    [
        (b'\xef\xbb\xbf{"caption": "a dog"}', "a dog", None),
        (b'{"caption": "caf\xe9"}', None, "caption_not_utf8"),
        (b'{"caption": "\\ud800", "url": "\\ud800"}', None, "caption_not_text"),
        (b'{"caption": null}', None, "caption_missing"),
        (b"{}", None, "caption_missing"),
        (b"[1]", None, "caption_not_text"),
        (b'{"caption": ["a"]}', None, "caption_not_text"),
        (b"[" * 100_000, None, "caption_not_text"),
        (b'{"caption": "a dog", "similarity": 1' + b"0" * 400 + b"}", "a dog", None),
    ],
)
def test_jsons_of_strangers(
    shard: Callable[..., MirrorShard], content: bytes, caption: str | None, reason: str | None
) -> None:
    (pair,) = shard(tar(member("1.jpg", b"one"), member("1.json", content))).read()
    assert (pair.caption, pair.drop_reason, pair.scores) == (caption, reason, {})
    assert pair.url == "webdataset://cc3m_wds/cc3m-0000.tar/1"


def found(shard: MirrorShard) -> list[tuple[str, str | None, bytes | None, str | None]]:
    """The end of the URL, the caption, the image and the reason of every pair."""
    return [(pair.url.split(".tar/")[1], pair.caption, pair.image, pair.drop_reason) for pair in shard.read()]


def test_a_key_ends_before_the_last_dot(shard: Callable[..., MirrorShard]) -> None:
    names = ["22.04.jpg", "22.04.txt", "22.05.jpg", "22.05.txt", "22.jpg", "22.txt", "v1.2/3.jpg", "v1.2/3.txt"]
    assert [(key, reason) for key, _, _, reason in found(shard(tar(*(member(name, b"x") for name in names))))] == [
        ("22.04", None), ("22.05", None), ("22", None), ("v1.2/3", None),
    ]  # fmt: skip


def test_other_fields_of_a_sample_are_counted_beside_it(shard: Callable[..., MirrorShard]) -> None:
    names = ["1.cls", "1.emb.npy", "1.jpg", "1.json", "1.seg.png", "1.txt", "2.jpg", "2.txt", "2.zzz.npy"]
    content = tar(*(member(name, b"{}" if name.endswith("json") else name.encode()) for name in names))
    assert found(shard(content)) == [
        ("1.seg", None, None, "caption_missing"),
        ("1", "1.txt", b"1.jpg", None),
        ("2", "2.txt", b"2.jpg", None),
    ]


def test_what_a_mac_adds_is_passed_over(shard: Callable[..., MirrorShard]) -> None:
    junk = ["._1.jpg", ".DS_Store", "__MACOSX/._1.jpg", "__MACOSX/1.jpg", "a/._1.txt", "Thumbs.db"]
    content = tar(*(member(name, b"\0\5\x16\7") for name in junk[:3]), member("1.jpg", b"one"),
                  *(member(name, b"\0\5\x16\7") for name in junk[3:]), member("1.txt", b"a dog"))  # fmt: skip
    assert found(shard(content)) == [("1", "a dog", b"one", None)]


def test_further_images_and_texts_of_a_key_are_counted(shard: Callable[..., MirrorShard]) -> None:
    names = ["1.png", "1.jpg", "1.JPG", "1.txt", "1.txt"]
    content = tar(*(member(name, f"{name} {i}".encode()) for i, name in enumerate(names)))
    assert found(shard(content)) == [
        ("1", "1.txt 3", b"1.jpg 1", None),
        ("1", "1.txt 3", None, "image_surplus"),
        ("1", "1.txt 3", None, "image_surplus"),
        ("1", "1.txt 3", None, "caption_surplus"),
    ]


def test_names_that_are_no_unicode_stay_apart(shard: Callable[..., MirrorShard]) -> None:
    names = ["caf\udce8.jpg", "caf\udce8.txt", "caf\udce9.jpg", "caf\udce9.txt"]
    content = tar(*(member(name, b"x") for name in names))
    assert [key for key, *_ in found(shard(content))] == ["caf\\xe8", "caf\\xe9"]


def test_a_pair_of_links_is_counted(shard: Callable[..., MirrorShard]) -> None:
    links = [member(f"1.{ending}", type=tarfile.LNKTYPE, linkname=f"0.{ending}") for ending in ("jpg", "txt")]
    content = tar(member("0.jpg", b"zero"), member("0.txt", b"a dog"), *links)
    assert found(shard(content)) == [("0", "a dog", b"zero", None), ("1", None, None, "image_missing")]


def test_a_chain_of_names_is_refused(shard: Callable[..., MirrorShard]) -> None:
    with pytest.raises(
        ValueError, match=r"cc3m-0000.tar: '1(\.1){8}' is one of more than 8 names that continue each other"
    ):
        found(shard(tar(*(member("1" + ".1" * i + ".jpg", b"x") for i in range(9)))))


NAMES = st.lists(
    st.tuples(st.sampled_from(["1", "2", "2.5", "2.5.1", "a/1", "._1"]),
              st.sampled_from(["jpg", "PNG", "txt", "json", "svg", "npy"])),
    max_size=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(NAMES, st.booleans())
def test_every_image_and_text_is_in_a_pair_or_counted(names: list[tuple[str, str]], is_sorted: bool) -> None:
    names = sorted(names) if is_sorted else names
    members = [member(f"{key}.{ending}", b"{}" if ending == "json" else b"x") for key, ending in names]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.tar").write_bytes(tar(*members))
        (source,) = WebDatasetMirror(path=f"{folder}/x.tar", name="x").shards()
        try:
            pairs = list(source.read())
        except ValueError as error:
            assert "do not follow each other" in str(error) and not is_sorted  # noqa: PT017 - an error is one of two right answers
            return
    wanted = Counter(key for key, ending in names if ending in ("jpg", "PNG") and not key.startswith("."))
    no_image = {"image_missing", "image_kind_unknown", "caption_surplus"}
    counted = Counter(pair.url.split(".tar/")[1] for pair in pairs if pair.drop_reason not in no_image)
    assert counted == wanted
    texts = Counter(key for key, ending in names if ending == "txt" and not key.startswith("."))
    with_text = Counter(
        pair.url.split(".tar/")[1] for pair in pairs if pair.caption and pair.drop_reason != "image_surplus"
    )
    assert with_text == texts


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_damaged_tar_gives_all_pairs_or_an_error_that_names_it(is_zipped: bool, data: st.DataObject) -> None:
    members = [m for i in range(6) for m in (member(f"é{i}.jpg", b"x" * 700), member(f"é{i}.txt", b"a dog"))]
    content = bytearray(gzip.compress(tar(*members)) if is_zipped else tar(*members))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, (len(content) - 1) if is_zipped else 30 * 1024))
        content[position : position + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.tar").write_bytes(content)
        (source,) = WebDatasetMirror(path=f"{folder}/x.tar", name="x").shards()
        try:
            pairs = list(source.read())
        except ValueError as error:
            assert "x.tar" in str(error)  # noqa: PT017 - an error is one of two right answers
            return
    assert sum(pair.image is not None for pair in pairs) + sum(pair.drop_reason is not None for pair in pairs) == len(
        pairs
    )


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
        ("out", b"one"), ("root", b"two"), (None, None), ("four", None), ("five", None),
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
    with pytest.raises(ValueError, match=f"it is cut off or damaged at byte {start}.: fetch it again"):
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
