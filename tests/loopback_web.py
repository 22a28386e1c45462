"""HTTP server on 127.0.0.1 for tests: pages by path, whole or misbehaving, and the requests that came."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass(kw_only=True)
class Page:
    """What the server sends for a path."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    announced_bytes: int | None = None  # Content-Length; None: as long as the body
    has_length: bool = True
    byte_interval_s: float = 0.0  # > 0: status line, headers and body come byte by byte


class Web:
    """Pages by path on 127.0.0.1, and the requests that came, as (Host header, path, User-Agent)."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, str, str]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.requests.append((self.headers["Host"], self.path, self.headers["User-Agent"]))
                web.send(self, web.find(self.path))

            do_HEAD = do_GET  # noqa: N815 the library's name

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Answer requests until the block ends."""
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def find(self, path: str) -> Page:
        """The page of a path, query included; a 404 where there is none."""
        return self.pages.get(path, Page(status=404))

    def send(self, handler: BaseHTTPRequestHandler, page: Page) -> None:
        """Write a page, whole or in drops; a client that hangs up ends it."""
        lines = [f"HTTP/1.1 {page.status} Status"] + [f"{name}: {value}" for name, value in page.headers.items()]
        if page.has_length:
            length = len(page.body) if page.announced_bytes is None else page.announced_bytes
            lines.append(f"Content-Length: {length}")
        body = b"" if handler.command == "HEAD" else page.body
        content = "\r\n".join([*lines, "", ""]).encode("utf-8") + body
        try:
            if not page.byte_interval_s:
                handler.wfile.write(content)
                return
            for position in range(len(content)):
                handler.wfile.write(content[position : position + 1])
                time.sleep(page.byte_interval_s)
        except OSError:
            pass
