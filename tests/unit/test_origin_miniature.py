"""The miniature of vLLM's sources: whole, the same each time, and broken where it shall be."""

from __future__ import annotations

import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.origin import miniature

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    return miniature.make(tmp_path)


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as content:
        return {name.partition("/")[2] for name in content.getnames()}


def test_the_archives_hold_every_file_of_the_tree(made: dict[str, Any], tmp_path: Path) -> None:
    tree = miniature.SOURCES / "vllm-source"
    files = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    wanted = {name for name in files if "__pycache__" not in name}
    assert "requirements/build/cpu.txt" in wanted
    for words in made["sdists"].values():
        assert wanted <= names(tmp_path / miniature.SIMPLE / "vllm" / words["filename"])


def test_equal_sources_are_equal_bytes_and_commits(made: dict[str, Any], tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    assert miniature.make(again) == made


def test_only_one_of_the_versions_is_broken(made: dict[str, Any], tmp_path: Path) -> None:
    for version, broken in ((miniature.GOOD, False), (miniature.BROKEN, True)):
        shown = subprocess.run(
            ["git", "-c", "safe.directory=*", "show", f"v{version}:csrc/module.cpp"],
            cwd=tmp_path / miniature.REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert ("#error broken on purpose" in shown) == broken
    assert made["commits"][miniature.GOOD] != made["commits"][miniature.BROKEN]
