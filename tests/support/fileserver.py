"""A folder served over HTTP, with ranges; the first requests fail.

``python fileserver.py FOLDER FAILURES`` prints its port, and answers ``/requests`` with the number
of requests so far. A process of its own: GDAL waits for an answer while it holds Python's lock.
"""

from __future__ import annotations

import http.server
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD."""

    folder = Path()
    failures = 0
    requests = 0

    def do_GET(self) -> None:
        if self.path == "/requests":
            self._send(str(self.requests).encode(), None)
            return
        type(self).requests += 1
        path = self.folder / self.path.lstrip("/")
        if self.failures > 0:
            type(self).failures -= 1
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send(path.read_bytes(), self.headers.get("Range"))

    do_HEAD = do_GET  # noqa: N815 as the library wants it

    def _send(self, data: bytes, span: str | None) -> None:
        first, last = (int(n) for n in span.split("=")[1].split("-")) if span else (0, len(data))
        part = data[first : last + 1]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path, failures: int = 0) -> Iterator[str]:
    """Host and port of a server that fails so many requests first."""
    command = [sys.executable, __file__, str(folder), str(failures)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


if __name__ == "__main__":
    Handler.folder, Handler.failures = Path(sys.argv[1]), int(sys.argv[2])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
