import time

import pytest

from pipelines.fetch.robots import MAX_BYTES, MAX_RULES, Robots, load_opt_out_rule

IS_OPTED_OUT = load_opt_out_rule(product="ExampleBot")

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
    robots = {p: Robots.parse(f"User-agent: *\nDisallow: /{p}", product="bot") for p in patterns}
    assert [not robots[p].allows(f"/{x}") for x in letters for p in patterns] == [
        naive(x, p) for x in letters for p in patterns
    ]


def test_a_hostile_pattern_takes_no_exponential_time():
    robots = Robots.parse(f"User-agent: *\nDisallow: /{'*a' * 2000}*b", product="bot")
    started = time.monotonic()
    assert robots.allows("/" + "a" * 5000)
    assert time.monotonic() - started < 1


def test_a_hostile_list_of_agents_takes_no_quadratic_time():
    half = MAX_BYTES // 2
    agents = "".join(f"User-agent: a{i}\n" for i in range(half // 20)) + "User-agent: *\n" * (half // 20)
    started = time.monotonic()
    robots = Robots.parse(f"{agents}Disallow: /x\n" * 1 + "Disallow: /y\n" * (half // 20), product="bot")
    assert time.monotonic() - started < 5
    assert [robots.allows(path) for path in ("/x", "/y", "/z")] == [False, False, True]


@pytest.mark.parametrize("agent", ["*", "bot"])
def test_an_agent_named_again_and_again_multiplies_no_rule(agent):
    half = MAX_BYTES // 2
    text = f"User-agent: {agent}\n" * (half // 16) + "Disallow: /x\n" * (half // 13)
    robots = Robots.parse(text, product="bot")
    assert (robots.num_rules, robots.allows("/x"), robots.allows("/y")) == (1, False, True)


@pytest.mark.parametrize(("num_rules", "is_allowed"), [(MAX_RULES, True), (MAX_RULES + 1, False)])
def test_with_more_rules_than_are_read_nothing_is_allowed(num_rules, is_allowed):
    rules = "".join(f"Disallow: /{i}\n" for i in range(num_rules))
    assert Robots.parse(f"User-agent: *\n{rules}", product="bot").allows("/y") is is_allowed


@pytest.mark.parametrize("name", ["exam", "bot", "examplebots", "*bot", "example", "e"])
def test_a_part_of_a_name_is_another_robot(name):
    """RFC 9309, 2.2.1: the names are equal, but for their case."""
    robots = Robots.parse(f"User-agent: {name}\nAllow: /\n\nUser-agent: *\nDisallow: /", product="examplebot")
    assert not robots.allows("/x")
    robots = Robots.parse(f"User-agent: {name}\nDisallow: /", product="examplebot")
    assert robots.allows("/x")


@pytest.mark.parametrize("line", ["Crawl-delay: 5", "Sitemap: http://a.test/x", "Nonsense: x", "", "# x"])
def test_other_lines_do_not_end_a_group(line):
    """RFC 9309, 2.2.4: they must not interfere with the rules."""
    text = f"User-agent: bot\n{line}\nUser-agent: other\nDisallow: /a\n{line}\nDisallow: /b"
    assert not Robots.parse(text, product="bot").allows("/a")
    assert not Robots.parse(text, product="bot").allows("/b")


@pytest.mark.parametrize(
    "start", ["\ufeffUser-agent: bot", "useragent : bot # x", "User-agent bot/1.0 (x)", "user agent:bot/1"]
)
def test_agents_in_other_spellings(start):
    assert not Robots.parse(f"{start}\nDisallow: /", product="bot").allows("/x")


def test_paths_that_look_like_addresses_are_paths():
    robots = Robots.parse("User-agent: *\nDisallow: //a.test/x\nDisallow: /[", product="bot")
    assert [robots.allows(path) for path in ("//a.test/x", "//a.test/y", "//[::1", "/[::1")] == [
        False,
        True,
        True,
        False,
    ]


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
        (["none"], True),
        (["otherbot: none", "examplebot: nofollow"], False),
        # Several headers that a proxy joined.
        (["otherbot: nofollow, examplebot: noai"], True),
        (["otherbot: nofollow, noindex, examplebot: nofollow"], False),
        (["unavailable_after: Friday, 25-Jun-10 15:00:00 PST, noai"], True),
    ],
)
def test_values_of_the_x_robots_tag_header(values, is_opted_out):
    assert IS_OPTED_OUT(values) is is_opted_out
