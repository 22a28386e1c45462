"""Images on this machine with captions: nothing to download, and every caption of an image is a pair."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.sources.captions.caption_lists import Listed, list_captions
from pipelines.sources.captions.columns import FILE_COLUMNS, Columns
from pipelines.sources.captions.image_files import IMAGE_ENDINGS, MAX_IMAGE_BYTES, ending_of
from pipelines.sources.captions.image_folders import FoundFile, ImageFolders
from schemas.manifest import canonical_json
from schemas.paths import read_regular
from schemas.source_images import ImagePair


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """A `pipelines.sources.source.ImagePairSource`: a list of captions and the folders of its images.

    Pairs of one image follow each other and have one URL, ``images://<source>/<path below its folder>``. What cannot be used is
    counted: the reasons of `pipelines.sources.captions.caption_lists` and `pipelines.sources.captions.image_folders`,
    ``image_kind_unknown`` (by its ending) and ``too_large``.

    Attributes:
        captions: absolute; a form that `pipelines.sources.captions.caption_lists.list_captions` reads.
        images: absolute folders; none: that of the captions.
        name: of the source.
        columns: of the captions, where they are a table.
        images_per_shard: in the order of their names, so that images whose names sort last disturb no other shard.
        max_image_bytes: a larger image is ``too_large``.
    """

    captions: Path
    images: tuple[Path, ...] = ()
    name: str
    columns: Columns = FILE_COLUMNS
    images_per_shard: int = 1000
    max_image_bytes: int = MAX_IMAGE_BYTES

    def shards(self) -> list["CaptionedShard"]:
        """Images with their captions, in the order of their names.

        Raises:
            ValueError: the captions cannot be read, or none of their images is there.
        """
        folders = ImageFolders(self.images or (self.captions if self.captions.is_dir() else self.captions.parent,))
        listed = list_captions(self.captions, folders, columns=self.columns)
        found = folders.find({one.file for one in listed if one.drop_reason != "image_missing"})
        captions: dict[str, list[Listed]] = defaultdict(list)
        files: dict[str, FoundFile | str] = {}
        for one in listed:
            file = found.get(one.file, "image_missing")
            name = one.file if isinstance(file, str) else file.name
            captions[name].append(one)
            files.setdefault(name, file)
        if all(isinstance(file, str) for file in files.values()):
            where = " or ".join(str(folder) for folder in folders.folders)
            raise ValueError(
                f"{self.captions}: none of its {len(files)} images is below {where}; the first looked for is "
                f"{next(iter(files), '')!r}: name the folder of the images with --images"
            )
        images = [CaptionedImage(name=name, file=files[name], captions=tuple(captions[name])) for name in sorted(files)]
        size = self.images_per_shard
        return [
            CaptionedShard(
                name=f"{self.name}-{i:05d}",
                source=self.name,
                images=tuple(images[start : start + size]),
                max_image_bytes=self.max_image_bytes,
            )
            for i, start in enumerate(range(0, len(images), size))
        ]


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """An image, or the reason why there is none, with its captions."""

    name: str
    file: FoundFile | str
    captions: tuple[Listed, ...]

    def read(self, max_bytes: int) -> tuple[bytes | None, str | None]:
        """The file's content or the reason why there is none; raises ValueError where it is there and cannot be read."""
        if isinstance(self.file, str):
            return None, self.file
        if ending_of(self.name) not in IMAGE_ENDINGS:
            return None, "image_kind_unknown"
        try:
            if self.file.num_bytes > max_bytes:
                return None, "too_large"
            return read_regular(self.file.path), None
        except FileNotFoundError:
            return None, "image_missing"
        except OSError as error:
            raise ValueError(f"{self.file.path} cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True)
class CaptionedShard:
    """Some images of a source."""

    name: str
    source: str
    images: tuple[CaptionedImage, ...]
    max_image_bytes: int

    @property
    def num_pairs(self) -> int:
        return sum(len(image.captions) for image in self.images)

    @property
    def config(self) -> dict[str, Any]:
        """Captions count by content, images by name and size: a build that has nothing to do must not read them."""
        digest = hashlib.sha256()
        for image in self.images:
            size = image.file if isinstance(image.file, str) else image.file.num_bytes
            captions = [[one.caption, one.drop_reason] for one in image.captions]
            digest.update(canonical_json([image.name, size, captions]).encode())
        return {"source": self.source, "pairs_sha256": digest.hexdigest(), "max_image_bytes": self.max_image_bytes}

    def read(self) -> Iterator[ImagePair]:
        """The pairs, those of one image after each other.

        Raises:
            ValueError: a file is there and cannot be read.
        """
        for image in self.images:
            content, reason = image.read(self.max_image_bytes)
            for one in image.captions:
                drop_reason = reason or one.drop_reason
                yield ImagePair(
                    url=f"images://{self.source}/{image.name}",
                    caption=one.caption,
                    image=None if drop_reason else content,
                    drop_reason=drop_reason,
                )
