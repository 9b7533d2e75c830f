#!/usr/bin/python
"""A model's files at a pinned revision, every byte proved."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: model_snapshot
short_description: Have a verified snapshot of a model at a pinned commit
description:
  - Fetches one commit of a git repository with LFS, or its files from a plain HTTP server, into
    C(<parent>/.<revision>.partial), proves the size and SHA-256 of every file, and renames the
    result to its final name. What was proved is written beside it, as C(<path>.json).
  - An interrupted download is taken up where it broke off, from whichever source comes next.
  - Each content is linked from git-lfs's store and not copied, so that a model needs its size on
    the disk once.
  - LFS pointers in the place of files, short files, flipped bits, missing objects, and links that
    lead outside are refused.
options:
  name:
    description: Name of the model, for messages.
    type: str
    required: true
  revision:
    description: The commit, 40 hexadecimal digits.
    type: str
    required: true
  path:
    description: Directory of the snapshot.
    type: path
    required: true
  sources:
    description: Where the model can be had, tried in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      kind:
        description:
          - How the source is read. C(git-lfs) is a git repository; C(files) is a plain HTTP server
            such as the site's mirror, with the files below O(sources[].url) and the manifest of a
            snapshot at the same address with C(.json) in the place of the last slash.
        type: str
        choices: [files, git-lfs]
        default: git-lfs
      url:
        description: URL of the repository or of the files, without a password.
        type: str
        required: true
      revision:
        description:
          - The commit at this source that has the same files, where it differs from O(revision).
            Hubs that copy each other do not copy history.
        type: str
        default: null
  include:
    description: Shell patterns of the files wanted, for the path or the last part of it.
    type: list
    elements: str
    required: false
    default: ['*']
  files:
    description:
      - What the files must be, by path, each with C(size) (bytes) and C(sha256).
      - Files that are not listed are proved by the commit alone.
    type: dict
    required: false
    default: {}
  verify:
    description:
      - How a snapshot that is there is proved.
      - C(sizes) looks at each file's size, C(full) reads all bytes.
    type: str
    choices: [sizes, full]
    required: false
    default: sizes
  parallel:
    description: Number of files that are fetched at the same time.
    type: int
    required: false
    default: 4
  timeout:
    description: Seconds that one git command, or one file of a plain server, may take.
    type: int
    required: false
    default: 14400
attributes:
  check_mode:
    support: full
    description: Says whether the snapshot would be fetched; asks no source.
  diff_mode:
    support: full
    description: Shows the snapshot's state before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The snapshot is here and proved
  model_snapshot:
    name: smollm2-135m
    revision: 12fd25f77366fa6b3b4b768ec3050bf629380bac
    path: /srv/models/smollm2-135m/12fd25f77366fa6b3b4b768ec3050bf629380bac
    sources:
      - kind: git-lfs
        url: https://www.modelscope.cn/HuggingFaceTB/SmolLM2-135M-Instruct.git
    include: ["*.json", "*.safetensors", "*.txt"]

- name: The snapshot comes from the site's mirror
  model_snapshot:
    name: smollm2-135m
    revision: 12fd25f77366fa6b3b4b768ec3050bf629380bac
    path: /srv/models/smollm2-135m/12fd25f77366fa6b3b4b768ec3050bf629380bac
    sources:
      - kind: files
        url: http://10.0.0.5:8080/models/smollm2-135m/12fd25f77366fa6b3b4b768ec3050bf629380bac/
"""

RETURN = r"""
path:
  description: Directory of the snapshot.
  returned: success
  type: str
files:
  description: The snapshot's files by path, each with size (bytes) and sha256.
  returned: success
  type: dict
bytes:
  description: Size of all files in bytes.
  returned: success
  type: int
source:
  description: URL it was fetched from, now or earlier; null in check mode when it is not there.
  returned: success
  type: str
reason:
  description: Why it was (or would be) fetched; null when it was there and whole.
  returned: success
  type: str
attempts:
  description: Sources that were tried and did not serve, each with url and error.
  returned: always
  type: list
  elements: dict
"""

import fcntl
import fnmatch
import os
import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import (
    as_json,
    read_json_object,
    require_free,
    sha256_of,
    sync_directory,
    write_atomic,
)
from ansible.module_utils.vllm_files_source import FilesSource
from ansible.module_utils.vllm_git_lfs import (
    LINK,
    POINTER_LIMIT,
    SUBMODULE,
    LfsRepository,
    Pointer,
    is_stub,
    parse_pointer,
)
from ansible.module_utils.vllm_urls import refuse_credentials

MARGIN = 64 << 20  # bytes left free besides the model's
MANIFEST_FORMAT = 1


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a snapshot is kept."""
    return path.with_name(f"{path.name}.json")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a snapshot's manifest; None when it is missing or damaged."""
    try:
        content: dict[str, Any] | None = read_json_object(manifest_path(path))
    except (ValueError, OSError):
        return None
    if content is None or content.get("format") != MANIFEST_FORMAT or "revision" not in content:
        return None
    return content if isinstance(content.get("files"), dict) else None


def present_files(path: Path) -> set[str]:
    """Return the paths of all files and links below a directory."""
    found: set[str] = set()
    for parent, directories, names in os.walk(path):
        links = [name for name in directories if (Path(parent) / name).is_symlink()]
        found |= {str((Path(parent) / name).relative_to(path)) for name in [*names, *links]}
    return found


def file_flaw(path: Path, wanted: dict[str, Any], *, full: bool) -> str | None:
    """Return what is wrong with one file; None when it is as wanted."""
    if path.is_symlink() or not path.is_file():
        return "it is no regular file"
    size = path.stat().st_size
    if size != wanted["size"]:
        kind = "an LFS pointer" if is_stub(path) else f"{size} bytes"
        return f"{kind} instead of {wanted['size']} bytes"
    if full and (found := sha256_of(path)) != wanted["sha256"]:
        return f"sha256 {found} instead of {wanted['sha256']}"
    return None


def flaw(params: dict[str, Any], path: Path) -> str | None:
    """Return why a snapshot must be fetched; None when it is there and whole."""
    if not path.is_dir():
        return "it is not there"
    manifest = read_manifest(path)
    if manifest is None:
        return "its manifest is missing or damaged"
    if manifest["revision"] != params["revision"]:
        return f"it is revision {manifest['revision']}"
    if manifest.get("include") != params["include"]:
        return f"it was made with include {manifest.get('include')}"
    return files_flaw(params, path, manifest["files"])


def files_flaw(params: dict[str, Any], path: Path, files: dict[str, dict[str, Any]]) -> str | None:
    """Return how the files differ from their manifest; None when they do not."""
    differing = set(files) ^ present_files(path)
    if differing:
        return f"missing or unexpected files: {', '.join(sorted(differing)[:5])}"
    for name, wanted in files.items():
        wrong = file_flaw(path / name, wanted, full=params["verify"] == "full")
        wrong = wrong or disagreement(params["files"], name, wanted)
        if wrong:
            return f"{name}: {wrong}"
    return None


def disagreement(given: dict[str, Any], name: str, found: dict[str, Any]) -> str | None:
    """Return how a file differs from the given manifest; None when it does not."""
    for key in ("size", "sha256"):
        wanted = given.get(name, {}).get(key)
        if wanted is not None and str(wanted) != str(found[key]):
            return f"{key} {found[key]}, and the given manifest says {wanted}"
    return None


def is_wanted(name: str, patterns: list[str]) -> bool:
    """Tell whether a pattern chooses a file, by its path or the last part of it."""
    texts = (name, posixpath.basename(name))
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in texts)


def require_wanted(params: dict[str, Any], names: set[str]) -> None:
    """Refuse a choice of files that cannot be meant.

    Raises:
        HostError: nothing is chosen, or the given manifest names more than is chosen.
    """
    if not names:
        raise HostError(f"no file of the commit matches {params['include']}; correct `include`")
    missing = sorted(set(params["files"]) - names)
    if missing:
        raise HostError(f"the commit lacks files of the given manifest: {', '.join(missing)}")


def wanted_entries(entries: list[Any], patterns: list[str]) -> list[Any]:
    """Return the entries that the patterns choose.

    Raises:
        HostError: one is a submodule.
    """
    chosen = [entry for entry in entries if is_wanted(entry.path, patterns)]
    modules = [entry.path for entry in chosen if entry.mode == SUBMODULE]
    if modules:
        raise HostError(f"submodules are not followed: {modules}; leave them out by `include`")
    return chosen


class Download:
    """The fetching of one snapshot into its partial directory."""

    def __init__(self, params: dict[str, Any], path: Path) -> None:
        """Prepare a download; nothing is made yet."""
        self.params, self.path = params, path
        self.partial = path.with_name(f".{path.name}.partial")
        self.tree = self.partial / "files"
        self.repository = LfsRepository(
            self.partial / "repository.git",
            params["revision"],
            params["timeout"],
            params["parallel"],
        )

    def lock(self) -> int:
        """Make the partial directory and hold it alone; return the open handle.

        Raises:
            HostError: another run holds it.
        """
        self.partial.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle = os.open(self.partial, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise HostError(f"another run is fetching {self.path}; wait for it to end") from error
        return handle

    def fetch(self) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Fetch from the first source that serves; return it and its files, and who failed.

        Raises:
            HostError: no source serves; the message has a line for each.
        """
        attempts: list[dict[str, str]] = []
        for source in self.params["sources"]:
            try:
                files = self.fetch_from(source)
            except HostError as error:
                if "needed_bytes" in error.details:  # no other source makes the disk larger
                    raise
                attempts.append({"url": source["url"], "error": error.message})
            else:
                return {"source": source["url"], "files": files}, attempts
        lines = "\n".join(f"  {attempt['url']}: {attempt['error']}" for attempt in attempts)
        raise HostError(
            f"model {self.params['name']} at {self.params['revision'][:12]} could not be had from"
            f" any of {len(attempts)} sources:\n{lines}\nWhat was fetched stays in {self.partial};"
            " run again to go on, or add a source that works.",
            attempts=attempts,
        )

    def fetch_from(self, source: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Have all files, proved, in the partial tree, and return their sizes and checksums.

        Raises:
            HostError: the source cannot be read, or what it has is not what was asked for.
        """
        if source["kind"] == "files":
            return self.fetch_files(source["url"])
        self.repository.revision = source["revision"] or self.params["revision"]
        return self.fetch_commit(source["url"])

    def fetch_files(self, url: str) -> dict[str, dict[str, Any]]:
        """Fetch from a plain server; the contents are kept where git-lfs keeps them."""
        server = FilesSource(
            url, self.partial / "parts", self.params["timeout"], self.params["parallel"]
        )
        wanted = {
            n: s for n, s in server.manifest().items() if is_wanted(n, self.params["include"])
        }
        require_wanted(self.params, set(wanted))
        for name, said in wanted.items():
            wrong = disagreement(self.params["files"], name, said)
            if wrong:
                raise HostError(f"{name}: {wrong}; nothing was downloaded")
        contents = {name: Pointer(said["sha256"], said["size"]) for name, said in wanted.items()}
        self.empty_tree()
        self.make_room(contents)
        # What an earlier try left is proved before it is taken to be right.
        self.repository.drop_bad(contents)
        server.fetch(wanted, self.repository.object_path)
        self.place(contents)
        return self.describe({name: content.oid for name, content in contents.items()})

    def fetch_commit(self, url: str) -> dict[str, dict[str, Any]]:
        """Fetch the pinned commit with git, and its large files with git-lfs."""
        self.open(url)
        self.repository.fetch_commit()
        entries = self.repository.entries()
        chosen = wanted_entries(entries, self.params["include"])
        require_wanted(self.params, {entry.path for entry in chosen})
        self.empty_tree()
        links = [entry for entry in chosen if entry.mode == LINK]
        self.write_blobs(chosen)
        targets = {entry.path: self.link_target(entry.path, chosen) for entry in links}
        pointers = self.pointers()
        self.make_room(pointers)
        self.repository.fetch_objects(pointers, everything=len(chosen) == len(entries))
        self.place(pointers)
        for name, target in targets.items():
            (self.tree / name).unlink()
            os.link(self.tree / target, self.tree / name)
        return self.describe({name: pointer.oid for name, pointer in pointers.items()})

    def empty_tree(self) -> None:
        """Begin the partial tree anew; the contents are kept elsewhere."""
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(mode=0o755)

    def open(self, url: str) -> None:
        """Open the repository; a broken one is made anew, with its LFS objects kept."""
        try:
            self.repository.open(url)
        except HostError:
            self.forget()
            self.repository.open(url)

    def forget(self) -> None:
        """Remove what git keeps for itself; the LFS objects are proved one by one and stay."""
        for entry in self.repository.path.iterdir():
            if entry.name != "lfs":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def write_blobs(self, chosen: list[Any]) -> None:
        """Write all blobs into the partial tree.

        Raises:
            HostError: git's store is damaged; it is removed, so that the next try fetches anew.
        """
        try:
            for entry in chosen:
                self.repository.write_blob(entry, self.tree / entry.path)
        except HostError:
            self.forget()
            raise

    def link_target(self, name: str, chosen: list[Any]) -> str:
        """Return the file that a link of the repository names.

        Raises:
            HostError: it leads outside, or to no regular file of the snapshot.
        """
        text = (self.tree / name).read_text("utf-8", errors="replace")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), text))
        if text.startswith("/") or target.startswith(".."):
            raise HostError(f"{name} is a link that leads outside of the snapshot, to {text!r}")
        if target not in {entry.path for entry in chosen if entry.mode != LINK}:
            raise HostError(f"{name} is a link to {text!r}, which is no file of the snapshot")
        return target

    def pointers(self) -> dict[str, Any]:
        """Return the LFS pointers among the files written.

        Raises:
            HostError: a pointer is damaged, or is not what the given manifest says.
        """
        found: dict[str, Any] = {}
        for name in sorted(present_files(self.tree)):
            with (self.tree / name).open("rb") as stream:
                pointer = parse_pointer(stream.read(POINTER_LIMIT + 1), name)
            if pointer is None:
                continue
            told = {"size": pointer.size, "sha256": pointer.oid}
            wrong = disagreement(self.params["files"], name, told)
            if wrong:
                raise HostError(f"{name}: {wrong}; nothing was downloaded")
            found[name] = pointer
        return found

    def make_room(self, contents: dict[str, Any]) -> None:
        """Take over what is here already, and refuse what cannot fit.

        Raises:
            HostError: too little disk for the rest.
        """
        self.reuse(contents)
        sizes = {c.oid: c.size for c in contents.values() if self.repository.lacks(c)}
        require_free(self.partial, sum(sizes.values()) + MARGIN, f"model {self.params['name']}")

    def place(self, contents: dict[str, Any]) -> None:
        """Link the contents into the tree, in the place of their pointers where there are any."""
        for name, content in contents.items():
            target = self.tree / name
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(self.repository.object_path(content.oid), target)

    def reuse(self, pointers: dict[str, Any]) -> None:
        """Take over the good contents of a snapshot that lies at the final place and has a flaw."""
        for name, pointer in pointers.items():
            old, store = self.path / name, self.repository.object_path(pointer.oid)
            whole = old.is_file() and not old.is_symlink() and old.stat().st_size == pointer.size
            if whole and not store.exists() and sha256_of(old) == pointer.oid:
                store.parent.mkdir(parents=True, exist_ok=True)
                os.link(old, store)

    def describe(self, proved: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Return size and SHA-256 of all files, which are now as the service will read them.

        Args:
            proved: checksums that were just taken of these very inodes, by path.

        Raises:
            HostError: a pointer is left, or a file is not what the given manifest says.
        """
        found: dict[str, dict[str, Any]] = {}
        for name in sorted(present_files(self.tree)):
            path = self.tree / name
            checksum = proved.get(name) or sha256_of(path)
            found[name] = {"size": path.stat().st_size, "sha256": checksum}
            if is_stub(path):
                raise HostError(f"{name} is an LFS pointer and not the file; fetch anew")
            wrong = disagreement(self.params["files"], name, found[name])
            if wrong:
                raise HostError(f"{name}: {wrong}")
        return found

    def settle(self) -> None:
        """Set owners and modes, and flush all bytes to the disk."""
        for parent, directories, names in os.walk(self.tree):
            for name in [*directories, *names, "."]:
                path = Path(parent) / name
                path.chmod(0o755 if path.is_dir() else 0o644)
                if os.geteuid() == 0:
                    os.chown(path, 0, 0)
                handle = os.open(path, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Give the snapshot its name, its manifest beside it, and remove the rest."""
        self.settle()
        write_atomic(manifest_path(self.path), as_json(manifest).encode(), 0o644)
        if self.path.exists():
            self.path.replace(self.partial / "flawed")
        self.tree.replace(self.path)
        sync_directory(self.path.parent)
        shutil.rmtree(self.partial)


def fetch(params: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Fetch, prove and place the snapshot; return its manifest and the sources that failed.

    Raises:
        HostError: no source has it whole, or the disk is too small.
    """
    download = Download(params, path)
    handle = download.lock()
    try:
        fetched, attempts = download.fetch()
        manifest = {
            "format": MANIFEST_FORMAT,
            "name": params["name"],
            "revision": params["revision"],
            "include": params["include"],
            **fetched,
        }
        download.finish(manifest)
    finally:
        os.close(handle)
    return manifest, attempts


def require_params(params: dict[str, Any], path: Path) -> None:
    """Refuse what cannot be meant.

    Raises:
        HostError: naming the option.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", params["revision"]):
        raise HostError(
            f"revision: {params['revision']!r} is no commit of 40 hexadecimal digits; a branch or"
            " tag can move, so pin the commit"
        )
    if not params["sources"]:
        raise HostError("sources: the list is empty; name at least one source")
    refuse_credentials([source["url"] for source in params["sources"]], "sources")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise HostError(f"{path} is there and is no directory; move it away by hand")


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the snapshot to its state and return the result."""
    params, path = module.params, Path(module.params["path"])
    require_params(params, path)
    reason = flaw(params, path)
    manifest: dict[str, Any] = {"files": {}, "source": None}
    attempts: list[dict[str, str]] = []
    if reason is None:
        manifest = read_manifest(path) or manifest
    elif not module.check_mode:
        manifest, attempts = fetch(params, path)
    for attempt in attempts:
        module.warn(f"model {params['name']}: {attempt['url']} was left: {attempt['error']}")
    size = sum(entry["size"] for entry in manifest["files"].values())
    after = f"{path}: revision {params['revision']}, proved\n"
    return {
        "changed": reason is not None,
        "diff": {"before": after if reason is None else f"{path}: {reason}\n", "after": after},
        "path": str(path),
        "files": manifest["files"],
        "bytes": size,
        "source": manifest["source"],
        "reason": reason,
        "attempts": attempts,
    }


def main() -> None:
    """Run as an Ansible module."""
    source = {
        "kind": {"type": "str", "choices": ["files", "git-lfs"], "default": "git-lfs"},
        "url": {"type": "str", "required": True},
        "revision": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "revision": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "sources": {"type": "list", "elements": "dict", "required": True, "options": source},
            "include": {"type": "list", "elements": "str", "default": ["*"]},
            "files": {"type": "dict", "default": {}},
            "verify": {"type": "str", "choices": ["sizes", "full"], "default": "sizes"},
            "parallel": {"type": "int", "default": 4},
            "timeout": {"type": "int", "default": 14400},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    conclude(module, ensure, f"{module.params['path']} could not be made")


if __name__ == "__main__":
    main()
