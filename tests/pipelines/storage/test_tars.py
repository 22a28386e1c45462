import io
import os
import tarfile

import pytest
import webdataset

from pipelines.storage.tars import TarExtent, TarSample, read_tar, tar_extents, write_tar

SAMPLES = [TarSample(key="0a", members={"jpg": b"picture", "json": b"{}"}), TarSample(key="0b", members={"jpg": b"x"})]


def test_the_bytes_depend_on_the_content_alone(tmp_path):
    first, second = write_tar(tmp_path / "a.tar", SAMPLES), write_tar(tmp_path / "b.tar", iter(SAMPLES))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert first.sha256 == second.sha256 == "c54bf4a97684d3c6fd65ea2a8c13f86fa9e211b4fab766ae108700fdcb7b3e21"
    assert (first.path, first.num_bytes, first.num_rows) == ("a.tar", 10240, 2)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "b.tar"]


def test_webdataset_and_read_tar_give_the_samples_back(tmp_path):
    write_tar(tmp_path / "a.tar", SAMPLES)
    assert list(read_tar(tmp_path / "a.tar")) == SAMPLES
    samples = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    assert [(s["__key__"], s["jpg"]) for s in samples] == [("0a", b"picture"), ("0b", b"x")]


def test_members_are_those_of_webdatasets_own_writer(tmp_path):
    write_tar(tmp_path / "a.tar", SAMPLES)
    with webdataset.TarWriter(str(tmp_path / "b.tar"), mtime=0, mode=0o644, encoder=False) as writer:
        for sample in SAMPLES:
            writer.write({"__key__": sample.key, **sample.members})

    def facts(name: str) -> list[object]:
        with tarfile.open(tmp_path / name) as tar:
            return [(m.name, m.size, m.mtime, m.mode, m.uid, m.gid, m.type) for m in tar]

    assert facts("a.tar") == facts("b.tar")


def test_an_empty_tar(tmp_path):
    assert write_tar(tmp_path / "a.tar", []).num_rows == 0
    assert list(read_tar(tmp_path / "a.tar")) == []


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], ["a.b"], ["a/b"], [""]])
def test_keys_ascend_and_hold_no_dot_or_slash(tmp_path, keys):
    with pytest.raises(ValueError, match=r"a.tar: key '.*' after '.*': keys ascend, without dot or slash"):
        write_tar(tmp_path / "a.tar", [TarSample(key=key, members={"jpg": b""}) for key in keys])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("num_bytes", [0, 100, 512, 1024, 2048, 3000])
def test_a_tar_that_was_cut_says_so_and_how_to_fix_it(tmp_path, num_bytes):
    path = tmp_path / "a.tar"
    write_tar(path, SAMPLES)  # ends at byte 3072; zeros to 10240
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(
        ValueError, match=rf"a.tar is cut off at {num_bytes} bytes; build the dataset again: what is damaged"
    ):
        list(read_tar(path))


def test_a_damaged_tar(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, SAMPLES)
    content = bytearray(path.read_bytes())
    content[10] ^= 1  # in the first header
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.tar is damaged \(.*\); build the dataset again"):
        list(read_tar(path))


def test_a_tar_with_a_folder(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder, io.BytesIO())
    with pytest.raises(ValueError, match="a.tar: 'folder' is not a plain file"):
        list(read_tar(tmp_path / "a.tar"))


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path, file_size_limit):
    write_tar(tmp_path / "a.tar", SAMPLES)
    before = (tmp_path / "a.tar").read_bytes()
    with file_size_limit(100_000), pytest.raises(OSError, match=r"no space left while writing: free some .*a\.tar"):
        write_tar(tmp_path / "a.tar", [TarSample(key=f"{i}", members={"jpg": b"x" * 50_000}) for i in range(4)])
    assert os.listdir(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == before


def test_extents_name_the_bytes_of_every_sample(tmp_path):
    write_tar(tmp_path / "a.tar", SAMPLES)  # headers of 512 bytes, contents in blocks of 512
    assert list(tar_extents(tmp_path / "a.tar")) == [
        TarExtent(key="0a", offset=0, num_bytes=2048),
        TarExtent(key="0b", offset=2048, num_bytes=1024),
    ]
    write_tar(tmp_path / "b.tar", [])
    assert list(tar_extents(tmp_path / "b.tar")) == []


def test_reading_from_an_offset_gives_the_rest_and_needs_nothing_of_what_is_before(tmp_path):
    path = tmp_path / "a.tar"
    samples = [TarSample(key=f"{i}", members={"jpg": bytes([i]) * (i * 300), "json": b"{}"}) for i in range(6)]
    write_tar(path, samples)
    for number, extent in enumerate(list(tar_extents(path))):
        content = path.read_bytes()
        path.write_bytes(b"\xff" * extent.offset + content[extent.offset :])
        assert list(read_tar(path, offset=extent.offset)) == samples[number:]
        path.write_bytes(content)
        alone = path.with_name("alone.tar")
        alone.write_bytes(content[extent.offset : extent.offset + extent.num_bytes] + bytes(1024))
        assert list(read_tar(alone)) == [samples[number]]
