"""From options to a dataset: what is chosen by default, and every contradiction by its message."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.build.build_config import BuildConfig
from pipelines.build.scales import DEMO, SCALES
from pipelines.sources.boxes.coco import Coco


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A table of pairs, five images and two instances files."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(5):
        Image.new("RGB", (8, 8)).save(images / f"{i}.jpg")
    instances = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(5)],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]},
            {"image_id": 4, "category_id": 1, "bbox": [0, 0, 4, 4]},
        ],
        "categories": [{"id": 1, "name": "bear"}],
    }
    (tmp_path / "my boxes.json").write_text(json.dumps(instances))
    (tmp_path / "held_out.json").write_text(json.dumps(instances))
    (tmp_path / "my pairs.csv").write_text("url,caption\nhttp://a.test/1.jpg,a red apple\n")
    return {
        "urls": tmp_path / "my pairs.csv",
        "detection": tmp_path / "my boxes.json",
        "validation": tmp_path / "held_out.json",
        "images": images,
    }


def test_the_default_is_the_demo_of_emoji_scenes() -> None:
    dataset = BuildConfig().dataset()

    assert (dataset.name, dataset.num_pairs, dataset.pairs_per_shard) == ("demo", DEMO.num_pairs, DEMO.pairs_per_shard)
    assert [len(source) for source in dataset.detection] == [DEMO.num_detection]
    assert [len(source) for source in dataset.grounding] == [DEMO.num_grounding]
    assert dataset.pairs == (dataset.served,)


def test_the_larger_demo_keeps_the_shards_of_the_smaller() -> None:
    assert SCALES["demo_large"] == replace(DEMO, num_pairs=2 * DEMO.num_pairs)
    assert DEMO.num_pairs % DEMO.pairs_per_shard == 0, "its last shard would change as it grows"


def test_own_pairs_alone_are_fetched_from_the_web(files: dict[str, Path]) -> None:
    dataset = BuildConfig(urls=(files["urls"],), image_size=256).dataset()

    assert (dataset.name, dataset.served, dataset.num_pairs) == ("my_pairs", None, None)
    assert (dataset.detection, dataset.grounding, dataset.validation) == ((), (), None)
    assert dataset.download.image_size_px == 256
    assert not dataset.download.http.allow_loopback
    assert BuildConfig(urls=(files["urls"],), allow_loopback=True).dataset().download.http.allow_loopback


def test_every_fifth_image_is_held_out_unless_others_are_given(files: dict[str, Path]) -> None:
    own = {key: (files[key],) for key in ("detection", "images")}
    dataset = BuildConfig(**own).dataset()

    assert (dataset.name, dataset.pairs) == ("my_boxes", ())
    (detection,) = dataset.detection
    assert isinstance(detection, Coco) and detection.split == "train"
    assert dataset.validation is not None and dataset.validation.config["split"] == "held_out"

    dataset = BuildConfig(**own, validation=files["validation"], name="mine").dataset()
    assert (dataset.name, dataset.detection[0].config["split"]) == ("mine", "all")
    assert dataset.validation is not None and dataset.validation.config["split"] == "all"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "huge"}, "--scale huge: there is no such scale; choose one of tiny, demo, demo_large, cc3m, cc15m"),
        ({"name": "../demo"}, "--name '../demo': at most 100 letters, digits, dots, dashes and underscores"),
        ({"urls": "none.csv"}, "--urls none.csv: there is no such file or folder"),
        ({"detection": "none.json"}, "--detection none.json: there is no such file or folder"),
        ({"urls": True, "validation": "none.json"}, "--validation none.json: there is no such file"),
        ({"detection": True}, "--images: "),
        ({"detection": True, "images": "none"}, "--images none: there is no such folder"),
        ({"images": True}, "--images and --held-out go with --urls, --captions, --detection, --grounding"),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], message: str, files: dict[str, Path]) -> None:
    given: dict[str, Any] = {}
    for key, value in options.items():
        path = files[key] if value is True else Path(value) if key in files else None
        given[key] = value if path is None else path if key == "validation" else (path,)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        BuildConfig(**given).dataset()
    assert str(error.value).startswith(message)
