import pytest

from pipelines.fetch.robots import Robots, matches_pattern

# The example of RFC 9309, section 5.1.
RFC_EXAMPLE = """\
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("product", "path", "is_allowed"),
    [
        ("anybot", "/publications/", True),
        ("anybot", "/example/page.html", False),
        ("anybot", "/a/b.gif", False),
        ("anybot", "/a/b.gif?size=1", True),  # "$" is the end of path and query
        ("foobot", "/", False),
        ("FooBot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/other.gif", True),  # its own group replaces that of everyone
        ("quxbot", "/example/page.html", True),
    ],
)
def test_the_example_of_the_rfc(product, path, is_allowed):
    assert Robots.parse(RFC_EXAMPLE, product=product).allows(path) is is_allowed


@pytest.mark.parametrize(
    ("rules", "path", "is_allowed"),
    [
        # RFC 9309, 5.2: the longest match wins, whatever the order.
        ("Allow: /example/page/\nDisallow: /example/page/disallowed.gif", "/example/page/disallowed.gif", False),
        ("Disallow: /example/page/disallowed.gif\nAllow: /example/page/", "/example/page/ok.gif", True),
        ("Disallow: /a\nAllow: /a", "/a", True),  # of equals the one that allows
        ("Disallow:", "/", True),
        ("Disallow: /", "/robots", False),
        ("Disallow: /x # of /y", "/x", False),
        ("DISALLOW : /x", "/x", False),
        ("Disallow: /bücher", "/b%C3%BCcher", False),
        ("Disallow: /b%c3%bccher", "/bücher", False),
        ("Disallow: /a%2Fb", "/a/b", True),
        ("Disallow: /*.jpg$", "/photos/1.jpg", False),
        ("Disallow: /*.jpg$", "/photos/1.jpeg", True),
        ("Disallow: /*?", "/a?b", False),
        ("Crawl-delay: 5\nDisallow: /x", "/x", False),
        ("nonsense\n\x00\n: :\nDisallow: /x", "/x", False),
    ],
)
def test_rules(rules, path, is_allowed):
    assert Robots.parse(f"User-agent: *\n{rules}", product="bot").allows(path) is is_allowed


def test_groups_of_the_same_robot_are_one_and_a_version_does_not_matter():
    text = "User-agent: bot\nDisallow: /a\n\nUser-agent: other\nDisallow: /b\n\nUser-agent: BOT/2.0\nDisallow: /c\n"
    robots = Robots.parse(text, product="bot")
    assert [robots.allows(path) for path in ("/a", "/b", "/c")] == [False, True, False]


def test_rules_before_any_group_and_empty_files_forbid_nothing():
    assert Robots.parse("Disallow: /\n", product="bot").allows("/")
    assert Robots.parse("", product="bot").allows("/")


def test_patterns_against_a_naive_matcher():
    def naive(path: str, pattern: str) -> bool:
        if not pattern:
            return True
        if pattern == "$":
            return not path
        if pattern[0] == "*":
            return any(naive(path[i:], pattern[1:]) for i in range(len(path) + 1))
        return path[:1] == pattern[0] and naive(path[1:], pattern[1:])

    letters = ["", "a", "b", "ab", "ba", "aab", "abab", "bbaa"]
    patterns = [a + s + b + t + c for a in ("a", "ab", "*") for s in ("*", "") for b in ("b", "") for t in ("*", "")
                for c in ("$", "a$", "b", "ab$")]  # fmt: skip
    assert [matches_pattern(x, p) for x in letters for p in patterns] == [
        naive(x, p) for x in letters for p in patterns
    ]


def test_a_hostile_pattern_takes_no_exponential_time():
    assert not matches_pattern("/" + "a" * 5000, "/" + "*a" * 2000 + "*b")
