"""Scenes: boxes against the pixels that an object really changes, and the same bytes in any process."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from pipelines.sources.emoji_scenes import BASE_NAMES, NOVEL_NAMES
from pipelines.sources.emoji_scenes.render import MIN_VISIBLE, _background, _Canvas, compose

NAMES = (*BASE_NAMES, *NOVEL_NAMES)


def test_box_encloses_what_an_object_changes() -> None:
    for seed, name in enumerate(NAMES):
        scene = compose([name], Random(seed), size_px=160)
        background = _background(Random(seed), 160)  # the first thing that a scene draws
        changed = np.abs(np.asarray(scene.image, int) - np.asarray(background, int)).max(2) > 0  # [H, W]
        ys, xs = np.nonzero(changed)
        # Faint edge pixels and pixels of the background's own colour lie outside the box.
        edges = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert np.abs(np.subtract(scene.objects[0].box_xyxy, edges)).max() <= 3, (
            name,
            scene.objects[0].box_xyxy,
            edges,
        )


def test_boxes_lie_inside_and_objects_are_seldom_left_out() -> None:
    num_asked = num_placed = 0
    for seed in range(200):
        rng = Random(seed)
        names = rng.sample(NAMES, 5)
        objects = compose(names, rng, size_px=160).objects
        num_asked, num_placed = num_asked + 5, num_placed + len(objects)
        for placed in objects:
            x1, y1, x2, y2 = placed.box_xyxy
            assert 0 <= x1 < x2 <= 160 and 0 <= y1 < y2 <= 160
            assert 10 <= max(x2 - x1, y2 - y1) <= 100
    assert num_placed >= 0.999 * num_asked


def test_a_later_object_cannot_hide_an_earlier_one() -> None:
    canvas = _Canvas(Image.new("RGB", (40, 40)))
    opaque = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
    rng = Random(0)
    assert any(canvas.place("first", opaque, rng) for _ in range(50))
    assert not any(canvas.place("second", opaque, rng) for _ in range(50))
    assert [o.name for o in canvas.scene().objects] == ["first"]


def test_box_is_of_the_visible_part_only() -> None:
    canvas = _Canvas(Image.new("RGB", (200, 200)))
    rng = Random(4)
    tall, wide = Image.new("RGBA", (60, 60), (255, 0, 0, 255)), Image.new("RGBA", (160, 40), (0, 255, 0, 255))
    assert any(canvas.place("square", tall, rng) for _ in range(50))
    assert any(canvas.place("bar", wide, rng) for _ in range(50))
    scene = canvas.scene()
    pixels = np.asarray(scene.image)
    for placed, channel in zip(scene.objects, (0, 1), strict=True):
        ys, xs = np.nonzero(pixels[:, :, channel] == 255)
        assert placed.box_xyxy == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert len(xs) >= MIN_VISIBLE * (60 * 60, 160 * 40)[channel]


def test_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from random import Random; from pipelines.sources.emoji_scenes.render import compose;"
        "print(hashlib.sha256(compose(['fox', 'guitar', 'tent'], Random('a/b/7'), size_px=160).jpeg).hexdigest())"
    )
    root = Path(__file__).resolve().parents[3]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    mine = compose(["fox", "guitar", "tent"], Random("a/b/7"), size_px=160).jpeg
    assert other.stdout.strip() == hashlib.sha256(mine).hexdigest()
    assert Image.open(io.BytesIO(mine)).size == (160, 160)
