"""YOLO's ``data.yaml``: the names of the classes and where the images are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from pipelines.sources.boxes.coco_json import spaced
from pipelines.sources.input_files import read_text
from schemas.paths import is_folder, is_inside, is_regular

_MAX_BYTES = 2**20
Part = Literal["train", "val"]
FILE_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


@dataclass(frozen=True, kw_only=True)
class YoloLayout:
    """What a ``data.yaml`` says.

    Attributes:
        path: of the file.
        names: of the classes by number.
        roots: the folder of the file, and the one that ``path:`` names: where the images of a list may lie.
        train, val: folders of images, or lists of images, as they were found; none where there is none.
        has_keypoints: whether boxes are followed by keypoints.
        notes: lines for people.
    """

    path: Path
    names: dict[int, str]
    roots: tuple[Path, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    has_keypoints: bool
    notes: tuple[str, ...]

    def places(self, part: Part) -> tuple[Path, ...]:
        """The folders or lists of a part.

        Raises:
            ValueError: there is none.
        """
        places = self.train if part == "train" else self.val
        if not places:
            raise ValueError(f"{self.path}: nothing that {part!r} names is there; it must be a folder of images")
        return places


class _PlainLoader(yaml.BaseLoader):
    """Values as they are written: text, no types. Aliases, of which a few lines make billions of values, are refused."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*name) is not read: write the value out", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def find_data_yaml(path: Path) -> Path | None:
    """The ``data.yaml`` that a path is or a folder has."""
    if path.is_dir():
        return next((path / name for name in FILE_NAMES if (path / name).is_file()), None)
    return path if path.suffix.lower() in (".yaml", ".yml") else None


def read_data_yaml(path: Path) -> YoloLayout:
    """Read a ``data.yaml``; every value is text, so that a class called ``no`` or ``7`` keeps its name.

    Raises:
        ValueError: it cannot be read, or has no ``names``.
    """
    try:
        text = read_text(path)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} characters")
        content = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or "names" not in content:
        raise ValueError(f"{path} has no 'names'; YOLO's data.yaml has the names of the classes, and train and val")
    train, val = (tuple(_places(path, content, part)) for part in ("train", "val"))
    notes = []
    if content.get("val") and not val:
        notes.append(f"what 'val' names, {content['val']}, is not there")
    elif val and set(val) <= set(train):
        notes.append("'val' names images of 'train', so it holds nothing out")
        val = ()
    outside = [place for place in (*train, *val) if not is_inside(place, [path.parent])]
    if outside:  # the user's own file may say so; a stranger's should be looked at
        notes.append(f"it names images outside of its folder, {outside[0]}")
    return YoloLayout(
        path=path,
        names=_names(content["names"], path),
        roots=_bases(path, content),
        train=train,
        val=val,
        has_keypoints="kpt_shape" in content,
        notes=tuple(notes),
    )


def _names(value: Any, path: Path) -> dict[int, str]:
    numbered = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(numbered, dict):
        raise ValueError(f"{path} has the names {value!r:.80}; they must be a list, or numbers with names")
    names = {}
    for number, name in numbered.items():
        digits = str(number).strip()
        if not digits.isdecimal() or len(digits) > 18 or not isinstance(name, str) or not spaced(name):
            raise ValueError(f"{path}: names has {number!r:.80}: {name!r:.80}; it must be a number with a name")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise ValueError(f"{path}: names has {number}: {name!r:.80}, half of a character; correct it")
        names[int(digits)] = spaced(name)
    return names


def _places(path: Path, content: dict[str, Any], part: str) -> Iterator[Path]:
    """What is there of the folders and lists, looked for below ``path:``, then below the folder of the file.

    Many files say ``../train/images`` for the ``train/images`` beside them.
    """
    values = content.get(part) or []
    bases = _bases(path, content)
    for value in [values] if isinstance(values, str) else values if isinstance(values, list) else []:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{path}: {part!r} has {value!r:.80}; it must be the path of a folder of images")
        parts = PurePosixPath(value.strip().replace("\\", "/")).parts
        plain = parts[next((i for i, name in enumerate(parts) if name not in ("..", "/")), len(parts)) :]
        tried = [base.joinpath(*names) for names in (parts, plain) for base in bases if names]
        found = next((place for place in tried if is_folder(place) or is_regular(place)), None)
        if found is not None:
            yield found.resolve()


def _bases(path: Path, content: dict[str, Any]) -> tuple[Path, ...]:
    """The folder that ``path:`` names, where it does, and that of the file."""
    root = content.get("path")
    named = [path.parent / root.replace("\\", "/")] if isinstance(root, str) and root else []
    return (*named, path.parent)
