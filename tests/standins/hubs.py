"""Hugging Face, ModelScope and a git server with LFS on this machine: a stand-in.

It speaks the parts of their interfaces that `hf`, `modelscope`, git and git-lfs use to fetch a
model, with ranges, and can be made to ask for a token and to misbehave. Large files are served
from a second host name, as the hubs do.

    python tests/standins/hubs.py --root DIRECTORY --port 8090

serves DIRECTORY/OWNER/NAME/REVISION/ as a model of both hubs.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 4096  # bytes from which on a file is one of LFS


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    """Git's name of some bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324  # as git does


@dataclass
class Asked:
    """One request: method, path with its query, where its range begins, who asked."""

    method: str
    path: str
    start: int
    authorization: str | None
    host: str | None
    sent: int = 0


@dataclass
class Hubs:
    """The server's models and its moods.

    `models` maps (repository, revision) to files. `said` are the files as the hub's lists tell
    them, where they shall differ. `cut` is the number of bytes after which a large file's
    connection is closed, `slow` after which it waits for a second, again and again; `gone` makes
    every large file a 404.
    """

    models: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    said: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    cut: int | None = None
    slow: int | None = None
    gone: bool = False
    git: Path | None = None
    static: Path | None = None
    asked: list[Asked] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self.server
        return int(self.server.server_port)

    @property
    def url(self) -> str:
        """The address of both hubs."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, port: int = 0, address: str = "127.0.0.1") -> Hubs:
        """Serves from a thread."""
        hubs = self

        class Handler(_Handler):
            site = hubs

        self.server = ThreadingHTTPServer((address, port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stops serving."""
        assert self.server
        self.server.shutdown()
        self.server.server_close()

    def sent(self, path: str = "") -> int:
        """The bytes of large files that were sent, of those whose path holds a text."""
        return sum(one.sent for one in self.asked if path in one.path)

    def add_git(self, source: Path, name: str) -> str:
        """Serves a repository's commits and LFS objects; returns its address."""
        assert self.git
        bare = self.git / f"{name}.git"
        subprocess.run(["git", "clone", "--quiet", "--bare", source, bare], check=True)
        subprocess.run(["git", "-C", bare, "update-server-info"], check=True)
        for file in (source / ".git/lfs/objects").rglob("*"):
            if file.is_file():
                (self.git / "lfs").mkdir(exist_ok=True)
                (self.git / "lfs" / file.name).write_bytes(file.read_bytes())
        return f"{self.url}/git/{name}.git"


class _Handler(BaseHTTPRequestHandler):
    site: Hubs
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        """Keeps the test's output clean."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def _route(self) -> None:
        given = self.headers.get("Range", "")
        start = int(given.removeprefix("bytes=").split("-")[0]) if given else 0
        who, host = self.headers.get("Authorization"), self.headers.get("Host")
        self.asked = Asked(self.command, self.path, start, who, host)
        self.site.asked.append(self.asked)
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if path.startswith("/cdn/"):
            self._large(path)
        elif not self._allowed():
            self._json({"error": "a token is needed"}, 401)
        elif path.startswith("/git/"):
            self._git(path)
        elif path.startswith("/static/"):
            self._static(path.removeprefix("/static/"))
        elif path.startswith("/api/v1/models/"):
            self._modelscope(path.removeprefix("/api/v1/models/"))
        elif path.startswith("/api/models/"):
            self._tree(path.removeprefix("/api/models/"))
        else:
            self._resolve(path)

    def _allowed(self) -> bool:
        wanted, given = self.site.token, self.headers.get("Authorization") or ""
        if wanted is None:
            return True
        basic = base64.b64encode(f"oauth2:{wanted}".encode()).decode()
        return given in {f"Bearer {wanted}", f"Basic {basic}"}

    def _model(self, repository: str, revision: str) -> dict[str, bytes] | None:
        found = self.site.models.get((repository, revision))
        if found is None:
            self._json({"Code": 404, "Message": "no such model or revision"}, 404)
        return found

    def _as_said(self, name: str, data: bytes) -> bytes:
        return self.site.said.get(name, data)

    # Hugging Face

    def _tree(self, path: str) -> None:
        owner, name, kind, revision = path.split("/", 3)
        model = self._model(f"{owner}/{name}", revision)
        if model is None:
            return
        if kind == "revision":
            files = [{"rfilename": one} for one in model]
            self._json({"id": f"{owner}/{name}", "sha": revision, "siblings": files})
            return
        entries = []
        for file, bytes_ in model.items():
            data = self._as_said(file, bytes_)
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data)}
            entry["oid"] = blob(data)
            if len(data) >= LARGE:
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def _resolve(self, path: str) -> None:
        words = path.lstrip("/").split("/", 4)
        if len(words) < 5 or words[2] != "resolve":
            self._json({"error": "no such page"}, 404)
            return
        owner, name, _, revision, file = words
        model = self._model(f"{owner}/{name}", revision)
        if model is None:
            return
        if file not in model:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        data, head = self._as_said(file, model[file]), {"X-Repo-Commit": revision}
        if len(data) < LARGE:
            self._bytes(model[file], head={**head, "ETag": f'"{blob(data)}"'})
            return
        head |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        self._send_on(f"{owner}/{name}/{revision}/{file}", head)

    # ModelScope

    def _modelscope(self, path: str) -> None:
        owner, name, rest = path.split("/", 2)
        query = {key: one[0] for key, one in parse_qs(urlsplit(self.path).query).items()}
        revision = query.get("Revision", "master")
        if rest == "revisions":
            branches = [{"Revision": revision}]
            self._json({"Code": 200, "Data": {"RevisionMap": {"Branches": branches, "Tags": []}}})
            return
        model = self._model(f"{owner}/{name}", revision)
        if model is None:
            return
        if rest == "repo/files":
            said = {one: self._as_said(one, data) for one, data in model.items()}
            files = [
                {"Name": one.split("/")[-1], "Path": one, "Size": len(data), "Type": "blob",
                 "Sha256": sha256(data), "IsLFS": len(data) >= LARGE, "Revision": revision}
                for one, data in said.items()
            ]  # fmt: skip
            self._json({"Code": 200, "Success": True, "Data": {"Files": files}})
        elif rest == "repo" and query.get("FilePath") in model:
            file = query["FilePath"]
            if len(model[file]) < LARGE:
                self._bytes(model[file])
            else:
                self._send_on(f"{owner}/{name}/{revision}/{file}", {})
        else:
            self._json({"Code": 404, "Message": "no such file"}, 404)

    # Git

    def _git(self, path: str) -> None:
        root = self.site.git
        assert root
        if path.endswith("/info/lfs/objects/batch"):
            asked = json.loads(self.body)
            objects = []
            for one in asked["objects"]:
                href = f"http://localhost:{self.site.port}/cdn/lfs/{one['oid']}"
                objects.append({**one, "actions": {"download": {"href": href}}})
            head = {"Content-Type": "application/vnd.git-lfs+json"}
            self._json({"transfer": "basic", "objects": objects}, head=head)
            return
        file = root / path.removeprefix("/git/")
        if file.is_file():
            self._bytes(file.read_bytes())
        else:
            self._json({"error": "no such file"}, 404)

    # A plain server, as a site's mirror host is one

    def _static(self, path: str) -> None:
        assert self.site.static
        file = self.site.static / path
        large = file.is_file() and file.stat().st_size >= LARGE
        if not file.is_file() or (large and self.site.gone):
            self._json({"error": "no such file"}, 404)
        else:
            self._bytes(file.read_bytes(), cut=self.site.cut if large else None)

    # What all of them use

    def _send_on(self, path: str, head: dict[str, str]) -> None:
        """Redirects to the other host name, as hubs do for large files."""
        self.send_response(302)
        for key, value in head.items():
            self.send_header(key, value)
        self.send_header("Location", f"http://localhost:{self.site.port}/cdn/{path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _large(self, path: str) -> None:
        words = path.removeprefix("/cdn/").split("/", 3)
        if words[0] == "lfs":
            assert self.site.git
            file = self.site.git / "lfs" / words[1]
            data = file.read_bytes() if file.is_file() else None
        else:
            model = self.site.models.get((f"{words[0]}/{words[1]}", words[2]), {})
            data = model.get(words[3])
        if data is None or self.site.gone:
            self._json({"error": "gone"}, 404)
            return
        self._bytes(data, cut=self.site.cut)

    def _bytes(
        self, data: bytes, cut: int | None = None, head: dict[str, str] | None = None
    ) -> None:
        start = self.asked.start
        if start and start >= len(data):
            head = {"Content-Range": f"bytes */{len(data)}"}
            self._json({"error": "no such range"}, 416, head)
            return
        part = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in (head or {}).items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent, step = part if cut is None else part[:cut], self.site.slow or len(part) or 1
        for begin in range(0, len(sent), step):
            time.sleep(1 if begin else 0)
            try:
                self.wfile.write(sent[begin : begin + step])
            except OSError:
                self.close_connection = True
                return
            if self.path.startswith(("/cdn/", "/static/")):
                self.asked.sent += len(sent[begin : begin + step])
        if len(sent) < len(part):
            self.wfile.flush()
            self.close_connection = True

    def _json(self, content: Any, status: int = 200, head: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        head = {"Content-Type": "application/json", **(head or {})}
        if status == 401:
            head["WWW-Authenticate"] = 'Basic realm="hub"'
        for key, value in {**head, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def read_models(root: Path) -> dict[tuple[str, str], dict[str, bytes]]:
    """The models below a directory, as OWNER/NAME/REVISION/."""
    found: dict[tuple[str, str], dict[str, bytes]] = {}
    for place in root.glob("*/*/*"):
        owner, name, revision = place.relative_to(root).parts
        files = [file for file in place.rglob("*") if file.is_file()]
        found[f"{owner}/{name}", revision] = {
            str(file.relative_to(place)): file.read_bytes() for file in files
        }
    return found


def main() -> None:
    """Serves a directory until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--token", default=None)
    words = parser.parse_args()
    hubs = Hubs(models=read_models(words.root), token=words.token)
    hubs.start(words.port, words.address)
    threading.Event().wait()


if __name__ == "__main__":
    main()
