import pytest

from pipelines.fetch.addresses import Target, is_allowed, parse_target
from pipelines.fetch.drop_reasons import FetchError


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://A.Test", Target(scheme="http", host="a.test", port=80, path="/")),
        ("HTTPS://a.test/x y?q=é#part", Target(scheme="https", host="a.test", port=443, path="/x%20y?q=%C3%A9")),
        ("http://bücher.test:8080/", Target(scheme="http", host="xn--bcher-kva.test", port=8080, path="/")),
        ("http://[2606:4700::1]/a", Target(scheme="http", host="2606:4700::1", port=80, path="/a")),
        ("http://127。0。0。1/", Target(scheme="http", host="127.0.0.1", port=80, path="/")),
        ("http://１２７.0.0.1/", Target(scheme="http", host="127.0.0.1", port=80, path="/")),
        # The fragment begins at "#": what follows is no host.
        ("http://a.test#@b.test/", Target(scheme="http", host="a.test", port=80, path="/")),
    ],
)
def test_urls_are_taken_apart(url, target):
    assert parse_target(url) == target


def test_the_origin_names_the_port():
    assert parse_target("https://a.test/x").origin == "https://a.test:443"
    assert parse_target("http://[::1]:8000/x").origin == "http://[::1]:8000"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://a.test/", "^bad_url: 'ftp://a.test/' is not http or https with a host"),
        ("//a.test/", "^bad_url: .* is not http or https"),
        ("http:///x", "^bad_url: .* with a host"),
        ("http://a.test@b.test/", "^bad_url: .* names a user"),
        ("http://a.test:b@c.test/", "^bad_url: .* names a user"),
        ("http://a..b/", "^bad_url: "),
        (f"http://{'a' * 64}.test/", "^bad_url: "),
        ("http://a b.test/", "^bad_url: 'a b.test' is not the name of a host"),
        ("http://a.test%00.b.test/", "^bad_url: .* is not the name of a host"),
        ("http://[fe80::1%25eth0]/", "^bad_url: .* is not the name of a host"),
        ("http://[::1/", "^bad_url: Invalid IPv6 URL"),
        ("http://a.test:99999/", "^bad_url: Port out of range"),
        ("http://a.test:x/", "^bad_url: Port could not be cast"),
        (f"http://a.test/{'x' * 8192}", "^bad_url: 8206 characters, 8192 allowed"),
        ("http://a.test:22/", "^forbidden_port: 22 is not a port of the web"),
        ("http://a.test:0/", "^forbidden_port: 0 "),
        ("http://a.test:6667/", "^forbidden_port: 6667 "),
    ],
)
def test_urls_that_lead_nowhere(url, message):
    with pytest.raises(FetchError, match=message):
        parse_target(url)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address):
    assert is_allowed(address, allow_loopback=False)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",  # metadata of Alibaba's cloud
        "127.8.8.8",
        "168.63.129.16",  # of Azure
        "169.254.169.254",  # of most
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",  # of Oracle's
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # once an IPv4-compatible 127.0.0.1
        "64:ff9b:1::1",
        "fc00::1",
        "fd00:ec2::254",  # metadata of AWS
        "fe80::1%2",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::",  # 6to4 of 10.0.0.1
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo of 10.0.0.1
        "64:ff9b::a00:1",  # NAT64 of 10.0.0.1
    ],
)
def test_all_other_addresses(address):
    assert not is_allowed(address, allow_loopback=False)


def test_loopback_is_allowed_on_demand_and_nothing_else_with_it():
    assert is_allowed("127.0.0.1", allow_loopback=True)
    assert is_allowed("::1", allow_loopback=True)
    assert is_allowed("::ffff:127.0.0.1", allow_loopback=True)
    assert not is_allowed("10.0.0.1", allow_loopback=True)
    assert not is_allowed("0.0.0.0", allow_loopback=True)
