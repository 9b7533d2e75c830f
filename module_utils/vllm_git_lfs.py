"""One pinned commit of a git repository with LFS, fetched into a bare repository that resumes.

Nothing is checked out: the tree is listed and its blobs are written one by one. So no hook, no
filter, no line-end attribute and no link of the repository has a say in what comes to the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import sha256_of
from ansible.module_utils.vllm_process import Finished, run

POINTER_START = b"version https://git-lfs"
POINTER_LIMIT = 1024  # bytes; the LFS specification's bound on a pointer
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (\d+)\n*"
)
LINK, SUBMODULE = "120000", "160000"


class Entry(NamedTuple):
    """A file of the commit: its mode, its blob, its path."""

    mode: str
    blob: str
    path: str


class Pointer(NamedTuple):
    """What an LFS pointer says: the content's SHA-256, and its size in bytes."""

    oid: str
    size: int


def parse_pointer(data: bytes, path: str) -> Pointer | None:
    """Return the pointer in a file's bytes; None when the file is no pointer.

    Raises:
        HostError: it begins like a pointer and is none.
    """
    if not data.startswith(POINTER_START):
        return None
    match = POINTER.fullmatch(data) if len(data) <= POINTER_LIMIT else None
    if match is None:
        raise HostError(f"{path} is a damaged LFS pointer; the source is broken, use another one")
    return Pointer(match.group(1).decode(), int(match.group(2)))


def is_stub(path: Path) -> bool:
    """Tell whether a file on disk is an LFS pointer in the place of its content."""
    with path.open("rb") as stream:
        return stream.read(len(POINTER_START)) == POINTER_START


class LfsRepository:
    """A bare repository that holds (parts of) one commit and its LFS objects."""

    def __init__(self, path: Path, revision: str, timeout: float, parallel: int) -> None:
        """Use the repository at `path`; `timeout` is seconds per command."""
        self.path, self.revision = path, revision
        self.timeout, self.parallel = timeout, parallel

    def git(self, *words: str) -> Finished:
        """Run git without prompts, hooks or smudging, and return how it ended."""
        argv = ["git", f"--git-dir={self.path}", "-c", "core.hooksPath=/dev/null"]
        argv += ["-c", "filter.lfs.smudge=", "-c", "filter.lfs.process="]
        argv += ["-c", "filter.lfs.required=false", "-c", "http.lowSpeedLimit=1000"]
        argv += ["-c", "http.lowSpeedTime=60", "-c", "gc.auto=0"]
        argv += ["-c", f"lfs.concurrenttransfers={self.parallel}", *words]
        env = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        }
        result: Finished = run(argv, timeout=self.timeout, env=env)
        return result

    def require(self, purpose: str, *words: str) -> str:
        """Run git and return its output.

        Raises:
            HostError: it failed; with its last lines.
        """
        result = self.git(*words)
        if result.status != 0:
            raise HostError(f"{purpose}: {result.tail(15) or f'status {result.status}'}")
        return str(result.output)

    def open(self, url: str) -> None:
        """Make the repository, or take up what an interruption left, and point it at a source."""
        for lock in self.path.glob("*.lock"):
            lock.unlink()
        self.require("the download's repository cannot be made", "init", "--quiet", "--bare")
        self.require("the source cannot be set", "config", "remote.origin.url", url)

    def has_commit(self) -> bool:
        """Tell whether the pinned commit is here with all of its trees."""
        status: int = self.git("cat-file", "-e", f"{self.revision}^{{tree}}").status
        return status == 0

    def fetch_commit(self) -> None:
        """Fetch the pinned commit, alone where the server allows it.

        Raises:
            HostError: the source cannot be read, or has no such commit.
        """
        if not self.has_commit():
            alone = self.git("fetch", "--quiet", "--depth", "1", "origin", self.revision)
            if alone.status != 0:
                refs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
                self.require("git cannot fetch", "fetch", "--quiet", "origin", *refs)
        found = self.git("rev-parse", "--verify", "--quiet", f"{self.revision}^{{commit}}")
        if found.output.strip() != self.revision:
            raise HostError(f"the source has no commit {self.revision}; is the revision right?")
        self.require("HEAD cannot be set", "update-ref", "--no-deref", "HEAD", self.revision)

    def entries(self) -> list[Entry]:
        """Return the commit's files.

        Raises:
            HostError: a path would leave the directory.
        """
        text = self.require("the tree cannot be read", "ls-tree", "-r", "-z", self.revision)
        found: list[Entry] = []
        for line in filter(None, text.split("\0")):
            words, _, path = line.partition("\t")
            mode, _, blob = words.split(" ")
            if path.startswith("/") or {"", ".", "..", ".git"} & set(path.lower().split("/")):
                raise HostError(f"the repository has a file named {path!r}, which is refused")
            found.append(Entry(mode, blob, path))
        return found

    def write_blob(self, entry: Entry, target: Path) -> None:
        """Write a blob's bytes into a file, checked against its name.

        Raises:
            HostError: git cannot read it, or the bytes are others.
        """
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        argv = ["git", f"--git-dir={self.path}", "cat-file", "blob", entry.blob]
        with target.open("wb") as stream:
            subprocess.run(argv, stdout=stream, stderr=subprocess.DEVNULL, check=False)
        digest = hashlib.sha1(b"blob %d\0" % target.stat().st_size, usedforsecurity=False)
        with target.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != entry.blob:
            raise HostError(f"{entry.path} has other bytes than the commit says; fetch anew")

    def object_path(self, oid: str) -> Path:
        """Return where git-lfs keeps a content."""
        return self.path / "lfs/objects" / oid[:2] / oid[2:4] / oid

    def lacks(self, pointer: Pointer) -> bool:
        """Tell whether a content is missing or has the wrong size."""
        path = self.object_path(pointer.oid)
        return not path.is_file() or path.stat().st_size != pointer.size

    def own(self, oids: set[str]) -> None:
        """Copy contents that git-lfs merely linked, as it does from a directory on the same disk.

        The snapshot's owners and modes would else be set on the source's own files, and a later
        change there would change the snapshot.
        """
        for path in map(self.object_path, oids):
            if path.is_file() and path.stat().st_nlink > 1:
                copy = path.with_suffix(".copy")
                shutil.copyfile(path, copy)
                copy.replace(path)

    def drop_bad(self, pointers: dict[str, Pointer]) -> dict[str, str]:
        """Remove damaged contents, so that they are fetched again; return what is wrong by path."""
        wrong: dict[str, str] = {}
        for name, pointer in pointers.items():
            path = self.object_path(pointer.oid)
            if not path.is_file():
                wrong[name] = "the LFS object is missing at the source"
                continue
            size = path.stat().st_size
            if size != pointer.size:
                wrong[name] = f"{size} bytes instead of {pointer.size}"
            elif (found := sha256_of(path)) != pointer.oid:
                wrong[name] = f"sha256 {found} instead of {pointer.oid}"
            if name in wrong:
                path.unlink()
        return wrong

    def fetch_objects(self, pointers: dict[str, Pointer], *, everything: bool) -> None:
        """Fetch the contents, prove each, and give each damaged one a second chance.

        Args:
            pointers: the contents wanted, by path.
            everything: whether these are all of the commit's.

        Raises:
            HostError: naming every file whose content is missing or damaged.
        """
        wrong: dict[str, str] = {}
        failure = Finished(0, "", "")
        for _ in range(2):
            missing = {pointer.oid for pointer in pointers.values() if self.lacks(pointer)}
            if missing:
                failure = self.git("lfs", "fetch", *self.includes(pointers, everything), "origin")
                self.own(missing)
            wrong = self.drop_bad(pointers)
            if not wrong:
                break
        if wrong:
            lines = "\n".join(f"  {name}: {reason}" for name, reason in sorted(wrong.items()))
            said = f"\ngit lfs said:\n{failure.tail(10)}" if failure.status else ""
            raise HostError(
                f"{len(wrong)} files could not be had whole:\n{lines}{said}", files=wrong
            )
        if everything and pointers:
            self.require("git lfs fsck finds fault", "lfs", "fsck", "--objects", "HEAD")

    @staticmethod
    def includes(pointers: dict[str, Pointer], everything: bool) -> list[str]:
        """Return git-lfs's words for these files alone; none where a name would be a pattern."""
        if everything or any(set(name) & set(",*?[]\\!") for name in pointers):
            return []
        return ["--include", ",".join(f"/{name}" for name in pointers)]
