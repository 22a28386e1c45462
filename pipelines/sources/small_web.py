"""HTTP server on loopback, a small web: the images of a pair stream, or a folder of photos, with what the real web does to them.

URLs name hosts under the reserved top-level domain ``.test`` and stay the same from run to run; ``connect_to`` tells a
downloader where those hosts are now, as curl's ``--connect-to`` does. By hand, for a folder of one's own photos::

    python -m pipelines.sources.small_web --serve DIR --port 8765
"""

import json
import mimetypes
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import tyro

from pipelines.sources.emoji_scenes.pair_source import HOSTS, EmojiScenes
from pipelines.sources.emoji_scenes.web import NOT_FOUND, Answer, emoji_answer

PHOTOS_HOST = "photos.test"
REQUEST_LOG_NAME = "requests.jsonl"
ANSWER_LOG_NAME = "answers.jsonl"
_DRIP_INTERVAL_S = 0.2  # a byte each: faster than any timeout per socket operation, and never done
_PROJECT_ROOT = Path(__file__).resolve().parents[2]


def file_answer(folder: Path, *, path: str) -> Answer:
    """A file of a folder, whatever the host."""
    file = (folder / unquote(path).lstrip("/")).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        return NOT_FOUND
    content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return Answer(body=file.read_bytes(), headers={"Content-Type": content_type})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # of connections that wait to be accepted: a downloader opens many at once

    def __init__(self, port: int, *, answer: Callable[[str, str], Answer], log: Path | None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer
        self.requests = None if log is None else log.open("ab", buffering=0)  # that have come
        self.answers = None if log is None else log.with_name(ANSWER_LOG_NAME).open("ab", buffering=0)  # taken whole

    def record(self, log: FileIO | None, **entry: object) -> None:
        """One whole line in one write: a killed server leaves no half of it, and threads do not mix theirs."""
        if log is not None:
            log.write((json.dumps(entry) + "\n").encode())


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds that a connection may stay idle

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").split(":")[0]
        path = self.path.split("?")[0]
        answer = self.server.answer(host, path)
        url, asked_s = f"http://{host}{self.path}", time.time()
        self.server.record(self.server.requests, url=url, status=answer.status, time_s=asked_s)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) + answer.num_bytes_missing))
        self.end_headers()
        try:
            self.wfile.write(answer.body)
            while answer.drips:
                time.sleep(_DRIP_INTERVAL_S)
                self.wfile.write(b"\0")
        except ConnectionError:  # the client has had enough; what is read of it from here on would look like a good end
            self.close_connection = True
            return
        if answer.num_bytes_missing:
            self.close_connection = True
        elif self._is_taken():
            self.server.record(self.server.answers, url=url, status=answer.status, asked_s=asked_s, taken_s=time.time())

    def _is_taken(self) -> bool:
        """Wait until the client has hung up in good order, or asks on: one that goes before it has read all resets."""
        try:
            self.rfile.peek(1)  # type: ignore[attr-defined]
        except OSError:
            self.close_connection = True
            return False
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal: the request log tells more."""


class SmallWeb:
    """The server in a process of its own, which ends with the ``with`` block or with this process, whichever is first."""

    def __init__(self, content: EmojiScenes | Path, *, folder: Path) -> None:
        """Prepare a server of a pair stream, or of a folder whose files appear as ``http://photos.test/<path>``.

        The logs of requests and of answers lie in ``folder``; they are appended to from run to run.

        Raises:
            ValueError: the folder to serve does not exist.
        """
        if isinstance(content, Path) and not content.is_dir():
            raise ValueError(f"there is no folder {content} to serve")
        self._content = content
        self._log = folder / REQUEST_LOG_NAME
        self._process: subprocess.Popen[str] | None = None
        self.connect_to: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self._content, Path):
            hosts, content = [PHOTOS_HOST], ["--serve", str(self._content)]
        else:
            size = str(self._content.image_size_px)
            hosts, content = list(HOSTS), ["--seed", str(self._content.seed), "--image-size-px", size]
        command = [sys.executable, "-m", "pipelines.sources.small_web", *content]
        path = os.pathsep.join([str(_PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [*command, "--log", str(self._log), "--parent-pid", str(os.getpid())],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the small web did not start: exit status {self._process.wait()}; its error is above")
        self.connect_to = {host: address.removeprefix("http://") for host in hosts}
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()
        self.connect_to = {}

    def request_counts(self) -> dict[str, int]:
        """How often each URL was ever asked for, by all servers that logged to this folder."""
        if not self._log.exists():
            return {}
        with self._log.open() as lines:
            return dict(Counter(json.loads(line)["url"] for line in lines))


def main(
    *,
    serve: Path | None = None,
    port: int = 0,
    seed: int = 0,
    image_size_px: int = 160,
    log: Path | None = None,
    parent_pid: int | None = None,
) -> None:
    """Serve a folder of files, or the emoji scenes, on 127.0.0.1; the address is the first line of the output.

    Args:
        serve: folder to serve; without one, the emoji scenes of ``seed`` and ``image_size_px``.
        port: 0 takes a free one.
        seed: of the emoji scenes.
        image_size_px: of the emoji scenes.
        log: file to which every request is appended as a line of JSON; ``answers.jsonl`` beside it gets a line for every
            answer that was taken whole.
        parent_pid: end when this process, the parent, is gone.
    """
    if serve is not None and not serve.is_dir():
        raise SystemExit(f"--serve {serve}: there is no such folder")
    scenes = EmojiScenes(seed=seed, image_size_px=image_size_px)

    def answer(host: str, path: str) -> Answer:
        return emoji_answer(scenes, host=host, path=path) if serve is None else file_answer(serve, path=path)

    server = _Server(port, answer=answer, log=log)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    while parent_pid is None or os.getppid() == parent_pid:
        time.sleep(0.2)


if __name__ == "__main__":
    tyro.cli(main)
