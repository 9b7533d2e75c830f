"""A model's contents on their way to a snapshot, each kept by its SHA-256 until all are there.

What one source has brought is there for the next one, also half a file: the bytes of a content are
the same wherever they come from.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import CHUNK, sha256_of

POINTER_START = b"version https://git-lfs"
POINTER_LIMIT = 1024  # bytes; the LFS specification's bound on a pointer
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (\d+)\n*"
)


class Content(NamedTuple):
    """What a file must be: its SHA-256, and its size in bytes."""

    sha256: str
    size: int


def parse_pointer(data: bytes, path: str) -> Content | None:
    """Return what the LFS pointer in a file's bytes stands for; None when the file is no pointer.

    Raises:
        HostError: it begins like a pointer and is none.
    """
    if not data.startswith(POINTER_START):
        return None
    match = POINTER.fullmatch(data) if len(data) <= POINTER_LIMIT else None
    if match is None:
        raise HostError(f"{path} is a damaged LFS pointer; the source is broken, use another one")
    return Content(match.group(1).decode(), int(match.group(2)))


def is_stub(path: Path) -> bool:
    """Tell whether a file on disk is an LFS pointer in the place of its content."""
    with path.open("rb") as stream:
        return stream.read(len(POINTER_START)) == POINTER_START


def require_path(name: str, where: str) -> str:
    """Return a file's path below the snapshot.

    Raises:
        HostError: it would leave the snapshot, or git would read it as its own.
    """
    parts = name.lower().split("/")
    if name.startswith("/") or {"", ".", "..", ".git"} & set(parts) or "\0" in name:
        raise HostError(f"{where} has a file named {name!r}, which is refused")
    return name


def blob_id(path: Path) -> str:
    """Return the name that git gives to a file's bytes: 40 hexadecimal digits."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Store:
    """The contents of one download, and what of them has begun.

    The layout of `objects` is git-lfs's own, which writes there by itself.
    """

    def __init__(self, root: Path) -> None:
        """Use the directory `root`; nothing is made yet."""
        self.root = root
        self._proved: set[str] = set()

    def path(self, sha256: str) -> Path:
        """Return where a content is kept."""
        return self.root / "objects" / sha256[:2] / sha256[2:4] / sha256

    def part(self, sha256: str) -> Path:
        """Return where the beginning of a content is kept."""
        return self.root / "parts" / sha256

    def place(self, sha256: str) -> Path:
        """Return where a content is kept, with the directories made."""
        path = self.path(sha256)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return path

    def lacks(self, content: Content) -> bool:
        """Tell whether a content is missing or has the wrong size."""
        path = self.path(content.sha256)
        return not path.is_file() or path.stat().st_size != content.size

    def missing(self, contents: dict[str, Content]) -> dict[str, Content]:
        """Return what is not here, each content once, by one of its files' paths."""
        once = {content: name for name, content in sorted(contents.items(), reverse=True)}
        return {name: content for content, name in once.items() if self.lacks(content)}

    def accept(self, file: Path, content: Content) -> str | None:
        """Take a file in that has the right bytes; else remove it and return what is wrong."""
        size, found = file.stat().st_size, sha256_of(file)
        if size != content.size or found != content.sha256:
            file.unlink()
            return (
                f"{size} bytes with sha256 {found} instead of {content.size} with {content.sha256}"
            )
        self.put(file, content)
        return None

    def put(self, file: Path, content: Content) -> None:
        """Take a file in of which it is known what it is."""
        file.replace(self.place(content.sha256))
        self._proved.add(content.sha256)

    def take(self, file: Path) -> Content:
        """Take a small file in whose bytes were proved otherwise, and return what it is."""
        content = Content(sha256_of(file), file.stat().st_size)
        self.put(file, content)
        return content

    def drop_bad(self, contents: dict[str, Content]) -> dict[str, str]:
        """Remove damaged contents, so that they are fetched again; return what is wrong by path."""
        wrong: dict[str, str] = {}
        for name, content in contents.items():
            path = self.path(content.sha256)
            if not path.is_file():
                wrong[name] = "it did not come"
            elif content.sha256 not in self._proved:
                size = path.stat().st_size
                if size != content.size:
                    wrong[name] = f"{size} bytes instead of {content.size}"
                elif (found := sha256_of(path)) != content.sha256:
                    wrong[name] = f"sha256 {found} instead of {content.sha256}"
                if name in wrong:
                    path.unlink()
                else:
                    self._own(path)
                    self._proved.add(content.sha256)
        return wrong

    @staticmethod
    def _own(path: Path) -> None:
        """Copy a content that git-lfs merely linked, as it does from a directory on the same disk.

        The snapshot's owners and modes would else be set on the source's own files, and a later
        change there would change the snapshot.
        """
        if path.stat().st_nlink > 1:
            copy = path.with_suffix(".copy")
            shutil.copyfile(path, copy)
            copy.replace(path)

    def reuse(self, snapshot: Path, contents: dict[str, Content]) -> None:
        """Take over the good files of a snapshot that lies at the final place and has a flaw."""
        for name, content in self.missing(contents).items():
            old = snapshot / name
            whole = old.is_file() and not old.is_symlink() and old.stat().st_size == content.size
            if whole and sha256_of(old) == content.sha256:
                self.path(content.sha256).unlink(missing_ok=True)
                os.link(old, self.place(content.sha256))
                self._proved.add(content.sha256)

    def keep(self, found: dict[str, list[Path]], contents: dict[str, Content]) -> None:
        """Keep the longest beginning of each content, for whichever source comes next.

        Args:
            found: what clients have left, by SHA-256.
            contents: what the beginnings are of.
        """
        for content in set(contents.values()):
            part = self.part(content.sha256)
            for file in found.get(content.sha256, []):
                size, had = size_or_none(file) or 0, size_or_none(part) or 0
                if size == content.size:
                    self.accept(file, content)
                elif had < size < content.size:
                    part.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                    file.replace(part)
                else:
                    file.unlink()

    def sizes(self, contents: dict[str, Content], begun: dict[str, list[Path]]) -> int:
        """Return how many bytes of some contents are on the disk, whole or begun."""
        total = 0
        for content in set(contents.values()):
            files = [self.path(content.sha256), self.part(content.sha256)]
            found = [size_or_none(f) or 0 for f in [*files, *begun.get(content.sha256, [])]]
            total += min(content.size, max(found))
        return total


def size_or_none(path: Path) -> int | None:
    """Return a file's size in bytes; None when it is not there (any more)."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def described(contents: dict[str, Content]) -> dict[str, dict[str, Any]]:
    """Return contents as a manifest has them."""
    return {
        name: {"size": content.size, "sha256": content.sha256}
        for name, content in sorted(contents.items())
    }
