from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from detclipv2.data import reading
from detclipv2.data.epochs import Places
from detclipv2.data.reading import SampleReader
from detclipv2.data.tar_shards import Shard

Annotation = Callable[..., dict[str, Any]]


@pytest.fixture
def shards(write_shard: Callable[..., Shard], annotation: Annotation) -> list[Shard]:
    """Two shards of five samples; the third of each is in portrait format."""
    made = []
    for number in range(2):
        samples = {f"{number}-{row}": annotation() for row in range(5)}
        samples[f"{number}-2"] |= {"width": 2, "height": 3}
        made.append(write_shard(f"{number:05d}", samples))
    return made


@pytest.fixture
def remote(shards: list[Shard]) -> list[Shard]:
    """The same on an object store."""
    moved = []
    for shard in shards:
        path = f"/reading/{Path(shard.url).name}"
        fsspec.filesystem("memory").pipe_file(path, Path(shard.url).read_bytes())
        moved.append(replace(shard, url=f"memory:/{path}"))
    return moved


@contextmanager
def _reader(shards: list[Shard]) -> Iterator[SampleReader]:
    with closing(SampleReader(shards, supervision="detection")) as reader:
        yield reader


def _places(*places: tuple[int, int]) -> Places:
    shards, rows = zip(*places, strict=True)
    return Places(shards=np.array(shards), rows=np.array(rows))


def _keys(shards: list[Shard], places: Places) -> list[str]:
    with _reader(shards) as reader:
        return [record["__key__"] for record in reader.start(places).records(0, len(places.rows))]


def test_samples_come_in_the_order_that_was_asked_for(shards: list[Shard], remote: list[Shard]) -> None:
    places = _places((1, 3), (0, 0), (1, 2), (1, 3), (0, 4))

    assert _keys(shards, places) == ["1-3", "0-0", "1-2", "1-3", "0-4"]
    assert _keys(remote, places) == ["1-3", "0-0", "1-2", "1-3", "0-4"]
    assert _keys([shards[0], remote[1]], places) == ["1-3", "0-0", "1-2", "1-3", "0-4"]


def test_a_record_is_what_the_tar_holds(shards: list[Shard], remote: list[Shard]) -> None:
    with _reader(shards) as local, _reader(remote) as other:
        (here,), (there,) = (reader.start(_places((0, 1))).records(0, 1) for reader in (local, other))
    assert here | {"__url__": ""} == there | {"__url__": ""}
    assert here["__url__"] == shards[0].url
    assert here["jpg"][:2] == b"\xff\xd8" and b'"dog"' in here["json"]


def test_which_images_stand(shards: list[Shard]) -> None:
    with _reader(shards) as reader:
        assert reader.is_portrait(_places((1, 2), (0, 1), (0, 2), (1, 4))).tolist() == [True, False, True, False]


def test_what_lies_side_by_side_is_asked_for_at_once(remote: list[Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    cat_file = MemoryFileSystem.cat_file

    def counted(self: MemoryFileSystem, path: str, start: int, end: int, **options: Any) -> bytes:
        asked.append((start, end))
        return bytes(cat_file(self, path, start=start, end=end, **options))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    index = remote[0].read_index("detection")
    ends = index.offsets + index.num_bytes

    assert _keys(remote, _places((0, 3), (0, 0), (0, 1))) == ["0-3", "0-0", "0-1"]
    assert sorted(asked) == [(0, ends[1]), (index.offsets[3], ends[3])]

    asked.clear()
    monkeypatch.setattr(reading, "REQUEST_BYTES", int(ends[1]))
    _keys(remote, _places(*((0, row) for row in range(5))))
    assert sorted(asked) == [(0, ends[1]), (ends[1], ends[3]), (ends[3], ends[4])]


@pytest.mark.parametrize("where", ["shards", "remote"])
def test_a_shard_that_is_cut_off(where: str, request: pytest.FixtureRequest) -> None:
    found: list[Shard] = request.getfixturevalue(where)
    index = found[0].read_index("detection")
    shard = replace(found[0], index=lambda: index)
    at = int(index.offsets[3]) + 100
    if where == "remote":
        store = fsspec.filesystem("memory")
        path = shard.url.removeprefix("memory:/")
        store.pipe_file(path, store.cat_file(path)[:at])
    else:
        Path(shard.url).write_bytes(Path(shard.url).read_bytes()[:at])

    assert _keys([shard], _places((0, 2))) == ["0-2"]
    with pytest.raises(ValueError, match=f"^{shard.url} is cut off at byte {at}; build the dataset again"):
        _keys([shard], _places((0, 3)))


@pytest.mark.parametrize("where", ["shards", "remote"])
def test_a_shard_that_is_gone(where: str, request: pytest.FixtureRequest) -> None:
    (shard, _) = request.getfixturevalue(where)
    index = shard.read_index("detection")
    gone = replace(shard, url=shard.url.replace("00000", "none"), index=lambda: index)
    with pytest.raises(FileNotFoundError):
        _keys([gone], _places((0, 0)))


def test_a_command_is_refused(shards: list[Shard], tmp_path: Path) -> None:
    index = shards[0].read_index("detection")
    command = replace(shards[0], url=f"pipe:touch {tmp_path}/touched", index=lambda: index)
    with pytest.raises(ValueError, match="pipe: is refused"):
        _keys([command], _places((0, 0)))
    assert not (tmp_path / "touched").exists()
