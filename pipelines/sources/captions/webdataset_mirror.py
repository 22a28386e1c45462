"""Ready-made WebDataset shards of images with captions, such as the mirrors of Conceptual Captions: nothing to download.

A shard is read as a stream and never unpacked: see `pipelines.sources.captions.tar_members`.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from pipelines.sources.captions.image_files import CAPTION_ENDINGS, IMAGE_ENDINGS, MAX_IMAGE_BYTES
from pipelines.sources.captions.remote_files import DataFile, find_files
from pipelines.sources.captions.tar_members import READ_ENDINGS, TarMember, read_members
from pipelines.sources.captions.text_encoding import decode_text, text_or_none
from pipelines.sources.input_files import whole_number
from pipelines.sources.source import short_name
from schemas.source_images import ImagePair
from schemas.tables import SCORES

# What an image with its texts takes, about: for progress alone.
_BYTES_PER_PAIR = 30_000
_MAX_NESTED_KEYS = 8  # which are in memory at a time


@dataclass(frozen=True, kw_only=True)
class WebDatasetMirror:
    """A `pipelines.sources.source.ImagePairSource`: ``<key>.jpg`` with ``<key>.txt``, ``<key>.json`` or both.

    The caption is the text file's, else ``caption`` of the JSON; the URL is ``url`` of the JSON, else
    ``webdataset://<source>/<shard>/<key>``, so that a pair has its identity without one. ``similarity`` and ``punsafe`` are
    those of the JSON, in any case. Endings are those of `pipelines.sources.captions.image_files`, in any case.

    The key ends before the last dot, so that ``22.04.jpg`` and ``22.05.jpg`` are two samples (``webdataset`` itself ends it
    at the first, and loses one). Fields of a sample with a name of their own, ``0001.seg.png`` beside ``0001.jpg``, are samples
    without a caption then: dropped, and counted. So is all else that is of no use: ``image_missing``, ``image_kind_unknown``
    (only files of kinds that are not read), ``too_large``, ``caption_missing``, ``caption_not_text``, ``caption_not_utf8``,
    ``caption_too_large``, ``tar_header_damaged`` (each file whose records in the tar cannot be read), and
    ``image_surplus`` and ``caption_surplus``, a row for every further image or text of a key.
    Only what a Mac adds (``._0001.jpg``) and other hidden files are passed over without a count.

    Attributes:
        path: a tar (``.gz`` too), a folder or a glob of them, local or an fsspec URL.
        name: of the source, such as "cc3m_wds".
        max_image_bytes: a larger image is ``too_large``.
        max_members: of a shard.
        max_shard_bytes: of a shard, unpacked.
    """

    path: str
    name: str
    max_image_bytes: int = MAX_IMAGE_BYTES
    max_members: int = 1_000_000
    max_shard_bytes: int = 64 * 2**30

    def shards(self) -> list["MirrorShard"]:
        """One a tar, sorted by name; a tar's name without ending names the shard.

        Raises:
            ValueError: there is no tar, or two have one name.
        """
        files = find_files(self.path, endings=(".tar", ".tar.gz", ".tgz"))
        shards = [MirrorShard(mirror=self, file=file) for file in files]
        names = [shard.name for shard in shards]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.path}: two tars give the shard {twice[0]!r}; rename one")
        return sorted(shards, key=lambda shard: shard.name)


@dataclass(frozen=True, kw_only=True)
class MirrorShard:
    """One tar of a mirror."""

    mirror: WebDatasetMirror
    file: DataFile

    @property
    def name(self) -> str:
        stem = re.sub(r"\.(tar|tar\.gz|tgz)$", "", self.file.name, flags=re.IGNORECASE)
        return f"{self.mirror.name}-{short_name(re.sub(r'[^A-Za-z0-9_-]+', '_', stem))}"

    @property
    def source(self) -> str:
        return self.mirror.name

    @property
    def num_pairs(self) -> int:
        return max(1, self.file.num_bytes // _BYTES_PER_PAIR)

    @property
    def config(self) -> dict[str, Any]:
        """Everything that its samples depend on."""
        return {
            "source": self.mirror.name,
            "file": self.file.identity(is_whole=False),
            "max_picture_bytes": self.mirror.max_image_bytes,
        }

    def read(self) -> Iterator[ImagePair]:
        """The samples in the order of the tar.

        Raises:
            ValueError: it is no whole tar, exceeds a cap, or the members of a sample do not follow each other.
        """
        for sample in _samples(self._members(), where=self.file.url):
            yield from self._pairs(sample)

    def _members(self) -> Iterator[TarMember]:
        mirror = self.mirror
        return read_members(
            self.file,
            max_members=mirror.max_members,
            max_shard_bytes=mirror.max_shard_bytes,
            max_image_bytes=mirror.max_image_bytes,
        )

    def _pairs(self, sample: "_Sample") -> Iterator[ImagePair]:
        """The pair, then a dropped one for every further image."""
        if any(member.is_odd for member in sample.members):
            for member in sample.members:
                place = f"webdataset://{self.mirror.name}/{self.file.name}/{member.name}"
                yield ImagePair(url=place, caption=None, image=None, drop_reason="tar_header_damaged")
            return
        meta_file = sample.first(("json",))
        meta = _meta(meta_file)
        caption, caption_reason = _caption(sample.first(CAPTION_ENDINGS) or meta_file, meta)
        image = sample.first(IMAGE_ENDINGS)
        if image is not None:
            reason = "too_large" if image.content is None else caption_reason
        else:
            is_other = any(member.is_file and member.ending not in READ_ENDINGS for member in sample.members)
            reason = "image_kind_unknown" if is_other else "image_missing"
        url = text_or_none((meta or {}).get("url"))
        pair = ImagePair(
            url=url or f"webdataset://{self.mirror.name}/{self.file.name}/{sample.key}",
            caption=caption,
            image=None if image is None or reason else image.content,
            drop_reason=reason,
            scores=_scores(meta or {}),
        )
        yield pair
        for _ in range(sample.count(IMAGE_ENDINGS) - 1):
            yield replace(pair, image=None, drop_reason="image_surplus")
        for _ in range(sample.count(CAPTION_ENDINGS) - 1):
            yield replace(pair, image=None, drop_reason="caption_surplus")


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The members of one key."""

    key: str
    members: list[TarMember] = field(default_factory=list)

    def first(self, endings: tuple[str, ...]) -> TarMember | None:
        """The file with the first of the endings that there is."""
        files = [member for member in self.members if member.ending in endings and member.is_file]
        return min(files, key=lambda member: endings.index(member.ending), default=None)

    def count(self, endings: tuple[str, ...]) -> int:
        """Files with any of the endings."""
        return sum(member.ending in endings and member.is_file for member in self.members)


def _samples(members: Iterable[TarMember], *, where: str) -> Iterator[_Sample]:
    """Members by key; only those of keys that continue this one with a dot may stand between two of a sample."""
    waiting: list[_Sample] = []  # each key continues the one before it
    done: set[str] = set()
    for member in members:
        if member.is_odd:  # its name may be another's: a sample of its own
            yield _Sample(key=member.name, members=[member])
            continue
        key = _key(member, waiting)
        while waiting and waiting[-1].key != key and not key.startswith(f"{waiting[-1].key}."):
            done.add(waiting[-1].key)
            yield waiting.pop()
        if key in done:
            raise ValueError(f"{where}: the members of {key!r} do not follow each other; pack it again, sorted by name")
        if not waiting or waiting[-1].key != key:
            waiting.append(_Sample(key=key))
        if len(waiting) > _MAX_NESTED_KEYS:
            raise ValueError(f"{where}: {key!r} is one of more than {_MAX_NESTED_KEYS} names that continue each other")
        is_surplus = any(member.ending == other.ending and other.is_file for other in waiting[-1].members)
        waiting[-1].members.append(replace(member, content=None) if is_surplus else member)
    yield from reversed(waiting)


def _key(member: TarMember, waiting: list[_Sample]) -> str:
    """All before the last dot of an image, caption or JSON; any other file is of the sample that its name continues."""
    if member.ending not in READ_ENDINGS:
        for sample in reversed(waiting):
            if member.name.startswith(f"{sample.key}."):
                return sample.key
    return member.name.removesuffix(PurePosixPath(member.name).suffix)


def _caption(member: TarMember | None, meta: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """The caption and, where it is None, why; ``member`` is the text file, or the JSON where there is none."""
    if member is None:
        return None, "caption_missing"
    if member.content is None:
        return None, "caption_too_large"
    try:
        text = decode_text(member.content)
    except ValueError:
        return None, "caption_not_utf8"
    if member.ending == "json":
        if meta is not None and meta.get("caption") is None:
            return None, "caption_missing"
        found = text_or_none((meta or {}).get("caption"))
        if found is None:
            return None, "caption_not_text"
        text = found
    return text.strip("\r\n"), None


def _scores(meta: dict[str, Any]) -> dict[str, float]:
    """Those of the JSON that are numbers (in Python's JSON, NaN and the infinities are floats, too, and say nothing)."""
    known = {name.strip().lower(): value for name, value in meta.items()}
    scores = {name: known[name] for name in SCORES if isinstance(known.get(name), int | float)}
    return {name: float(value) for name, value in scores.items() if abs(value) <= sys.float_info.max}


def _meta(member: TarMember | None) -> dict[str, Any] | None:
    """What the JSON says; None where there is none that can be read."""
    if member is None or member.content is None:
        return None
    try:
        meta = json.loads(decode_text(member.content), parse_int=whole_number)
    except (ValueError, RecursionError):
        return None
    return meta if isinstance(meta, dict) else None
