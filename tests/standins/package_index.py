"""A package index on this machine, a stand-in: its wheels hold next to nothing."""

from __future__ import annotations

import base64
import hashlib
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class PackageIndex:
    """Wheels in a folder that is served as a simple index (PEP 503)."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    def add(
        self,
        name: str,
        version: str = "1.0",
        tag: str = "py3-none-any",
        content: str = "",
        needs: tuple[str, ...] = (),
    ) -> str:
        """Offers a wheel with one module and returns its SHA-256."""
        page = self.folder / name.replace("_", "-")
        page.mkdir(exist_ok=True)
        wheel, info = page / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
        head = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in needs)]
        files = {
            f"{name}.py": content,
            f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *head, ""]),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n",
        }
        lines = [f"{path},{_stated(text)},{len(text)}\n" for path, text in files.items()]
        files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"])
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
        return self.link(wheel)

    def link(self, file: Path) -> str:
        """Lists a file of a package's folder and returns its SHA-256."""
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        with (file.parent / "index.html").open("a", encoding="utf-8") as stream:
            stream.write(f'<a href="{file.name}#sha256={digest}">{file.name}</a>\n')
        return digest


def _stated(text: str) -> str:
    """A checksum as a RECORD has it."""
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


class _Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Keeps the test's output clean."""


@contextmanager
def serving(folder: Path) -> Iterator[PackageIndex]:
    """Serves an index from a new folder on a free port of the loopback."""
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield PackageIndex(folder, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
