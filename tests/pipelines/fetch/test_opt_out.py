import pytest

from pipelines.fetch.opt_out import load_rule

IS_OPTED_OUT = load_rule(product="ExampleBot")


@pytest.mark.parametrize(
    ("values", "is_opted_out"),
    [
        ([], False),
        (["noai"], True),
        (["nofollow", "NOINDEX"], True),
        (["noaix, no ai"], False),
        (["examplebot: noai"], True),
        ([" ExampleBot : nofollow, noimageai "], True),
        (["otherbot: noai", "nofollow"], False),
        (["otherbot: noai", "examplebot: noindex"], True),
        (["example: noai"], False),
        (["examplebot: unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        # img2dataset alone takes what is before a colon for the name of a robot, and these for another's.
        (["max-image-preview: large, noai"], True),
        (["max-snippet: -1, max-video-preview: 5, noindex"], True),
        (["nofollow, unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        (["max-snippet: noai"], False),
        (["", ":", ",:,", "examplebot:"], False),
    ],
)
def test_values_of_the_header(values, is_opted_out):
    assert IS_OPTED_OUT(values) is is_opted_out
