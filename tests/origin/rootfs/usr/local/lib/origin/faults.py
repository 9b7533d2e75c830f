"""Serves the origin's files as a bad mirror would: cut, too short, with wrong bytes, or never.

``/fault/KIND/PATH`` is PATH of the directory given, spoilt in the way of KIND. nginx stands in
front, answers what needs no file (403, 404) by itself, and has git's own part of a repository
answered by git: what is spoilt of a repository are its large files, which are asked for here.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Without ranges, as bad mirrors are: the connection ends half-way, the file does, nothing comes,
# one bit is another, an LFS pointer stands in the file's place, the last large file is missing.
SPOILT = ("cut", "short", "slow", "wrong", "stub", "missing")
# With ranges: what is half-way is cut and from then on forbidden, at a measured pace, for those who
# show a token.
RANGED = ("vanish", "calm", "gated")
KINDS = (*SPOILT, *RANGED)
TOKEN = "hf_OnlyForTheLabAndNeverInAnyLog"  # noqa: S105  # of the gated repository, which is a stand-in
# Longer than anybody waits.
_SILENCE_S = 3600
_PIECE = 1 << 20
_CALM_S = 0.25  # after each piece


class Faults(BaseHTTPRequestHandler):
    """Answers GET, HEAD and git-lfs's question for a batch of files."""

    protocol_version = "HTTP/1.1"
    root: Path

    def do_HEAD(self) -> None:
        """Answers with the headers that GET would have."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answers with the file, spoilt."""
        self._answer(body=True)

    def do_POST(self) -> None:
        """Answers where the large files of a repository are: here."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        kind, path = self._asked()
        if not path.endswith(".git/info/lfs/objects/batch") or not self._admitted(kind):
            self._refuse(404 if self._admitted(kind) else 401)
            return
        base = f"http://{self.headers['Host']}/fault/{kind}/{path.removesuffix('batch')}storage"
        objects = []
        for one in asked["objects"]:
            words = {"oid": one["oid"], "size": one["size"]}
            if kind == "missing" and self._is_last(self._object(path, one["oid"])):
                words["error"] = {"code": 404, "message": "Object does not exist"}
            else:
                words["actions"] = {"download": {"href": f"{base}/{one['oid']}"}}
            objects.append(words)
        answer = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _asked(self) -> tuple[str, str]:
        """Returns kind and path of the request; the kind is empty when it is none of ours."""
        words = [*unquote(urlsplit(self.path).path).split("/", 3), "", "", ""]
        known = words[1] == "fault" and words[2] in KINDS
        return (words[2], words[3]) if known else ("", words[1])

    def _answer(self, *, body: bool) -> None:
        kind, asked = self._asked()
        if asked == "gate":  # nginx asks whether git may in
            self._refuse(204 if self._admitted("gated") else 401)
            return
        path = self._file(asked)
        if not kind or path is None or (kind == "missing" and self._is_last(path)):
            self._refuse(404)
        elif not self._admitted(kind):
            self._refuse(401)
        elif kind in RANGED or path.suffix == ".json":
            self._send_on(path, kind, body=body)
        else:
            self._send_spoilt(path, kind, body=body)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="gated"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _admitted(self, kind: str) -> bool:
        """Says whether the token was shown, as Bearer or beside any user's name."""
        if kind != "gated":
            return True
        scheme, _, said = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            said = base64.b64decode(said).decode().partition(":")[2]
        return said == TOKEN

    def _send_spoilt(self, path: Path, kind: str, *, body: bool) -> None:
        if kind == "slow":
            time.sleep(_SILENCE_S)
        size = path.stat().st_size
        half = size // 2
        stub = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {size}\n"
        lengths = {"short": half, "stub": len(stub)}
        self._begin(200, lengths.get(kind, size))
        # What is cut was announced whole; the connection ends after its first half.
        self.close_connection = kind == "cut"
        if body and kind == "stub":
            self.wfile.write(stub.encode())
        elif body:
            whole = kind in ("wrong", "missing")
            self._send(path, 0, size if whole else half, half if kind == "wrong" else -1)

    def _send_on(self, path: Path, kind: str, *, body: bool) -> None:
        """Answers with a file from where it is wanted."""
        size = path.stat().st_size
        wanted = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        start = int(wanted) if wanted.isdigit() else 0
        end = size // 2 if kind == "vanish" and path.suffix != ".json" else size
        self.close_connection = end < size
        if start >= end > 0:
            self._refuse(416 if end == size else 403)
            return
        if start:
            self._begin(206, size - start, f"bytes {start}-{size - 1}/{size}")
        else:
            self._begin(200, size)
        if body:
            self._send(path, start, end, -1, _CALM_S if kind == "calm" else 0)

    def _begin(self, status: int, length: int, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _object(self, batch: str, oid: str) -> Path:
        """Returns where a large file of a repository is kept."""
        return self.root / "lfs" / batch.partition(".git/info/lfs/")[0] / oid

    def _is_last(self, path: Path) -> bool:
        """Says whether a file is the last of the large ones in its directory."""
        large = [one for one in path.parent.iterdir() if one.suffix in ("", ".safetensors")]
        return bool(large) and path == max(large)

    def _file(self, path: str) -> Path | None:
        """Returns a file below the root, an index for a directory; None when there is none."""
        repository, _, oid = path.partition(".git/info/lfs/objects/storage/")
        found = (self.root / (f"lfs/{repository}/{oid}" if oid else path)).resolve()
        if found.is_dir():
            found /= "index.html"
        return found if found.is_file() and found.is_relative_to(self.root) else None

    def _send(self, path: Path, start: int, end: int, flipped: int, pause: float = 0) -> None:
        """Sends some bytes of a file, the lowest bit of one of them turned over."""
        sent = start
        with path.open("rb") as source:
            source.seek(start)
            while sent < end and (piece := bytearray(source.read(min(_PIECE, end - sent)))):
                if sent <= flipped < sent + len(piece):
                    piece[flipped - sent] ^= 1
                self.wfile.write(piece)
                sent += len(piece)
                time.sleep(pause)


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
