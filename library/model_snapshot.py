#!/usr/bin/python
"""A model's files at a pinned revision, every byte proved."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: model_snapshot
short_description: Have a verified snapshot of a model at a pinned commit
description:
  - Fetches a model's files from the first source that has them into
    C(<parent>/.<revision>.partial), proves the size and SHA-256 of every file, and renames the
    result to its final name. What was proved, and by what, is written beside it, as C(<path>.json).
  - An interrupted download is taken up where it broke off, from whichever source comes next;
    contents are kept by their SHA-256, halves of them too.
  - Each content is linked into the snapshot and not copied, so that a model needs its size on the
    disk once.
  - LFS pointers in the place of files, short files, flipped bits, missing objects, shards that an
    index names and nobody has, and links that lead outside are refused.
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
          - How the source is read.
          - C(git-lfs) is a git repository. The commit proves its files, and the LFS pointers in it
            the large ones.
          - C(files) is a plain HTTP server such as the site's mirror, with the files below
            O(sources[].url) and the manifest of a snapshot at the same address with C(.json) in the
            place of the last slash.
          - C(huggingface) and C(modelscope) are those hubs, or mirrors with the same interface,
            asked by their own clients in O(clients). The address ends in C(OWNER/NAME); what stands
            before it is the endpoint.
          - C(directory) is a directory of this host (C(file://)), with a snapshot's manifest beside
            it, or O(files). It is copied and left as it is.
          - C(archive) is a tar or zip file, of this host (C(file://)) or of a server. It needs
            O(sources[].sha256), or O(files) that name every file.
        type: str
        choices: [archive, directory, files, git-lfs, huggingface, modelscope]
        default: git-lfs
      url:
        description: Address of the source, without a password.
        type: str
        required: true
      revision:
        description:
          - The commit at this source that has the same files, where it differs from O(revision).
            Hubs that copy each other do not copy history.
        type: str
        default: null
      branch:
        description:
          - A branch in the place of a commit, for a hub of which no commit is known. Only what
            O(files) lists is taken from it, as a branch moves.
        type: str
        default: null
      sha256:
        description: SHA-256 of the archive.
        type: str
        default: null
      credential:
        description: Name of the token in O(tokens) that the source asks for.
        type: str
        default: null
  tokens:
    description:
      - Tokens of gated models by name. A client gets its token in its environment, and a server in
        a header; none is written anywhere.
    type: dict
    required: false
    default: {}
  clients:
    description: Environment with C(bin/hf) and C(bin/modelscope), for the kinds of these names.
    type: path
    required: false
    default: /opt/vllm/clients
  include:
    description: Shell patterns of the files wanted, for the path or the last part of it.
    type: list
    elements: str
    required: false
    default: ['*']
  files:
    description:
      - What the files must be, by path, each with C(size) (bytes) and C(sha256).
      - What is not listed is proved by the source's own list alone; see RV(proof).
    type: dict
    required: false
    default: {}
  verify:
    description:
      - How a snapshot that is there is proved.
      - C(sizes) looks at each file's size, and reads those files that do not look (inode, times)
        as they did when they were proved. C(full) reads all bytes.
    type: str
    choices: [sizes, full]
    required: false
    default: sizes
  parallel:
    description: Number of files that are fetched at the same time.
    type: int
    required: false
    default: 4
  limit_mib_s:
    description:
      - Most MiB per second that all files together may take; none when left out.
      - The kinds C(files) and C(archive) hold to it. git-lfs and the hubs' clients have no such
        setting, so sources of these kinds are left out when it is set.
    type: float
    required: false
    default: null
  progress:
    description:
      - File that says about once a second how far the download is, and that is removed at its end.
        It is JSON with C(phase) (asking, fetching, proving, placing), C(kind), C(url), C(done) and
        C(total) (bytes), C(rate) (bytes per second), C(left) (seconds), C(started) and C(updated)
        (seconds since 1970), C(name), C(revision) and C(format).
    type: path
    required: false
    default: null
  step:
    description:
      - What the action of the same name asks for, to say how far the work is while it goes on.
        V(start) begins or joins the work and answers at once, V(look) says how far it is or what
        came of it, V(stop) ends it. When null, the work is done here and now.
    type: str
    choices: [start, look, stop]
    required: false
    default: null
  jobs:
    description: Directory for what is known of work that goes on; a reboot should empty it.
    type: path
    required: false
    default: /run/vllm-ansible
  timeout:
    description: Seconds that one command of a client, or one file of a plain server, may take.
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
        url: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
      - kind: huggingface
        url: https://hf-mirror.com/HuggingFaceTB/SmolLM2-135M-Instruct
    include: ["*.json", "*.safetensors", "*.txt"]

- name: The snapshot comes from the site's mirror
  model_snapshot:
    name: smollm2-135m
    revision: 12fd25f77366fa6b3b4b768ec3050bf629380bac
    path: /srv/models/smollm2-135m/12fd25f77366fa6b3b4b768ec3050bf629380bac
    sources:
      - kind: files
        url: http://10.0.0.5:8080/models/smollm2-135m/12fd25f77366fa6b3b4b768ec3050bf629380bac/
    limit_mib_s: 50

- name: A gated model comes with a token
  model_snapshot:
    name: gated
    revision: 0123456789abcdef0123456789abcdef01234567
    path: /srv/models/gated/0123456789abcdef0123456789abcdef01234567
    sources:
      - kind: huggingface
        url: https://huggingface.co/example/gated
        credential: ours
    tokens:
      ours: "{{ vault_hub_token }}"
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
proof:
  description:
    - What the sizes and checksums rest on. C(given) is O(files) for every file; C(git) the commit
      and its LFS pointers; C(manifest) a snapshot's, at a mirror or beside a directory; C(archive)
      the archive's SHA-256; C(hub) what the hub itself says, which is not independent of it.
    - Null for snapshots of before this was kept.
  returned: success
  type: str
resumed_bytes:
  description: Bytes of contents, whole or begun, that an earlier run had left here.
  returned: success
  type: int
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

import contextlib
import errno
import os
import posixpath
import re
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_detached import Job, by_steps
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import (
    as_json,
    free_bytes,
    held,
    read_json_object,
    require_free,
    sync_directory,
    write_atomic,
)
from ansible.module_utils.vllm_files_source import FilesSource
from ansible.module_utils.vllm_git_lfs import GitLfsSource
from ansible.module_utils.vllm_hub_sources import HuggingFaceSource, ModelScopeSource
from ansible.module_utils.vllm_local_sources import ArchiveSource, DirectorySource
from ansible.module_utils.vllm_model_source import Order, Source
from ansible.module_utils.vllm_model_store import Content, Store, described, is_stub
from ansible.module_utils.vllm_progress import Progress
from ansible.module_utils.vllm_seen import (
    altered,
    changed_since,
    looks,
    manifest_path,
    present_files,
)
from ansible.module_utils.vllm_urls import refuse_credentials

KINDS: dict[str, type[Source]] = {
    "archive": ArchiveSource,
    "directory": DirectorySource,
    "files": FilesSource,
    "git-lfs": GitLfsSource,
    "huggingface": HuggingFaceSource,
    "modelscope": ModelScopeSource,
}
MARGIN = 64 << 20  # bytes left free besides the model's
FULL = 1 << 20  # a disk with fewer free bytes is full
MANIFEST_FORMAT = 1
INDEX = ".index.json"
# What git, git-lfs, the hubs' clients and plain servers say to those without a token.
REFUSED = r"Authentication failed|Authorization error|could not read Username|\b40[13]\b"


def partial_path(path: Path) -> Path:
    """Return where a snapshot is fetched into."""
    return path.with_name(f".{path.name}.partial")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a snapshot's manifest; None when it is missing or damaged."""
    try:
        content: dict[str, Any] | None = read_json_object(manifest_path(path))
    except (ValueError, OSError):
        return None
    if content is None or content.get("format") != MANIFEST_FORMAT or "revision" not in content:
        return None
    return content if isinstance(content.get("files"), dict) else None


def file_flaw(path: Path, wanted: dict[str, Any]) -> str | None:
    """Return what is wrong with one file, unread; None when it is as wanted."""
    if path.is_symlink() or not path.is_file():
        return "it is no regular file"
    size = path.stat().st_size
    if size != wanted["size"]:
        kind = "an LFS pointer" if is_stub(path) else f"{size} bytes"
        return f"{kind} instead of {wanted['size']} bytes"
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
    return files_flaw(params, path, manifest)


def files_flaw(params: dict[str, Any], path: Path, manifest: dict[str, Any]) -> str | None:
    """Return how the files differ from their manifest; None when they do not.

    A file is read only where it does not look as it did when it was proved.
    """
    files: dict[str, dict[str, Any]] = manifest["files"]
    differing = set(files) ^ present_files(path)
    if differing:
        return f"missing or unexpected files: {', '.join(sorted(differing)[:5])}"
    for name, wanted in files.items():
        wrong = file_flaw(path / name, wanted) or disagreement(params["files"], name, wanted)
        if wrong:
            return f"{name}: {wrong}"
    names = changed_since(path, manifest, full=params["verify"] == "full")
    for name, found in altered(path, manifest, names).items():
        return f"{name}: sha256 {found} instead of {files[name]['sha256']}"
    return None


def disagreement(given: dict[str, Any], name: str, found: dict[str, Any]) -> str | None:
    """Return how a file differs from the given manifest; None when it does not."""
    for key in ("size", "sha256"):
        wanted = given.get(name, {}).get(key)
        if wanted is not None and str(wanted) != str(found[key]):
            return f"{key} {found[key]}, and the given manifest says {wanted}"
    return None


def require_wanted(params: dict[str, Any], contents: dict[str, Content]) -> None:
    """Refuse a choice of files that cannot be meant, or that is not what was given.

    Raises:
        HostError: nothing is chosen, or the given manifest names more, or something else.
    """
    if not contents:
        raise HostError(f"no file of the commit matches {params['include']}; correct `include`")
    missing = sorted(set(params["files"]) - set(contents))
    if missing:
        raise HostError(f"the commit lacks files of the given manifest: {', '.join(missing)}")
    for name, said in described(contents).items():
        wrong = disagreement(params["files"], name, said)
        if wrong:
            raise HostError(f"{name}: {wrong}; nothing was downloaded")


def missing_shards(index: Path, name: str, contents: dict[str, Content]) -> list[str]:
    """Return the files that an index of weights names and that are not among the contents.

    Args:
        index: the file.
        name: its path in the snapshot.
        contents: all files of the snapshot.

    Raises:
        HostError: it is no JSON object.
    """
    try:
        said = read_json_object(index) or {}
    except ValueError as error:
        raise HostError(f"{name} is no index of weights: {error}") from error
    shards = said.get("weight_map")
    if not isinstance(shards, dict):
        return []
    folder = posixpath.dirname(name)
    return sorted({posixpath.join(folder, str(shard)) for shard in shards.values()} - set(contents))


def bytes_below(path: Path) -> int:
    """Return the size of all files below a directory, in bytes."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def way_in(said: dict[str, Any], error: HostError) -> str:
    """Return what to do about a source that lets nobody in without a token."""
    if said["credential"] or not re.search(REFUSED, error.message):
        return ""
    return "; if the model is gated, give the source a `token` or `token_file`"


class Download:
    """The fetching of one snapshot into its partial directory."""

    def __init__(self, params: dict[str, Any], path: Path, lock: int, progress: Progress) -> None:
        """Prepare a download into a directory that is held already by the open file `lock`."""
        self.params, self.path, self.progress = params, path, progress
        self.partial = partial_path(path)
        self.tree = self.partial / "files"
        self.store = Store(self.partial / "store")
        limit = params["limit_mib_s"]
        self.order = Order(
            revision=params["revision"],
            include=params["include"],
            files=params["files"],
            parallel=params["parallel"],
            limit=limit * 2**20 if limit else None,
            timeout=params["timeout"],
            clients=Path(params["clients"]),
            partial=self.partial,
            lock=lock,
        )
        self.resumed = bytes_below(self.partial / "store")
        self.resumed += sum(bytes_below(one) for one in self.partial.glob("client-*"))

    def fetch(self) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Fetch from the first source that serves; return it and its files, and who failed.

        Raises:
            HostError: no source serves; the message has a line for each.
        """
        attempts: list[dict[str, str]] = []
        for said in self.params["sources"]:
            try:
                proof, contents = self.fetch_from(said)
            except HostError as error:
                if "free_bytes" in error.details:  # no other source makes the disk larger
                    raise
                attempts.append({"url": said["url"], "error": error.message + way_in(said, error)})
            else:
                found = {"source": said["url"], "proof": proof, "files": described(contents)}
                return found, attempts
        lines = "\n".join(f"  {attempt['url']}: {attempt['error']}" for attempt in attempts)
        raise HostError(
            f"model {self.params['name']} at {self.params['revision'][:12]} could not be had from"
            f" any of {len(attempts)} sources:\n{lines}\nWhat was fetched stays in {self.partial};"
            " run again to go on, or add a source that works.",
            attempts=attempts,
        )

    def fetch_from(self, said: dict[str, Any]) -> tuple[str, dict[str, Content]]:
        """Have all files, proved, in the partial tree; return what proved them and what they are.

        Raises:
            HostError: the source cannot be read, or what it has is not what was asked for.
        """
        token = self.params["tokens"].get(said["credential"]) if said["credential"] else None
        if said["credential"] and not token:
            raise HostError("its token was not handed over: see `tokens`")
        source = self.source(said, token)
        if self.order.limit and not source.limited:
            raise HostError(f"left out, as {said['kind']} cannot be held to limit_mib_s")
        self.progress.phase("asking", lambda: source.measure({}), kind=said["kind"], url=source.url)
        contents = source.contents()
        require_wanted(self.params, contents)
        self.store.reuse(self.path, contents)
        self.gather(contents)
        self.progress.phase("fetching", lambda: source.measure(contents))
        # The indexes first: a model that lacks a shard is not worth its other shards.
        indexes = {name: c for name, c in contents.items() if name.endswith(INDEX)}
        self.obtain(source, indexes)
        for name, content in sorted(indexes.items()):
            lost = missing_shards(self.store.path(content.sha256), name, contents)
            if lost:
                raise HostError(
                    f"{name} names {', '.join(lost[:5])}, which the source or `include` leaves out"
                )
        self.obtain(source, contents)
        self.progress.phase("placing")
        self.place(contents)
        given = set(contents) <= set(self.order.given())
        return "given" if given else source.proof, contents

    def source(self, said: dict[str, Any], token: str | None) -> Source:
        """Return a source; nothing is asked yet."""
        made: Source = KINDS[said["kind"]](said, self.order, self.store, token)
        return made

    def gather(self, contents: dict[str, Content]) -> None:
        """Take what the clients of a run that was killed have left, of whichever source."""
        missing = self.store.missing(contents)
        for said in self.params["sources"]:
            # Another source's address may be one that cannot be used; its turn to say so comes.
            with contextlib.suppress(HostError):
                self.store.keep(self.source(said, None).begun(missing), missing)

    def obtain(self, source: Source, contents: dict[str, Content]) -> None:
        """Have contents in the store, each proved, and give each damaged one a second chance.

        Raises:
            HostError: naming every file whose content is missing or damaged; or too little disk.
        """
        # What an earlier try left is proved before it is taken to be right.
        wrong, said = self.store.drop_bad(contents), ""
        for _ in range(2):
            missing = self.store.missing(contents)
            if not missing:
                break
            self.require_room(source, missing)
            source.seed(missing)
            try:
                said = source.fetch(missing)
            finally:
                self.store.keep(source.begun(missing), missing)
            wrong = self.store.drop_bad(contents)
            self.require_disk()
        if wrong:
            lines = [f"  {name}: {reason}" for name, reason in sorted(wrong.items())]
            raise HostError(
                "\n".join([f"{len(wrong)} files could not be had whole:", *lines, said]).strip(),
                files=wrong,
            )

    def require_room(self, source: Source, missing: dict[str, Content]) -> None:
        """Refuse what cannot fit.

        Raises:
            HostError: too little disk for the rest, with what this source needs besides.
        """
        rest = sum(content.size for content in missing.values())
        here = sum(min(size, c.size) for c in missing.values() if (size := self.begun_bytes(c)))
        purpose = f"model {self.params['name']}"
        require_free(self.partial, rest - here + MARGIN, purpose)
        passing, free = source.passing(missing), free_bytes(self.partial)
        if free < rest - here + passing + MARGIN:
            raise HostError(
                f"{purpose} from this source needs {(rest + passing) >> 20} MiB of free disk at"
                f" {self.partial.parent} for a while, and {free >> 20} MiB are free"
            )

    def begun_bytes(self, content: Content) -> int:
        """Return how many bytes of a content an earlier try has left."""
        part = self.store.part(content.sha256)
        return part.stat().st_size if part.is_file() else 0

    def require_disk(self) -> None:
        """Say so when the disk is full: what a client says of it is not always clear.

        Raises:
            HostError: hardly a byte is free.
        """
        if free_bytes(self.partial) < FULL:
            raise full(self.partial)

    def place(self, contents: dict[str, Content]) -> None:
        """Link the contents into a tree of the snapshot's shape.

        Raises:
            HostError: a content is an LFS pointer.
        """
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(mode=0o755)
        for name, content in contents.items():
            target = self.tree / name
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            os.link(self.store.path(content.sha256), target)
            if is_stub(target):
                raise HostError(f"{name} is an LFS pointer and not the file; fetch anew")

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
        # Only now: taking away the store's names of the same files changes how they look.
        remember(self.path, {**manifest, "placed": time.time()})


def remember(path: Path, manifest: dict[str, Any]) -> None:
    """Note in the manifest how the proved files look, where that is not known yet."""
    seen = looks(path, manifest["files"])
    if manifest.get("seen") != seen:
        write_atomic(manifest_path(path), as_json({**manifest, "seen": seen}).encode(), 0o644)


def full(partial: Path) -> HostError:
    """Return the error of a disk that has filled up."""
    return HostError(
        f"the disk at {partial.parent} is full: free some space and run again; what was fetched"
        f" stays in {partial}",
        free_bytes=free_bytes(partial),
    )


def fetch(params: dict[str, Any], path: Path) -> dict[str, Any]:
    """Fetch, prove and place the snapshot; return its manifest and what the result says of it.

    Raises:
        HostError: no source has it whole, or the disk is too small.
    """
    said = {"name": params["name"], "revision": params["revision"]}
    progress = Progress(Path(params["progress"]) if params["progress"] else None, said)
    with held(partial_path(path), f"fetching {path}") as lock, progress.shown():
        download = Download(params, path, lock, progress)
        fetched, attempts = download.fetch()
        manifest = {
            "format": MANIFEST_FORMAT,
            "name": params["name"],
            "revision": params["revision"],
            "include": params["include"],
            **fetched,
        }
        download.finish(manifest)
    return {"manifest": manifest, "attempts": attempts, "resumed_bytes": download.resumed}


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
    done: dict[str, Any] = {"manifest": {"files": {}, "source": None}, "attempts": []}
    if reason is None:
        done["manifest"] = read_manifest(path) or done["manifest"]
        if not module.check_mode:
            remember(path, done["manifest"])
    elif not module.check_mode:
        try:
            done = fetch(params, path)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise full(partial_path(path)) from error
    manifest, proof = done["manifest"], done["manifest"].get("proof")
    for attempt in done["attempts"]:
        module.warn(f"model {params['name']}: {attempt['url']} was left: {attempt['error']}")
    if reason is not None and proof == "hub":
        module.warn(
            f"model {params['name']}: only {manifest['source']} itself says what its files must be;"
            " name them in the model's `files` to have them proved by something else"
        )
    after = f"{path}: revision {params['revision']}, proved\n"
    return {
        "changed": reason is not None,
        "diff": {"before": after if reason is None else f"{path}: {reason}\n", "after": after},
        "path": str(path),
        "files": manifest["files"],
        "bytes": sum(entry["size"] for entry in manifest["files"].values()),
        "source": manifest["source"],
        "proof": proof,
        "resumed_bytes": done.get("resumed_bytes", 0),
        "reason": reason,
        "attempts": done["attempts"],
    }


def main() -> None:
    """Run as an Ansible module."""
    source = {
        "kind": {"type": "str", "choices": sorted(KINDS), "default": "git-lfs"},
        "url": {"type": "str", "required": True},
        "revision": {"type": "str"},
        "branch": {"type": "str"},
        "sha256": {"type": "str"},
        "credential": {"type": "str", "no_log": False},
    }
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "revision": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "sources": {"type": "list", "elements": "dict", "required": True, "options": source},
            "tokens": {"type": "dict", "default": {}, "no_log": True},
            "clients": {"type": "path", "default": "/opt/vllm/clients"},
            "include": {"type": "list", "elements": "str", "default": ["*"]},
            "files": {"type": "dict", "default": {}},
            "verify": {"type": "str", "choices": ["sizes", "full"], "default": "sizes"},
            "parallel": {"type": "int", "default": 4},
            "limit_mib_s": {"type": "float"},
            "progress": {"type": "path"},
            "step": {"type": "str", "choices": ["start", "look", "stop"]},
            "jobs": {"type": "path", "default": "/run/vllm-ansible"},
            "timeout": {"type": "int", "default": 14400},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    with by_steps(module, Job(Path(module.params["jobs"]), module.params["path"])):
        conclude(module, ensure, f"{module.params['path']} could not be made")


if __name__ == "__main__":
    main()
