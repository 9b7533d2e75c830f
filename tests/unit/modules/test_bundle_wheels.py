"""Python packages come into a bundle as the indexes have them; uv is the real one."""

from __future__ import annotations

import hashlib
import http.server
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ModuleRunner


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass


def wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any") -> str:
    """Write the smallest wheel that uv reads and a page for it; return its SHA-256."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    info, path = f"{name}-{version}.dist-info", place / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    lines = [
        f'<a href="{one.name}#sha256={hashlib.sha256(one.read_bytes()).hexdigest()}">{one.name}</a>'
        for one in sorted(place.glob("*.whl"))
    ]
    (place / "index.html").write_text("\n".join(lines))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Sources:
    """Two indexes behind one server, the tools, and the arguments."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module, self.www, self.dest = module, tmp_path / "www", tmp_path / "store/pypi"
        self.tools = tmp_path / "tools"
        (self.tools / "bin").mkdir(parents=True)
        (self.tools / "bin/uv").symlink_to(shutil.which("uv") or "uv")
        (self.tools / "bin/python").symlink_to(sys.executable)
        self.www.mkdir()
        handler = partial(Quiet, directory=str(self.www))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def run(self, *requirements: str, fails: bool = False, **words: Any) -> dict[str, Any]:
        asked = {
            "requirements": list(requirements),
            "python": "3.10",
            "indexes": [f"{self.base}/first/"],
            "default_index": f"{self.base}/pypi/",
        }
        return self.module(
            sets=[{**asked, **words}], tools=str(self.tools), dest=str(self.dest), fails=fails
        )


@pytest.fixture
def sources(tmp_path: Path, module: ModuleRunner) -> Iterator[Sources]:
    made = Sources(tmp_path, module)
    yield made
    made.server.shutdown()


def test_each_file_goes_to_the_index_that_it_came_from(sources: Sources) -> None:
    digest = wheel(sources.www / "first", "vllm", "1.0")
    wheel(sources.www / "pypi", "numpy", "2.0")
    result = sources.run("vllm==1.0", "numpy==2.0")
    assert result["files"] == [
        "default/simple/numpy/numpy-2.0-py3-none-any.whl",
        "engine/simple/vllm/vllm-1.0-py3-none-any.whl",
    ]
    page = (sources.dest / "engine/simple/vllm/index.html").read_text()
    assert f'href="vllm-1.0-py3-none-any.whl#sha256={digest}"' in page
    again = sources.run("vllm==1.0", "numpy==2.0")
    assert again["fetched"] == 0
    assert not again["changed"]


def test_the_file_is_the_one_for_the_servers_python_and_platform(sources: Sources) -> None:
    for tag in (
        "cp310-cp310-manylinux_2_17_x86_64",
        "cp310-cp310-manylinux_2_28_x86_64",
        "cp310-cp310-manylinux_2_39_x86_64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp310-cp310-win_amd64",
    ):
        wheel(sources.www / "pypi", "torch", "2.0", tag)
    (path,) = sources.run("torch==2.0")["files"]
    assert path.endswith("torch-2.0-cp310-cp310-manylinux_2_28_x86_64.whl")


def test_a_pinned_hash_decides_among_files_and_refuses_others(sources: Sources) -> None:
    older = wheel(sources.www / "pypi", "torch", "2.0", "cp310-cp310-manylinux_2_17_x86_64")
    wheel(sources.www / "pypi", "torch", "2.0", "cp310-cp310-manylinux_2_28_x86_64")
    (path,) = sources.run(f"torch==2.0 --hash=sha256:{older}")["files"]
    assert path.endswith("manylinux_2_17_x86_64.whl")
    result = sources.run(f"torch==2.0 --hash=sha256:{'0' * 64}", fails=True)
    assert "torch" in result["msg"]


def test_wrong_bytes_are_refused(sources: Sources) -> None:
    wheel(sources.www / "pypi", "numpy", "2.0")
    path = sources.www / "pypi/numpy/numpy-2.0-py3-none-any.whl"
    # The page says one checksum and the server has other bytes, in a place that uv does not read.
    path.write_bytes(path.read_bytes() + b"\0")
    result = sources.run("numpy==2.0", fails=True)
    assert "numpy-2.0-py3-none-any.whl: sha256" in result["msg"]
    assert not list(sources.dest.rglob("*.whl"))


def test_what_is_no_longer_asked_for_is_gone(sources: Sources) -> None:
    for version in ("1.0", "2.0"):
        wheel(sources.www / "pypi", "numpy", version)
    wheel(sources.www / "pypi", "idle", "1.0")
    sources.run("numpy==1.0", "idle==1.0")
    sources.run("numpy==2.0")
    found = {path.name for path in sources.dest.rglob("*.whl")}
    assert found == {"numpy-2.0-py3-none-any.whl"}
    assert "numpy-1.0" not in (sources.dest / "default/simple/numpy/index.html").read_text()
    assert "idle" not in (sources.dest / "default/simple/index.html").read_text()


def test_what_no_index_has_is_named(sources: Sources) -> None:
    wheel(sources.www / "pypi", "numpy", "2.0")
    assert "numpy==3.0" in sources.run("numpy==3.0", fails=True)["msg"]


def test_dependencies_come_only_when_asked_for(sources: Sources) -> None:
    wheel(sources.www / "pypi", "b", "1.0")
    place = sources.www / "pypi/a"
    wheel(sources.www / "pypi", "a", "1.0")
    path = place / "a-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        metadata = "Metadata-Version: 2.1\nName: a\nVersion: 1.0\nRequires-Dist: b\n"
        archive.writestr("a-1.0.dist-info/METADATA", metadata)
        archive.writestr("a-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("a-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (place / "index.html").write_text(f'<a href="{path.name}#sha256={digest}">{path.name}</a>')
    assert len(sources.run("a==1.0")["files"]) == 1
    assert len(sources.run("a==1.0", dependencies=True)["files"]) == 2
