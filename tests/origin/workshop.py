"""Where artefacts are made and kept: content keys, atomic publication, one builder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.origin.errors import OriginError

Progress = Callable[[str], None]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """How one artefact is made.

    Attributes:
        name: what progress lines and the manifest call it.
        publishes: paths below ``www`` that the recipe fills, each replaced as a whole.
        sources: files of this package whose change makes the artefact stale.
        make: fills the staging directory it is given, laid out as ``www``; returns the description.
        inputs: whatever else the artefact depends on (pins, the interpreter, other artefacts).
    """

    name: str
    publishes: tuple[str, ...]
    sources: tuple[str, ...]
    make: Callable[[Path], dict[str, Any]]
    inputs: tuple[str, ...] = field(default=())

    def key(self) -> str:
        """Returns the digest of everything that the artefact depends on."""
        digest = hashlib.sha256()
        for source in self.sources:
            for path in _files(HERE / source):
                digest.update(path.relative_to(HERE).as_posix().encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        digest.update(json.dumps([self.name, self.publishes, self.inputs]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Workshop:
    """The directories of one cache and the way to report progress.

    Attributes:
        cache: the origin's directory; ``www`` below it is what the machine serves.
        progress: called with one line of text per event.
    """

    cache: Path
    progress: Progress

    @property
    def www(self) -> Path:
        """What is published."""
        return self.cache / "www"

    @property
    def downloads(self) -> Path:
        """What pip has fetched; kept, so that nothing is downloaded twice."""
        return self.cache / "downloads"

    def keep(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the artefact's description, making the artefact when it is missing or stale.

        Raises:
            OriginError: from the recipe, or when it did not make what it said it would.
        """
        stamp = self.cache / "state" / f"{recipe.name}.json"
        key = recipe.key()
        known = _read_stamp(stamp)
        if known and known["key"] == key and self._intact(known["files"]):
            description: dict[str, Any] = known["description"]
            return description
        self.progress(f"origin: {recipe.name} is being made")
        begun = time.monotonic()
        with self._staging(recipe.name) as staging:
            stamp.unlink(missing_ok=True)
            description = recipe.make(staging)
            for path in recipe.publishes:
                self._publish(staging, path)
        files = self._sizes(recipe.publishes)
        write_json(stamp, {"key": key, "description": description, "files": files})
        self.progress(
            f"origin: {recipe.name} made in {time.monotonic() - begun:.1f} s, "
            f"{sum(files.values()) / 1e6:.1f} MB"
        )
        return description

    @contextlib.contextmanager
    def _staging(self, name: str) -> Iterator[Path]:
        """A directory on the cache's file system, removed at the end whatever happens.

        The lock sees to it that nobody else uses it. It starts empty.
        """
        staging = self.cache / f".staging-{name.replace(' ', '-')}"
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _publish(self, staging: Path, path: str) -> None:
        """Moves one finished path from staging into ``www``, world-readable."""
        made = staging / path
        if not made.exists():
            raise OriginError(f"{made} was not made: this is a fault of tests/origin")
        target = self.www / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _make_readable(made)
        if target.exists():
            aside = staging / ".replaced" / path
            aside.parent.mkdir(parents=True, exist_ok=True)
            target.rename(aside)
        made.rename(target)

    def _sizes(self, publishes: tuple[str, ...]) -> dict[str, int]:
        return {
            file.relative_to(self.www).as_posix(): file.stat().st_size
            for path in publishes
            for file in _files(self.www / path)
        }

    def _intact(self, files: dict[str, int]) -> bool:
        """Says whether every published file is there with its size; contents are not read again."""
        try:
            return all((self.www / path).stat().st_size == size for path, size in files.items())
        except OSError:
            return False


@contextlib.contextmanager
def locked(cache: Path, progress: Progress) -> Iterator[None]:
    """Lets one builder at a time into the cache; the others wait and say so."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("origin: waiting for another process that builds it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in cache.glob(".staging-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def write_json(path: Path, content: object) -> None:
    """Writes JSON in one step, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    fresh.chmod(0o644)
    fresh.replace(path)


def sha256(path: Path) -> str:
    """Returns a file's SHA-256 in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """Returns a file's name, size in bytes and SHA-256."""
    return {"filename": path.name, "size": path.stat().st_size, "sha256": sha256(path)}


def _files(path: Path) -> list[Path]:
    """Returns the files at or below a path, sorted, without Python's caches."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _make_readable(path: Path) -> None:
    """Lets every user read: the web server of the origin's machine is not root."""
    for item in (path, *path.rglob("*")):
        if not item.is_symlink():
            mode = item.stat().st_mode & 0o777
            os.chmod(item, mode | (0o755 if item.is_dir() else 0o444))  # noqa: PTH101  # follows nothing


def _read_stamp(path: Path) -> dict[str, Any] | None:
    try:
        stamp: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return stamp if {"key", "description", "files"} <= set(stamp) else None
