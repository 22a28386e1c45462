"""Image and caption files by their names: which endings are read, and what archives of a Mac or Windows add to them."""

from pathlib import PurePosixPath

# Of the formats that `pipelines.fetch.image_resizer.ImageResizer` decodes; of several images of one pair the first counts.
IMAGE_ENDINGS = (
    *("jpg", "jpeg", "png", "webp", "jpe", "jfif", "mpo", "apng", "avif", "gif", "bmp", "tif", "tiff"),
    *("jp2", "j2k", "jpf", "jpx"),
)
# Of a caption beside its image, the likeliest first.
CAPTION_ENDINGS = ("txt", "caption", "text")
MAX_IMAGE_BYTES = 20 * 2**20
MAX_CAPTION_BYTES = 2**20


def ending_of(name: str) -> str:
    """What follows the last dot of a file's name, in lower case; empty where there is none."""
    return PurePosixPath(name).suffix[1:].lower()


def is_hidden(name: str) -> bool:
    """Whether a file is not the user's: ``._0001.jpg`` and ``__MACOSX/`` of a Mac, or another name that begins with a dot."""
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts or path.name in ("Thumbs.db", "desktop.ini")
