from pathlib import Path

import pytest
from upath import UPath

from ray_jobs.writable import check_file, check_folder


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    remote = UPath("memory://bucket/runs")

    check_folder(tmp_path / "a" / "b", option="outputs")
    check_folder(remote, option="storage")

    assert list((tmp_path / "a" / "b").iterdir()) == []
    assert not remote.exists() or list(remote.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for folder in ("file", "file/below"):
        with pytest.raises(ValueError, match=r"outputs .*file.*: nothing can be written there .*; name another folder"):
            check_folder(tmp_path / folder, option="outputs")


def test_a_bucket_that_is_not_there(bucket: UPath) -> None:
    check_folder(bucket / "runs", option="storage")

    with pytest.raises(ValueError, match="storage s3://none-of-ours.*: nothing can be written there"):
        check_folder(UPath("s3://none-of-ours/runs"), option="storage")


def test_a_file_to_write_is_no_folder(tmp_path: Path) -> None:
    check_file(tmp_path / "new" / "found.json", option="out")

    assert (tmp_path / "new").is_dir()
    with pytest.raises(ValueError, match="out .*: a folder; name a file in it"):
        check_file(tmp_path, option="out")
