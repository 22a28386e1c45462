"""Scales of the web: what lies where, and what is missing."""

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from pipelines.build.build_config import BuildConfig
from pipelines.build.scales import SCALES, WEB_SCALES
from pipelines.sources.captions.conceptual_captions import ConceptualCaptions
from pipelines.sources.captions.webdataset_mirror import WebDatasetMirror
from pipelines.storage.tars import TarSample, write_tar

PHRASES = {
    "images": [{"id": 1, "file_name": "1.jpg", "caption": "a red kite", "width": 40, "height": 30}],
    "annotations": [{"image_id": 1, "bbox": [1, 1, 20, 20], "tokens_positive": [[2, 10]]}],
}
BOXES = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "images/v1/000000000139.jpg"}],
    "annotations": [{"image_id": i, "category_id": 1, "bbox": [1, 1, 20, 20]} for i in (1, 2)],
    "categories": [{"id": 1, "name": "Hamimelon"}],
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """All files of `detclipv2`, each with next to nothing in it."""
    for name in ("objects365/images", "goldg/flickr30k-images", "goldg/vg", "goldg/train2014", "cc3m", "cc12m", "lvis"):
        (tmp_path / name).mkdir(parents=True)
    for folder in ("objects365/images", "goldg/flickr30k-images", "goldg/vg"):
        Image.new("RGB", (40, 30)).save(tmp_path / folder / "1.jpg")
    (tmp_path / "cc3m/Train_GCC-training.tsv").write_text("a red kite\thttp://a.test/1.jpg\n")
    (tmp_path / "cc12m/cc12m.tsv").write_text("http://a.test/2.jpg\ta dog\n")
    (tmp_path / "objects365/zhiyuan_objv2_train.json").write_text(json.dumps(BOXES))
    for name in ("final_flickr_separateGT_train", "final_mixed_train"):
        (tmp_path / f"goldg/{name}.json").write_text(json.dumps(PHRASES))
    (tmp_path / "lvis/minival.txt").write_text("139\n")
    return tmp_path


def test_a_larger_scale_begins_with_the_sources_of_the_smaller() -> None:
    names = list(WEB_SCALES.values())
    assert all(larger[: len(smaller)] == smaller for smaller, larger in itertools.pairwise(names))
    assert not WEB_SCALES.keys() & SCALES.keys()


def test_detclipv2_is_two_sources_of_pairs_objects365_and_goldg(sources: Path) -> None:
    dataset = BuildConfig(scale="detclipv2", sources=sources).dataset()

    assert [source.name for source in dataset.pairs] == ["cc3m", "cc12m"]
    assert [source.name for source in dataset.detection] == ["objects365"]
    assert [source.name for source in dataset.grounding] == ["goldg_flickr30k", "goldg_mixed"]
    assert dataset.held_out is not None and dataset.held_out.coco_ids == {139}
    assert [len(source) for source in (*dataset.detection, *dataset.grounding)] == [1, 1, 1]
    assert dataset.detection[0].config["held_out"]["num_pictures_by_name"] == 1
    assert dataset.detection[0].vocabulary() == ["hami melon"]
    assert (dataset.name, dataset.served, dataset.validation, dataset.num_pairs) == ("detclipv2", None, None, None)


def test_cc15m_adds_cc12m_to_cc3m(sources: Path) -> None:
    small, large = (BuildConfig(scale=scale, sources=sources).dataset() for scale in ("cc3m", "cc15m"))

    assert large.pairs[:1] == small.pairs
    assert isinstance(large.pairs[1], ConceptualCaptions)
    assert (small.detection, small.grounding, small.held_out) == ((), (), None)
    assert (small.pairs_per_shard, small.download) == (large.pairs_per_shard, large.download)


def test_a_mirror_stands_for_the_table_of_urls(sources: Path) -> None:
    (sources / "cc3m/Train_GCC-training.tsv").unlink()
    write_tar(sources / "cc3m/cc3m-train-0000.tar", [TarSample(key="0", members={"txt": b"a dog"})])

    (mirror,) = BuildConfig(scale="cc3m", sources=sources).dataset().pairs
    assert isinstance(mirror, WebDatasetMirror)
    assert [shard.name for shard in mirror.shards()] == ["cc3m_wds-cc3m-train-0000"]

    (sources / "cc3m/Train_GCC-training.tsv").write_text("a red kite\thttp://a.test/1.jpg\n")
    with pytest.raises(ValueError, match=r"cc3m has both Train_GCC-training\.tsv and \.tar files: move one of them"):
        BuildConfig(scale="cc3m", sources=sources).dataset()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("cc3m/Train_GCC-training.tsv", "CC3M's captions and URLs (or, in its place, the .tar files of a WebDataset"),
        ("cc12m/cc12m.tsv", "CC12M's URLs and captions"),
        (
            "objects365/zhiyuan_objv2_train.json",
            "the training boxes of Objects365 v2; see the page 'Objects365 Dataset'",
        ),
        ("goldg/final_flickr_separateGT_train.json", "GoldG's phrases on Flickr30k; see the page 'MDETR: "),
        ("goldg/final_mixed_train.json", "GoldG's phrases on Visual Genome and COCO"),
        ("lvis/minival.txt", "the images of LVIS minival, which are kept out of training"),
    ],
)
def test_a_missing_file_is_named_with_what_it_is(missing: str, message: str, sources: Path) -> None:
    (sources / missing).unlink()

    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        BuildConfig(scale="detclipv2", sources=sources).dataset()
    assert str(error.value).startswith(f"{sources / missing} is missing: {message}")


def test_the_folder_of_sources_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--sources None: --scale cc3m needs the folder of its files"):
        BuildConfig(scale="cc3m").dataset()
    with pytest.raises(ValueError, match=r"--sources .*none: --scale cc15m needs the folder of its files"):
        BuildConfig(scale="cc15m", sources=tmp_path / "none").dataset()
