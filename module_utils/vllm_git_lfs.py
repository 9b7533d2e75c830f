"""One pinned commit of a git repository with LFS, fetched into a bare repository that resumes.

Nothing is checked out: the tree is listed and its blobs are written one by one. So no hook, no
filter, no line-end attribute and no link of the repository has a say in what comes to the disk.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_model_source import Order, Source
from ansible.module_utils.vllm_model_store import (
    POINTER_LIMIT,
    Content,
    Store,
    blob_id,
    parse_pointer,
    require_path,
)
from ansible.module_utils.vllm_process import Finished, run

LINK, SUBMODULE = "120000", "160000"
# The token is in the environment alone; git's own words name only the variable. Hugging Face takes
# any user's name beside a token, ModelScope this one.
HELPER = '!f() { test "$1" = get && echo username=oauth2 && echo "password=$VLLM_TOKEN"; }; f'


class Entry(NamedTuple):
    """A file of the commit: its mode, its blob, its path."""

    mode: str
    blob: str
    path: str


def credential_words(url: str) -> list[str]:
    """Return git's words for a token that goes to the source's own host and is stored nowhere."""
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}"
    # An empty helper takes away those of the machine, which might store what they are told.
    resets = ["-c", "credential.helper=", "-c", f"credential.{host}.helper="]
    return [*resets, "-c", f"credential.{host}.helper={HELPER}"]


class LfsRepository:
    """A bare repository that holds (parts of) one commit; its LFS objects are in the store."""

    def __init__(self, path: Path, revision: str, store: Store, order: Order) -> None:
        """Use the repository at `path`, or make it there."""
        self.path, self.revision, self.store, self.order = path, revision, store, order
        self.words: list[str] = []
        self.secrets: dict[str, str] = {}

    def authenticate(self, url: str, token: str) -> None:
        """Have git use a token for a source."""
        self.words, self.secrets = credential_words(url), {"VLLM_TOKEN": token}

    def git(self, *words: str) -> Finished:
        """Run git without prompts, hooks or smudging, and return how it ended."""
        argv = ["git", f"--git-dir={self.path}", "-c", "core.hooksPath=/dev/null"]
        argv += ["-c", "filter.lfs.smudge=", "-c", "filter.lfs.process="]
        argv += ["-c", "filter.lfs.required=false", "-c", "http.lowSpeedLimit=1000"]
        argv += ["-c", "http.lowSpeedTime=60", "-c", "gc.auto=0"]
        # By default eight times, a minute in all, before the next source has its turn.
        argv += ["-c", "lfs.transfer.maxretries=5", "-c", "lfs.transfer.maxretrydelay=5"]
        argv += ["-c", f"lfs.concurrenttransfers={self.order.parallel}", *self.words, *words]
        env = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
            **self.secrets,
        }
        result: Finished = run(
            argv, timeout=self.order.timeout, env=env, pass_fds=[self.order.lock]
        )
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
        """Make the repository, or take up what an interruption left, and point it at a source.

        A broken one is made anew; the LFS objects are kept elsewhere.
        """
        for lock in self.path.glob("*.lock"):
            lock.unlink()
        try:
            self._open(url)
        except HostError:
            self.forget()
            self._open(url)

    def _open(self, url: str) -> None:
        self.require("the download's repository cannot be made", "init", "--quiet", "--bare")
        self.require("the source cannot be set", "config", "remote.origin.url", url)
        # Not by lfs.storage: git-lfs looks there for a source's objects too, if that is a path.
        self.store.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        link = self.path / "lfs"
        if not link.is_symlink():
            shutil.rmtree(link, ignore_errors=True)
            link.symlink_to(self.store.root)

    def forget(self) -> None:
        """Remove what git keeps for itself."""
        shutil.rmtree(self.path, ignore_errors=True)

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
            found.append(Entry(mode, blob, require_path(path, "the repository")))
        return found

    def write_blob(self, entry: Entry, target: Path) -> None:
        """Write a blob's bytes into a file, checked against its name.

        Raises:
            HostError: git cannot read it, or the bytes are others; what git has is removed then, so
                that the next try fetches anew.
        """
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        argv = ["git", f"--git-dir={self.path}", "cat-file", "blob", entry.blob]
        with target.open("wb") as stream:
            subprocess.run(argv, stdout=stream, stderr=subprocess.DEVNULL, check=False)
        if blob_id(target) != entry.blob:
            self.forget()
            raise HostError(f"{entry.path} has other bytes than the commit says; fetch anew")


class GitLfsSource(Source):  # type: ignore[misc]
    """A git repository with LFS: the commit proves all files, its pointers the large ones."""

    proof = "git"

    def __init__(self, said: dict[str, Any], order: Order, store: Store, token: str | None) -> None:
        """Use the repository at the source's URL."""
        super().__init__(said, order, store, token)
        place = order.partial / "repository.git"
        self.repository = LfsRepository(place, self.revision, store, order)
        if token:
            self.repository.authenticate(self.url, token)
        self.pointers: dict[str, Content] = {}
        self.everything = False

    def contents(self) -> dict[str, Content]:
        """Fetch the pinned commit with git, and return what its files and pointers say."""
        self.repository.open(self.url)
        self.repository.fetch_commit()
        entries = self.repository.entries()
        chosen = self._chosen(entries)
        self.everything = len(chosen) == len(entries)
        found: dict[str, Content] = {}
        links: dict[str, str] = {}
        scratch = self.order.partial / "blob"
        for entry in chosen:
            self.repository.write_blob(entry, scratch)
            if entry.mode == LINK:
                links[entry.path] = scratch.read_text("utf-8", errors="replace")
                continue
            with scratch.open("rb") as stream:
                pointer = parse_pointer(stream.read(POINTER_LIMIT + 1), entry.path)
            if pointer:
                self.pointers[entry.path] = pointer
            found[entry.path] = pointer or self.store.take(scratch)
        files = dict(found)
        for name, text in links.items():
            found[name] = files[self._target(name, text, files)]
        return found

    def _chosen(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries wanted.

        Raises:
            HostError: one is a submodule.
        """
        chosen = [entry for entry in entries if self.order.wants(entry.path)]
        modules = [entry.path for entry in chosen if entry.mode == SUBMODULE]
        if modules:
            raise HostError(f"submodules are not followed: {modules}; leave them out by `include`")
        return chosen

    @staticmethod
    def _target(name: str, text: str, files: dict[str, Content]) -> str:
        """Return the file that a link of the repository names.

        Raises:
            HostError: it leads outside, or to no regular file of the snapshot.
        """
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), text))
        if text.startswith("/") or target.startswith(".."):
            raise HostError(f"{name} is a link that leads outside of the snapshot, to {text!r}")
        if target not in files:
            raise HostError(f"{name} is a link to {text!r}, which is no file of the snapshot")
        return target

    def fetch(self, missing: dict[str, Content]) -> str:
        """Fetch the large files with git-lfs."""
        ended = self.repository.git("lfs", "fetch", *self._includes(missing), "origin")
        return f"git lfs said:\n{ended.tail(10)}" if ended.status else ""

    def _includes(self, missing: dict[str, Content]) -> list[str]:
        """Return git-lfs's words for these files alone; none where a name would be a pattern."""
        all_of_them = self.everything and len(missing) == len(self.pointers)
        if all_of_them or any(set(name) & set(",*?[]\\!") for name in missing):
            return []
        return ["--include", ",".join(f"/{name}" for name in missing)]

    def begun(self, contents: dict[str, Content]) -> dict[str, list[Path]]:
        """Return what git-lfs has begun; while it writes, the name has a suffix of chance."""
        place = self.store.root / "incomplete"
        return {c.sha256: list(place.glob(f"{c.sha256}*")) for c in set(contents.values())}

    def seed(self, contents: dict[str, Content]) -> None:
        """Put what has begun where git-lfs looks for it."""
        place = self.store.root / "incomplete"
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        for content in set(contents.values()):
            part = self.store.part(content.sha256)
            if part.is_file():
                part.replace(place / f"{content.sha256}.part")

    def passing(self, missing: dict[str, Content]) -> int:
        """Count git-lfs's second copy, which it makes of what lies on the same machine."""
        return sum(content.size for content in missing.values())
