import socket
import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pipelines.fetch.drop_reasons import FetchError
from pipelines.fetch.http_client import HttpClient, HttpConfig, Response, client_for


def fetch(url: str, **options: Any) -> bytes:
    options = {"robots": "ignore", "backoff_base_s": 0.01} | options
    return HttpClient(HttpConfig(**options)).get(url).body


def test_fetches_a_page_under_a_name_that_is_connected_elsewhere(web, page):
    web.pages["/a%20b?q=%C3%A9"] = page(body=b"hello")
    assert fetch("http://img.test/a b?q=é", connect_to={"img.test": web.address}, user_agent="me/1") == b"hello"
    assert web.requests == [("img.test", "/a%20b?q=%C3%A9", "me/1")]


def test_loopback_is_allowed_only_by_configuration(web, page):
    web.pages["/"] = page(body=b"hello")
    assert fetch(f"http://{web.address}/", allow_loopback=True) == b"hello"
    with pytest.raises(FetchError, match="^forbidden_address: 127.0.0.1 is 127.0.0.1"):
        fetch(f"http://{web.address}/")


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "data:text/plain,x", "ftp://img.test/", "http:///x", "http://a..b/", "http://a:b/"]
)
def test_only_http_urls_with_a_host(url):
    with pytest.raises(FetchError, match="^bad_url: "):
        HttpClient(HttpConfig(allow_loopback=True)).get(url)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "100.64.0.1",
        "127.8.8.8",
        "169.254.169.254",
        "192.168.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1%2",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "2002:0a00:0001::",  # 6to4 of 10.0.0.1
        "64:ff9b::a00:1",  # NAT64 of 10.0.0.1
    ],
)
def test_private_addresses_are_refused_before_connecting(address, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 80))])
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(FetchError, match=f"^forbidden_address: rebind.test is {address}"):
        HttpClient(HttpConfig()).get("http://rebind.test/")


def test_connects_to_the_very_address_that_was_checked_and_tries_the_next_one(monkeypatch):
    answers = ["10.0.0.1", "2606:4700::1", "64:ff9b::808:808", "1.1.1.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (a, 80)) for a in answers])
    tried = []

    def refuse(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append((*address, round(timeout)))
        raise ConnectionRefusedError("no")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(FetchError, match="^connection: ConnectionRefusedError no"):
        HttpClient(HttpConfig(deadline_s=30, max_tries=1, robots="ignore")).get("http://a.test:8081/")
    assert tried == [("2606:4700::1", 8081, 10), ("64:ff9b::808:808", 8081, 15), ("1.1.1.1", 8081, 30)]


def test_redirects_are_followed_and_checked_again(web, page):
    web.pages["/start"] = page(status=302, headers={"Location": "next/é.jpg"})
    web.pages["/next/%C3%A9.jpg"] = page(status=308, headers={"Location": "http://other.test/end"})
    web.pages["/end"] = page(body=b"here")
    web.pages["/inside"] = page(status=302, headers={"Location": f"http://{web.address}/end"})
    web.pages["/local"] = page(status=302, headers={"Location": "file:///etc/hostname"})
    connect_to = {"img.test": web.address, "other.test": web.address}
    assert fetch("http://img.test/start", connect_to=connect_to) == b"here"
    with pytest.raises(FetchError, match="^forbidden_address: "):
        fetch("http://img.test/inside", connect_to=connect_to)
    with pytest.raises(FetchError, match="^bad_redirect: "):
        fetch("http://img.test/local", connect_to=connect_to)


def test_at_most_five_redirects(web, page):
    for i in range(6):
        web.pages[f"/{i}"] = page(status=301, headers={"Location": f"/{i + 1}"})
    web.pages["/6"] = page(body=b"far")
    connect_to = {"img.test": web.address}
    assert fetch("http://img.test/1", connect_to=connect_to) == b"far"
    with pytest.raises(FetchError, match="^http_other: more than 5 redirects"):
        fetch("http://img.test/0", connect_to=connect_to)


@pytest.mark.parametrize(
    ("status", "slug"),
    [
        (304, "http_other"),
        (401, "http_other"),
        (403, "http_403"),
        (404, "http_404"),
        (410, "http_404"),
        (429, "http_429"),
        (500, "http_5xx"),
        (503, "http_5xx"),
    ],
)
def test_status_slugs(web, page, status, slug):
    web.pages["/"] = page(status=status)
    with pytest.raises(FetchError, match=f"^{slug}: {status} Status"):
        fetch("http://img.test/", connect_to={"img.test": web.address})


@pytest.mark.parametrize("body", [b"", b"x" * 1000], ids=["slow headers", "slow body"])
def test_a_slow_drip_is_cut_at_the_deadline(web, page, body):
    # A byte every 50 ms never trips a timeout per packet; headers take longer than the deadline with or without a body.
    web.pages["/"] = page(body=body, byte_interval_s=0.005 if body else 0.05)
    start = time.monotonic()
    with pytest.raises(FetchError, match="^timeout: "):
        fetch("http://img.test/", connect_to={"img.test": web.address}, deadline_s=0.5)
    assert time.monotonic() - start < 2


def test_a_silent_server_is_cut_at_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(FetchError, match="^timeout: "):
            fetch("http://img.test/", connect_to={"img.test": address}, deadline_s=0.2)
        with pytest.raises(FetchError, match="^timeout: "):
            fetch("https://img.test/", connect_to={"img.test": address}, deadline_s=0.2)


def test_long_bodies_are_refused_whether_announced_or_not(web, page):
    web.pages["/announced"] = page(announced_bytes=10**12)
    web.pages["/unannounced"] = page(body=b"x" * 101, has_length=False)
    web.pages["/fits"] = page(body=b"x" * 100, has_length=False)
    options: dict[str, Any] = {"connect_to": {"img.test": web.address}, "max_bytes": 100}
    with pytest.raises(FetchError, match="^too_large: 1000000000000 bytes announced, 100 allowed"):
        fetch("http://img.test/announced", **options)
    with pytest.raises(FetchError, match="^too_large: more than 100 bytes"):
        fetch("http://img.test/unannounced", **options)
    assert fetch("http://img.test/fits", **options) == b"x" * 100


def test_bodies_that_end_early_are_truncated(web, page):
    web.pages["/length"] = page(body=b"x" * 10, announced_bytes=20)
    chunked = {"Transfer-Encoding": "chunked"}
    web.pages["/chunks"] = page(body=b"a\r\n0123456789\r\na\r\n012", headers=chunked, has_length=False)
    with pytest.raises(FetchError, match="^truncated: 10 of 20 bytes"):
        fetch("http://img.test/length", connect_to={"img.test": web.address})
    with pytest.raises(FetchError, match="^truncated: "):
        fetch("http://img.test/chunks", connect_to={"img.test": web.address})


def test_names_that_do_not_resolve(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(FetchError, match="^dns: .*not known"):
        HttpClient(HttpConfig()).get("http://nowhere.test/")


def test_nonsense_instead_of_http_is_a_connection_error(web, page):
    web.send = lambda handler, _: handler.wfile.write(b"SSH-2.0\r\n\r\n")
    with pytest.raises(FetchError, match="^connection: BadStatusLine"):
        fetch("http://img.test/", connect_to={"img.test": web.address})


def test_https_checks_the_certificate(web, page, tmp_path, monkeypatch):
    certificate = self_signed_certificate(tmp_path, host="img.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
    web.pages["/"] = page(body=b"secret")
    connect_to = {"img.test": web.address, "other.test": web.address}
    with pytest.raises(FetchError, match="^tls: SSLCertVerificationError"):
        fetch("https://img.test/", connect_to=connect_to)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch("https://img.test/", connect_to=connect_to) == b"secret"
    assert web.requests == [("img.test", "/", HttpConfig().user_agent)]
    with pytest.raises(FetchError, match="^tls: .*Hostname mismatch"):
        fetch("https://other.test/", connect_to=connect_to)


def test_a_redirect_to_a_malformed_address_has_a_reason_of_its_own(web, page):
    web.pages["/"] = page(status=302, headers={"Location": "http://[::1/"})
    with pytest.raises(FetchError, match="^bad_redirect: Invalid IPv6 URL"):
        fetch("http://img.test/", connect_to={"img.test": web.address})


def test_the_whole_body_is_kept_before_its_connection_is_closed_and_urllib_is_left_alone(web, page):
    web.pages |= {
        "/start": page(status=302, headers={"Location": "/end", "X-Robots-Tag": "nosnippet"}),
        "/end": page(body=b"hello", headers={"X-Robots-Tag": "noarchive"}),
        "/cut": page(body=b"hel", announced_bytes=5),
        "/noai": page(body=b"hello", headers={"X-Robots-Tag": "noai"}),
    }
    opener = urllib.request._opener  # type: ignore[attr-defined]
    closed = []
    send, kept = web.send, []

    def send_and_wait_for_the_end(handler: Any, page_: Any) -> None:
        send(handler, page_)
        handler.wfile.flush()
        if handler.path == "/end":
            handler.connection.shutdown(socket.SHUT_WR)
            closed.append(handler.connection.recv(1) == b"")
            assert kept == [Response(body=b"hello", robots_tags=("noarchive",))]

    def keep(response: Response) -> None:
        time.sleep(0.2)
        assert not closed
        assert urllib.request._opener is opener  # type: ignore[attr-defined]
        kept.append(response)

    web.send = send_and_wait_for_the_end
    client = HttpClient(HttpConfig(connect_to={"img.test": web.address}, robots="obey", backoff_base_s=0.01))
    assert client.get("http://img.test/start", keep=keep) == Response(body=b"hello", robots_tags=("noarchive",))
    for path in ("/cut", "/noai", "/missing"):
        with pytest.raises(FetchError):
            client.get(f"http://img.test{path}", keep=keep)
    assert len(kept) == 1


def test_the_next_shard_knows_what_the_last_one_learnt(web, page):
    web.pages |= {"/a": page(body=b"a"), "/robots.txt": page(body=b"User-agent: *\nDisallow: /b")}
    for _ in range(3):
        client = client_for(HttpConfig(connect_to={"img.test": web.address}))
        client.get("http://img.test/a")
        with pytest.raises(FetchError, match="^robots_disallowed: http://img.test:80/robots.txt forbids /b"):
            client.get("http://img.test/b")
    assert [path for _, path, _ in web.requests] == ["/robots.txt", "/a", "/a", "/a"]


def self_signed_certificate(folder: Path, *, host: str) -> Path:
    """A PEM file with a key and its certificate."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
