"""Column names of tables of captions, as data sets and their users write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.tables import SCORES

# In each tuple, names that stand beside each other: the first with a column in the table counts.
_CAPTION = (("caption", "text"), ("title", "alt", "alt_text", "description", "comment", "sentence"))
_URL = (("url", "image_url", "img_url"),)
_FILE = (
    ("file_name", "filename", "file"),
    ("image", "image_name", "image_file", "img"),
    ("image_path", "file_path", "filepath", "path"),
)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a table must have, and what it may have; names are in lower case, with underscores."""

    required: Mapping[str, tuple[tuple[str, ...], ...]]
    optional: tuple[str, ...] = ()

    def find(self, names: Sequence[str], *, where: Path | str) -> dict[str, int]:
        """The position of each column that is there, in the order of the attributes; case, blanks and dashes do not count.

        Raises:
            ValueError: one is missing, or there are two of equal rank.
        """
        plain = [name.strip().strip('"').lower().replace(" ", "_").replace("-", "_") for name in names]
        found: dict[str, int] = {}
        for wanted, ranks in {**self.required, **{name: ((name,),) for name in self.optional}}.items():
            positions = next(filter(None, ([i for i, name in enumerate(plain) if name in rank] for rank in ranks)), [])
            if len(positions) > 1:
                first, second = (names[i] for i in positions[:2])
                raise ValueError(f"{where} has two columns for {wanted!r}: {first!r} and {second!r}; keep one")
            if positions:
                found[wanted] = positions[0]
        missing = [wanted for wanted in self.required if wanted not in found]
        if missing:
            known = "; ".join(f"{wanted}: {', '.join(sum(self.required[wanted], ()))}" for wanted in missing)
            raise ValueError(
                f"{where} has no column {' or '.join(missing)}; it has {list(names)}; rename one (read are {known})"
            )
        return found


URL_COLUMNS = Columns(required={"url": _URL, "caption": _CAPTION}, optional=SCORES)
FILE_COLUMNS = Columns(required={"file": _FILE, "caption": _CAPTION})
FILE_URL_COLUMNS = Columns(required={"file": _URL, "caption": _CAPTION})  # of a table whose URLs are files
