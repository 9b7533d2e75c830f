"""Serves the origin's files as a bad mirror would: cut, too short, with wrong bytes, or never.

``/fault/KIND/PATH`` is PATH of the directory given, spoilt in the way of KIND. nginx stands in
front and answers what needs no file (403, 404) by itself.
"""

from __future__ import annotations

import argparse
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

KINDS = ("cut", "short", "slow", "wrong")
# Longer than anybody waits.
_SILENCE_S = 3600
_PIECE = 1 << 20


class Faults(BaseHTTPRequestHandler):
    """Answers GET and HEAD; ranges are not heeded, as by a bad mirror."""

    protocol_version = "HTTP/1.1"
    root: Path

    def do_HEAD(self) -> None:
        """Answers with the headers that GET would have."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answers with the file, spoilt."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        _, fault, kind, *rest = [*unquote(urlsplit(self.path).path).split("/", 3), "", ""]
        path = self._file(rest[0])
        if fault != "fault" or kind not in KINDS or path is None:
            self.send_error(404)
            return
        if kind == "slow":
            time.sleep(_SILENCE_S)
        size = path.stat().st_size
        half = size // 2
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(half if kind == "short" else size))
        self.end_headers()
        # What is cut was announced whole; the connection ends after its first half.
        self.close_connection = kind == "cut"
        if body:
            self._send(path, size if kind == "wrong" else half, half if kind == "wrong" else -1)

    def _file(self, path: str) -> Path | None:
        """Returns a file below the root, an index for a directory; None when there is none."""
        found = (self.root / path).resolve()
        if found.is_dir():
            found /= "index.html"
        return found if found.is_file() and found.is_relative_to(self.root) else None

    def _send(self, path: Path, count: int, flipped: int) -> None:
        """Sends the first bytes of a file, the lowest bit of one of them turned over."""
        sent = 0
        with path.open("rb") as source:
            while sent < count and (piece := bytearray(source.read(min(_PIECE, count - sent)))):
                if sent <= flipped < sent + len(piece):
                    piece[flipped - sent] ^= 1
                self.wfile.write(piece)
                sent += len(piece)


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="directory of the files")
    parser.add_argument("--port", type=int, default=8001, help="port on 127.0.0.1; 0: any")
    options = parser.parse_args()
    Faults.root = options.root.resolve()
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Faults)
    print(server.server_port, flush=True)  # noqa: T201
    server.serve_forever()


if __name__ == "__main__":
    main()
