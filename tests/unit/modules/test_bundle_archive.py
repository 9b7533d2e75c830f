"""A bundle comes over whole, or is refused before the store is touched."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.modules.conftest import ModuleRunner

WHEEL = os.urandom(200_000)
PAGE = b'<!DOCTYPE html>\n<html><body>\n<a href="%s#sha256=1">%s</a><br>\n</body></html>\n'
PROJECT = "store/pypi/default/simple/numpy"
REPODATA = "store/conda/main/linux-64/repodata.json"


class Site:
    """The two halves: what was gathered online, the archive, and the mirror's directory."""

    def __init__(self, tmp_path: Path, module: ModuleRunner) -> None:
        self.module = module
        self.source, self.root = tmp_path / "content", tmp_path / "mirror"
        self.archive = tmp_path / "out" / "site.tar"
        self.put("store/installers/miniconda.sh", b"#!/bin/sh\n")
        self.put(f"{PROJECT}/numpy-1.whl", WHEEL)
        self.put(f"{PROJECT}/index.html", PAGE % (b"numpy-1.whl", b"numpy-1.whl"))
        self.put(REPODATA, json.dumps({"packages": {"a": 1}, "packages.conda": {}}).encode())
        self.put("models/tiny/0123/sub/config.json", b"{}")

    def put(self, name: str, data: bytes) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def run(self, state: str, **words: Any) -> dict[str, Any]:
        places = {"packed": {"source": self.source}, "unpacked": {"root": self.root}}
        place = {key: str(path) for key, path in places.get(state, {}).items()}
        return self.module(archive=str(self.archive), state=state, **{**place, **words})

    def store(self) -> dict[str, bytes]:
        paths = sorted(path for path in self.root.rglob("*") if path.is_file())
        found = {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths}
        # Which bundle it was, for people and for check mode.
        assert json.loads(found.pop("bundle.json"))["format"] == 1
        return found


@pytest.fixture
def site(tmp_path: Path, module: ModuleRunner) -> Site:
    return Site(tmp_path, module)


def test_what_was_packed_is_what_is_unpacked(site: Site) -> None:
    packed = site.run("packed", about={"plans": ["a"]})
    assert packed["changed"]
    assert packed["files"] == 5
    unpacked = site.run("unpacked")
    assert unpacked["changed"]
    assert unpacked["bundle"]["about"] == {"plans": ["a"]}
    assert set(site.store()) == set(unpacked["placed"])
    assert site.store()[f"{PROJECT}/numpy-1.whl"] == WHEEL
    assert site.store()["models/tiny/0123/sub/config.json"] == b"{}"
    again = site.run("unpacked")
    assert not again["changed"]
    assert again["placed"] == []


def test_a_bundle_of_the_same_files_is_not_made_again(site: Site) -> None:
    site.run("packed")
    before = site.archive.stat().st_mtime_ns
    assert not site.run("packed")["changed"]
    assert site.archive.stat().st_mtime_ns == before
    site.put("store/installers/miniconda.sh", b"#!/bin/sh\nnew\n")
    assert site.run("packed", check=True)["changed"]
    assert site.archive.stat().st_mtime_ns == before
    assert site.run("packed")["changed"]


def test_check_mode_proves_and_changes_nothing(site: Site) -> None:
    assert site.run("packed", check=True)["changed"]
    assert not site.archive.exists()
    site.run("packed")
    result = site.run("unpacked", check=True)
    assert result["changed"]
    assert f"{PROJECT}/numpy-1.whl" in result["placed"]
    assert not site.root.exists()


def flip(site: Site, name: str) -> None:
    """Flip one bit in the middle of a file's content in the archive."""
    with tarfile.open(site.archive) as tar:
        info = tar.getmember(name)
    data = bytearray(site.archive.read_bytes())
    data[info.offset_data + info.size // 2] ^= 1
    site.archive.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["bundle.json", "manifest.json", f"{PROJECT}/numpy-1.whl", f"{PROJECT}/index.html"]
)
def test_a_flipped_bit_is_refused_with_the_files_name(site: Site, name: str) -> None:
    site.run("packed")
    flip(site, name)
    for state in ("verified", "unpacked"):
        result = site.run(state, fails=True)
        assert f": {name}" in result["msg"] or f"{name} is" in result["msg"]
        assert "carry it over again" in result["msg"]
    assert not site.root.exists()


def test_a_flipped_bit_in_a_files_name_is_refused(site: Site) -> None:
    site.run("packed")
    with tarfile.open(site.archive) as tar:
        where = tar.getmember(f"{PROJECT}/numpy-1.whl").offset
    data = bytearray(site.archive.read_bytes())
    data[where + 3] ^= 1
    site.archive.write_bytes(data)
    assert f"{PROJECT}/" in site.run("unpacked", fails=True)["msg"]
    assert not site.root.exists()


@pytest.mark.parametrize("left", [0, 100, 600, 0.3, 0.9])
def test_a_short_archive_is_refused(site: Site, left: float) -> None:
    site.put("store/z-last.bin", os.urandom(50_000))
    site.run("packed")
    data = site.archive.read_bytes()
    size = int(left) if left in (0, 100, 600) else int(len(data) * left)
    site.archive.write_bytes(data[:size])
    assert "Nothing was changed" in site.run("unpacked", fails=True)["msg"]
    assert not site.root.exists()


def test_what_breaks_off_is_named(site: Site) -> None:
    site.run("packed")
    with tarfile.open(site.archive) as tar:
        info = tar.getmember(f"{PROJECT}/numpy-1.whl")
    site.archive.write_bytes(site.archive.read_bytes()[: info.offset_data + 1000])
    assert f"{PROJECT}/numpy-1.whl" in site.run("unpacked", fails=True)["msg"]


def rewrite(site: Site, change: Any) -> None:
    """Write the archive anew, its members as `change` gives them."""
    with tarfile.open(site.archive) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
    with tarfile.open(site.archive, "w") as tar:
        for info, data in change(members):
            tar.addfile(info, io.BytesIO(data))


def test_a_file_that_is_missing_is_named(site: Site) -> None:
    site.run("packed")
    rewrite(site, lambda members: [m for m in members if "miniconda" not in m[0].name])
    result = site.run("unpacked", fails=True)
    assert "1 files are missing, the first is store/installers/miniconda.sh" in result["msg"]
    assert not site.root.exists()


def evil(name: str, **words: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in words.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "info",
    [
        evil("../evil", size=4),
        evil("/etc/evil", size=4),
        evil("store/../../evil", size=4),
        evil("store/extra", size=4),
        evil("store/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    ],
    ids=lambda info: info.name,
)
def test_what_the_manifest_does_not_name_is_refused(site: Site, info: tarfile.TarInfo) -> None:
    site.run("packed")
    rewrite(site, lambda members: [*members, (info, b"evil")])
    assert info.name in site.run("unpacked", fails=True)["msg"]
    assert not site.root.exists()


def test_a_link_in_the_place_of_a_file_is_refused(site: Site) -> None:
    site.run("packed")
    name = "store/installers/miniconda.sh"
    link = evil(name, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    rewrite(site, lambda members: [(link, b"") if m[0].name == name else m for m in members])
    assert f"{name} is no regular file" in site.run("unpacked", fails=True)["msg"]


def test_links_are_not_packed(site: Site) -> None:
    (site.source / "store/link").symlink_to("/etc/passwd")
    assert "no regular file" in site.run("packed", fails=True)["msg"]


def test_something_else_than_a_bundle_is_refused(site: Site) -> None:
    site.archive.parent.mkdir()
    assert "no such archive" in site.run("verified", fails=True)["msg"]
    with tarfile.open(site.archive, "w") as tar:
        tar.addfile(evil("hello", size=2), io.BytesIO(b"hi"))
    assert "bundle.json is not where it must be" in site.run("verified", fails=True)["msg"]


def test_damage_in_the_store_is_mended_and_the_rest_is_left_alone(site: Site) -> None:
    site.run("packed")
    site.run("unpacked")
    wheel = site.root / PROJECT / "numpy-1.whl"
    times = wheel.stat().st_mtime
    wheel.write_bytes(bytes(len(WHEEL)))
    os.utime(wheel, (times, times))
    other = site.root / "store/installers/miniconda.sh"
    inode = other.stat().st_ino
    assert site.run("unpacked")["placed"] == [f"{PROJECT}/numpy-1.whl"]
    assert wheel.read_bytes() == WHEEL
    assert other.stat().st_ino == inode


def test_newer_content_of_the_store_stays(site: Site) -> None:
    site.run("packed")
    site.run("unpacked")
    installer = site.root / "store/installers/miniconda.sh"
    installer.write_bytes(b"newer")
    os.utime(installer, (time.time() + 60, time.time() + 60))
    result = site.run("unpacked")
    assert not result["changed"]
    assert result["kept"] == ["store/installers/miniconda.sh"]
    assert installer.read_bytes() == b"newer"


def test_two_bundles_fill_one_store(site: Site) -> None:
    site.run("packed")
    site.run("unpacked")
    (site.source / PROJECT / "numpy-1.whl").unlink()
    site.put(f"{PROJECT}/numpy-2.whl", b"two")
    site.put(f"{PROJECT}/index.html", PAGE % (b"numpy-2.whl", b"numpy-2.whl"))
    site.put(REPODATA, json.dumps({"packages": {"b": 2}, "packages.conda": {}}).encode())
    site.run("packed")
    result = site.run("unpacked")
    assert f"{PROJECT}/index.html" in result["placed"]
    page = site.store()[f"{PROJECT}/index.html"]
    assert b'href="numpy-1.whl#' in page
    assert b'href="numpy-2.whl#' in page
    assert json.loads(site.store()[REPODATA])["packages"] == {"a": 1, "b": 2}
    assert not site.run("unpacked")["changed"]


def test_a_store_that_cannot_hold_it_is_left_alone(site: Site, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root for a file system of its own")
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        site.run("packed")
        result = site.run("unpacked", root=str(small), fails=True)
        assert "MiB of free disk" in result["msg"]
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_only_what_is_meant_is_packed_and_all_of_it(site: Site) -> None:
    result = site.run("packed", only=["store/conda", "models/tiny"])
    assert result["files"] == 2
    refused = site.run("packed", only=["store/conda", "store/con"], fails=True)
    assert "lacks what shall be carried: store/con" in refused["msg"]
