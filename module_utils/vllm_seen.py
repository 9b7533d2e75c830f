"""How a snapshot's files looked when they were proved, so that they need not be read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.vllm_files import read_json_object, sha256_of


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a snapshot is kept."""
    return path.with_name(f"{path.name}.json")


def manifest_of(path: Path) -> dict[str, Any]:
    """Return a snapshot's manifest; an empty one where it is missing or damaged."""
    try:
        content = read_json_object(manifest_path(path)) or {}
    except (ValueError, OSError):
        content = {}
    return content if isinstance(content.get("files"), dict) else {}


def present_files(path: Path) -> set[str]:
    """Return the paths of all files and links below a directory."""
    found: set[str] = set()
    for parent, directories, names in os.walk(path):
        links = [name for name in directories if (Path(parent) / name).is_symlink()]
        found |= {str((Path(parent) / name).relative_to(path)) for name in [*names, *links]}
    return found


def look(path: Path) -> dict[str, int]:
    """Return by what a changed file is known without reading it; times in nanoseconds."""
    status = path.lstat()
    return {
        "inode": status.st_ino,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def looks(path: Path, files: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return how the files of a snapshot look, by path."""
    return {name: look(path / name) for name in files if (path / name).is_file()}


def changed_since(path: Path, manifest: dict[str, Any], *, full: bool = False) -> list[str]:
    """Return the files that do not look as they did when they were proved, or all of them."""
    seen: dict[str, Any] = manifest.get("seen") or {}
    return [
        name
        for name in manifest["files"]
        if (path / name).is_file() and (full or look(path / name) != seen.get(name))
    ]


def altered(path: Path, manifest: dict[str, Any], names: list[str]) -> dict[str, str]:
    """Return the checksums of those files that have other bytes than the manifest says."""
    sums = {name: sha256_of(path / name) for name in names}
    return {n: found for n, found in sums.items() if found != manifest["files"][n]["sha256"]}
