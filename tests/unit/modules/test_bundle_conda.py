"""Conda's packages come into a bundle as channels that name these packages alone."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ModuleRunner


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass


class Channel:
    """A channel behind a server, an environment made from it, and the arguments."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module, self.www, self.dest = module, tmp_path / "www", tmp_path / "store/conda"
        self.base = tmp_path / "environments"
        self.www.mkdir()
        handler = partial(Quiet, directory=str(self.www))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/pkgs/main"

    def package(self, name: str, subdir: str = "linux-64", **words: Any) -> Path:
        """Publish a package and say in the environment that it was installed."""
        data = name.encode() * 100
        path = self.www / f"pkgs/main/{subdir}/{name}-1.0-0.conda"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        record = {
            "name": name, "version": "1.0", "build": "0", "build_number": 0, "depends": [],
            "subdir": subdir, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(),
            "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "url": f"{self.url}/{subdir}/{path.name}",
            "files": ["bin/x"], "extracted_package_dir": "/somewhere", **words,
        }  # fmt: skip
        meta = self.base / "one/conda-meta"
        meta.mkdir(parents=True, exist_ok=True)
        (meta / f"{name}-1.0-0.json").write_text(json.dumps(record))
        return path

    def run(self, **words: Any) -> dict[str, Any]:
        channels = [{"name": "main", "url": self.url}, {"name": "conda-forge", "url": "http://f"}]
        asked = {
            "base": str(self.base),
            "environments": [{"name": "one", "channels": channels}],
            "dest": str(self.dest),
        }
        return self.module(**{**asked, **words})

    def repodata(self, subdir: str, channel: str = "main") -> dict[str, Any]:
        content: dict[str, Any] = json.loads(
            (self.dest / channel / subdir / "repodata.json").read_text()
        )
        return content


@pytest.fixture
def channel(tmp_path: Path, module: ModuleRunner) -> Iterator[Channel]:
    made = Channel(tmp_path, module)
    yield made
    made.server.shutdown()


def test_an_environments_packages_become_channels(channel: Channel) -> None:
    channel.package("python")
    channel.package("pip", "noarch")
    result = channel.run()
    assert result["files"] == ["main/linux-64/python-1.0-0.conda", "main/noarch/pip-1.0-0.conda"]
    said = channel.repodata("linux-64")["packages.conda"]["python-1.0-0.conda"]
    assert said["sha256"] == hashlib.sha256(b"python" * 100).hexdigest()
    # What is known of the installation is nobody's business.
    assert not {"files", "url", "extracted_package_dir"} & set(said)
    assert set(channel.repodata("noarch")["packages.conda"]) == {"pip-1.0-0.conda"}
    # An empty channel has its directories too: conda takes a missing one for an error.
    assert channel.repodata("noarch", "conda-forge")["packages.conda"] == {}
    assert not channel.run()["changed"]


def test_what_the_environment_no_longer_has_is_gone(channel: Channel) -> None:
    channel.package("python")
    channel.package("old")
    channel.run()
    (channel.base / "one/conda-meta/old-1.0-0.json").unlink()
    channel.run()
    assert set(channel.repodata("linux-64")["packages.conda"]) == {"python-1.0-0.conda"}
    assert not (channel.dest / "main/linux-64/old-1.0-0.conda").exists()


def test_wrong_bytes_and_unknown_channels_are_refused(channel: Channel) -> None:
    path = channel.package("python")
    path.write_bytes(b"other")
    result = channel.run(fails=True)
    assert "python-1.0-0.conda could not be had" in result["msg"]
    assert not list(channel.dest.rglob("*.conda"))
    channel.package("python", url="http://elsewhere/linux-64/python-1.0-0.conda")
    assert "which is in none of" in channel.run(fails=True)["msg"]


def test_a_package_cannot_lead_outside_of_the_channel(channel: Channel) -> None:
    channel.package("python", url=f"{channel.url}/linux-64/..%2F..%2Fevil.conda")
    assert "which is in none of" in channel.run(fails=True)["msg"]


def test_without_an_environment_it_says_so(channel: Channel) -> None:
    assert "make the environment first" in channel.run(fails=True)["msg"]
