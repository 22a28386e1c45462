import pytest

from pipelines.stages.filter_presets import PRESETS


@pytest.mark.parametrize(
    ("row", "datacomp", "laion", "filip"),
    [
        ({"original_width": 199}, "image_too_small", None, "image_too_small"),
        ({"original_width": 1921}, "image_too_wide", None, "image_too_wide"),
        ({"caption": "apple"}, "caption_too_short", None, None),
        ({"caption": "figs"}, "caption_too_short", "caption_too_short", None),
        ({"caption": "ein Apfel auf dem Tisch"}, *["caption_not_english"] * 3),
        ({"caption": "img_0.jpg"}, *["caption_file_name"] * 3),
        ({"similarity": 0.27}, None, "low_similarity", None),
        ({"similarity": 0.28, "punsafe": 1.0}, None, None, None),
        ({}, None, None, None),
    ],
)
def test_what_the_papers_drop(images, row, datacomp, laion, filip):
    wanted = {"datacomp": datacomp, "laion": laion, "filip": filip}
    table = images([row])
    assert {name: p.filters(table)["drop_reason"].to_pylist()[0] for name, p in PRESETS.items()} == wanted


def test_only_filip_counts_captions():
    assert {name: preset.dedup.max_caption_count for name, preset in PRESETS.items()} == {
        "datacomp": None,
        "laion": None,
        "filip": 10,
    }
