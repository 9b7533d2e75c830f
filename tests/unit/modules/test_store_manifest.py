"""A store's manifest says what is there, and reads again only what has changed."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.modules.conftest import ModuleRunner


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    (path / "installers").mkdir(parents=True)
    (path / "installers/one.sh").write_text("one")
    (path / "pypi/default/simple/six").mkdir(parents=True)
    (path / "pypi/default/simple/six/index.html").write_text("page")
    return path


def said(text: str) -> dict[str, object]:
    return {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_every_file_is_listed_with_size_and_checksum(module: ModuleRunner, store: Path) -> None:
    result = module(path=str(store), expected=["installers/one.sh", "wheels/gone.whl"])
    assert result["changed"]
    wanted = {"installers/one.sh": said("one"), "pypi/default/simple/six/index.html": said("page")}
    assert json.loads((store / "manifest.json").read_text()) == wanted == result["files"]
    assert result["bytes"] == 7
    assert result["unreferenced"] == ["pypi/default/simple/six/index.html"]
    assert result["missing"] == ["wheels/gone.whl"]
    assert (store / "manifest.json").stat().st_mode & 0o777 == 0o644
    again = module(path=str(store))
    assert not again["changed"]
    assert again["files"] == wanted


def test_what_is_new_changed_or_gone_is_seen(module: ModuleRunner, store: Path) -> None:
    module(path=str(store))
    (store / "installers/one.sh").write_text("eno")
    os.utime(store / "installers/one.sh", ns=(1, 1))
    (store / "new").write_text("new")
    (store / "pypi/default/simple/six/index.html").unlink()
    result = module(path=str(store))
    assert result["files"] == {"installers/one.sh": said("eno"), "new": said("new")}
    assert "index.html" in result["diff"]["before"]
    assert "index.html" not in result["diff"]["after"]
    assert said("eno")["sha256"] in result["diff"]["after"]


def test_a_file_that_has_not_changed_is_not_read_again(module: ModuleRunner, store: Path) -> None:
    module(path=str(store))
    path = store / "installers/one.sh"
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert module(path=str(store))["files"]["installers/one.sh"] == said("one")


def test_unfinished_files_and_links_are_left_out(module: ModuleRunner, store: Path) -> None:
    (store / "installers/.two.sh.abc").write_text("half")
    (store / ".hidden").mkdir()
    (store / ".hidden/x").write_text("x")
    (store / "link").symlink_to("/etc/passwd")
    assert set(module(path=str(store))["files"]) == {
        "installers/one.sh",
        "pypi/default/simple/six/index.html",
    }


def test_check_mode_tells_and_writes_nothing(module: ModuleRunner, store: Path) -> None:
    assert module(path=str(store), check=True)["changed"]
    assert not (store / "manifest.json").exists()
    # As on a new machine, where the directory is not made in check mode either.
    assert module(path=str(store / "none"), check=True)["changed"]


def test_a_damaged_manifest_is_made_anew(module: ModuleRunner, store: Path) -> None:
    module(path=str(store))
    for name in ("manifest.json", ".manifest-seen.json"):
        (store / name).write_text("{")
    assert module(path=str(store))["changed"]
    assert set(json.loads((store / "manifest.json").read_text())) == {
        "installers/one.sh",
        "pypi/default/simple/six/index.html",
    }


def test_a_store_that_is_not_there_is_an_error(module: ModuleRunner, tmp_path: Path) -> None:
    result = module(path=str(tmp_path / "none"), fails=True)
    assert "is no directory" in result["msg"]
