"""HTTP answers of the web for the URLs of the pair stream."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from pipelines.sources.emoji_scenes.pair_source import HOSTS, EmojiScenes

_IMAGE_PATH = re.compile(r"/(?P<moved>originals/)?(?P<index>\d{6,12})\.jpg")
_DRIP_BYTES = 1 << 20  # what a drip claims still to send: days of it, but no size that a downloader would refuse
_JPEG = {"Content-Type": "image/jpeg"}
_TEXT = {"Content-Type": "text/plain"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server sends for a URL."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    num_bytes_missing: int = 0  # Content-Length claims so many bytes more than the body has
    drips: bool = False  # after the body come single bytes, for ever


NOT_FOUND = Answer(status=HTTPStatus.NOT_FOUND, body=b"not found", headers=_TEXT)


def emoji_answer(scenes: EmojiScenes, *, host: str, path: str) -> Answer:
    """What the web answers for an image of the pair stream, according to the kind of its index."""
    parsed = _IMAGE_PATH.fullmatch(path)
    if parsed is None:
        return NOT_FOUND
    index = int(parsed["index"])
    kind = scenes.kind_of(index)
    home = scenes.url(index).split("/")[2]
    moved_to = HOSTS[(HOSTS.index(home) + 1) % len(HOSTS)]
    if parsed["moved"]:
        is_there = kind == "redirect" and host == moved_to
        return Answer(body=scenes.image(index), headers=_JPEG) if is_there else NOT_FOUND
    if host != home or path != f"/{index:06d}.jpg":
        return NOT_FOUND
    match kind:
        case "not_found":
            return NOT_FOUND
        case "forbidden":
            return Answer(status=HTTPStatus.FORBIDDEN, body=b"forbidden", headers=_TEXT)
        case "redirect":
            return Answer(status=HTTPStatus.FOUND, headers={"Location": f"http://{moved_to}/originals{path}"})
        case "html":
            return Answer(body=b"<!DOCTYPE html><title>Sign in</title><p>Please sign in to see this.", headers=_JPEG)
    jpeg = scenes.image(index)
    half = jpeg[: len(jpeg) // 2]
    match kind:
        case "noai":
            return Answer(body=jpeg, headers={**_JPEG, "X-Robots-Tag": "noai"})
        case "cut_jpeg":
            return Answer(body=half, headers=_JPEG)
        case "short_body":
            return Answer(body=half, headers=_JPEG, num_bytes_missing=len(jpeg) - len(half))
        case "drip":
            return Answer(body=jpeg[:16], headers=_JPEG, num_bytes_missing=_DRIP_BYTES, drips=True)
        case _:
            return Answer(body=jpeg, headers=_JPEG)
