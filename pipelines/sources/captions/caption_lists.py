"""Lists of images with captions: folders as Flickr8k, Flickr30k, Hugging Face and Kohya have them, tables, COCO's JSON."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.sources.captions.columns import FILE_COLUMNS, Columns
from pipelines.sources.captions.image_files import CAPTION_ENDINGS, IMAGE_ENDINGS, MAX_CAPTION_BYTES, ending_of
from pipelines.sources.captions.image_folders import FoundFile, ImageFolders
from pipelines.sources.captions.remote_files import DataFile, find_files
from pipelines.sources.captions.table_rows import TABLE_ENDINGS, read_json, table_rows
from pipelines.sources.captions.text_encoding import MAX_TEXT_BYTES, cut, decode_text, text_lines, text_or_none
from schemas.paths import read_regular

# Names of the list in a folder, without their ending: of Flickr8k, Flickr30k, and Hugging Face's imagefolder.
_LISTS = ("captions", "metadata", "results", "results_20130124", "flickr8k.token")
_LIST_ENDINGS = (*TABLE_ENDINGS, ".txt", ".token")


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A caption of an image, by the name of its file; without a caption there is a reason."""

    file: str
    caption: str | None
    drop_reason: str | None = None


def list_captions(path: Path, folders: ImageFolders, *, columns: Columns = FILE_COLUMNS) -> list[Listed]:
    """The captions of a file or folder, in its order.

    A folder has one list (``captions.txt``, ``results.csv``, ``metadata.jsonl`` and the like), or a ``.txt`` or ``.caption``
    beside each image. A list is a table of file names and captions, lines of ``name.jpg#0<TAB>caption``, or COCO captions.

    Raises:
        ValueError: it is of none of these forms, or cannot be read; the message names file and row.
    """
    if not path.is_dir():
        return list(_of_file(path, columns))
    try:
        names = sorted(path.iterdir())
    except OSError as error:
        raise ValueError(f"the folder {path} cannot be listed: {error}") from error
    lists = [
        name
        for name in names
        if name.suffix.lower() in _LIST_ENDINGS and name.stem.lower() in _LISTS and name.is_file()
    ]
    if len(lists) > 1:
        raise ValueError(f"{path} has both {lists[0].name} and {lists[1].name}: name one of them")
    listed = list(_of_file(lists[0], columns)) if lists else _beside_images(folders)
    if not any(one.caption for one in listed):
        found = (
            f"{lists[0].name} holds none" if lists else "it has no captions.txt or metadata.csv, nor .txt beside images"
        )
        raise ValueError(f"{path}: no caption was found: {found}; docs/data.md has the forms that are read")
    files = folders.find({one.file for one in listed if one.drop_reason != "image_missing"})
    with_caption = {file.path for file in files.values() if not isinstance(file, str)}
    others = (file.name for file in folders.images if file.path not in with_caption)
    return [*listed, *(Listed(file=name, caption=None, drop_reason="caption_missing") for name in others)]


def _of_file(path: Path, columns: Columns) -> Iterator[Listed]:
    file = find_files(str(path), endings=_LIST_ENDINGS)[0]
    if path.suffix.lower() == ".json":
        content = read_json(file)
        if isinstance(content, dict):
            yield from _of_coco(content, where=path)
            return
    elif path.suffix.lower() in (".txt", ".token", ".tsv") and _is_image_line(next(text_lines(file), "")):
        yield from _of_tokens(file)
        return
    for row in table_rows(file, columns):
        yield _listed(row["file"], row["caption"])


def _listed(file: Any, caption: Any) -> Listed:
    name = text_or_none(file)
    if not name:
        return Listed(file="", caption=text_or_none(caption), drop_reason="image_missing")
    if caption is None:
        return Listed(file=name, caption=None, drop_reason="caption_missing")
    text = text_or_none(caption)
    if text is not None and len(text) > MAX_TEXT_BYTES:
        return Listed(file=name, caption=cut(text), drop_reason="caption_too_large")
    return Listed(file=name, caption=text, drop_reason=None if text is not None else "caption_not_text")


def _of_tokens(file: DataFile) -> Iterator[Listed]:
    """Lines of ``name.jpg#0<TAB>caption``, as Flickr8k and Flickr30k have them."""
    for number, line in enumerate(text_lines(file), start=1):
        name, tab, caption = line.rstrip("\r\n").partition("\t")
        if tab and name:
            yield _listed(_without_number(name), cut(caption))
        elif line.strip():
            raise ValueError(f"{file.url}: row {number}, {line[:80]!r}, is not name.jpg#0<TAB>caption")


def _without_number(name: str) -> str:
    """``name.jpg`` of ``name.jpg#0``."""
    name = name.rstrip(" ") or name
    before, _, number = name.rpartition("#")
    return before if before and number.isdecimal() else name


def _is_image_line(line: str) -> bool:
    name, tab, _ = line.partition("\t")
    return bool(tab) and ending_of(_without_number(name)) in IMAGE_ENDINGS


def _of_coco(content: dict[str, Any], *, where: Path) -> Iterator[Listed]:
    """Image by image; captions of images that are not listed come last."""
    images, annotations = (_entries(content, section, where=where) for section in ("images", "annotations"))
    captions: dict[str, list[Any]] = defaultdict(list)
    for i, annotation in enumerate(annotations):
        if "caption" not in annotation and ("bbox" in annotation or "segmentation" in annotation):
            raise ValueError(f"{where}: annotations[{i}] is a box without a caption: pass the file by --detection")
        captions[_id(annotation.get("image_id"))].append(annotation.get("caption"))
    names: dict[str, str] = {}
    for i, image in enumerate(images):
        name = text_or_none(image.get("file_name"))
        if not name or "id" not in image:
            raise ValueError(f"{where}: images[{i}] has no id or file_name; it has {sorted(image)}")
        if names.setdefault(_id(image["id"]), name) != name:
            raise ValueError(f"{where}: images[{i}]: id {image['id']!r} is that of {names[_id(image['id'])]!r}, too")
    for key, name in names.items():
        for caption in captions.pop(key, [None]):
            yield _listed(name, caption)
    for caption in itertools.chain(*captions.values()):
        yield _listed("", caption)


def _entries(content: dict[str, Any], section: str, *, where: Path) -> list[dict[str, Any]]:
    entries = content.get(section)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where} is no COCO captions JSON: it has no list of objects {section!r}")
    return entries


def _id(value: Any) -> str:
    """Ids as they are compared: 1, 1.0 and "1" are one."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _beside_images(folders: ImageFolders) -> list[Listed]:
    """The text beside each image: ``1.txt`` or ``1.caption`` of ``1.jpg``; a text without an image is listed, too."""
    texts: dict[str, list[FoundFile]] = defaultdict(list)
    for file in folders.files:
        if file.path.suffix[1:].lower() in CAPTION_ENDINGS:
            texts[str(file.path.with_suffix(""))].append(file)
    listed = []
    for image in folders.images:
        found = texts.pop(str(image.path.with_suffix("")), [])
        listed += [_of_text(text, file=image.name) for text in found if text.is_inside]
    lone = (text for found in texts.values() for text in found)
    return [*listed, *(replace(_of_text(text, file=text.name), drop_reason="image_missing") for text in lone)]


def _of_text(text: FoundFile, *, file: str) -> Listed:
    """The caption that is beside an image."""
    if text.num_bytes > MAX_CAPTION_BYTES:
        return Listed(file=file, caption=None, drop_reason="caption_too_large")
    try:
        return _listed(file, decode_text(read_regular(text.path)).strip("\r\n"))
    except OSError as error:
        raise ValueError(f"{text.path} cannot be read: {error}") from error
    except ValueError:
        return Listed(file=file, caption=None, drop_reason="caption_not_utf8")
