#!/usr/bin/python
"""Which model snapshots nobody uses; they are removed when that is asked for."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: model_prune
short_description: List the model snapshots that nobody uses, and remove them on request
description:
  - Looks at what C(model_snapshot) keeps below a directory, snapshots and interrupted downloads,
    and says of each who uses it, or why nobody does.
  - In use is what O(keep) names, what an instance's configuration or the receipt names, what a
    running process has open, mapped, in its arguments or as its directory, and a download that is
    under way. Each is asked once more right before something is removed.
  - What C(model_snapshot) did not make is listed and never removed.
options:
  root:
    description: Directory of the models.
    type: path
    required: false
    default: /srv/models
  keep:
    description: What is to stay, each as NAME/REVISION, such as what an inventory names.
    type: list
    elements: str
    required: false
    default: []
  configurations:
    description: Directory with the instances' configurations.
    type: path
    required: false
    default: /etc/vllm
  receipt:
    description: The host's receipt.
    type: path
    required: false
    default: /var/lib/vllm/receipt.json
  generations:
    description: What the host keeps to go back to; the models of these stay.
    type: path
    required: false
    default: /var/lib/vllm/generations
  remove:
    description: Whether what nobody uses is removed.
    type: bool
    required: false
    default: false
attributes:
  check_mode:
    support: full
    description: Says what would be removed, and removes nothing.
  diff_mode:
    support: full
    description: Shows what is there before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: It is known which snapshots nobody uses
  model_prune:
    keep: [smollm2-135m-instruct/12fd25f77366fa6b3b4b768ec3050bf629380bac]

- name: What nobody uses is gone from the mirror host
  model_prune:
    root: /srv/mirror/models
    keep: "{{ site_snapshots }}"
    remove: true
"""

RETURN = r"""
snapshots:
  description: >-
    What is there, each with O(snapshots[].name), C(revision), C(path), C(kind) (C(snapshot),
    C(partial), C(rest) or C(unknown)), C(bytes) on the disk, C(since) (UTC), C(age_s) in seconds,
    C(used_by), C(why) it is unused, and C(state): C(used), C(unused), C(removed), in check
    mode C(would go), or C(kept), which is not ours.
  returned: success
  type: list
  elements: dict
unused_bytes:
  description: What the unused ones take, in bytes, those that were removed included.
  returned: success
  type: int
freed_bytes:
  description: What was (or in check mode would be) given back, in bytes.
  returned: success
  type: int
"""

import contextlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import locked, read_json_object, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

SNAPSHOT, PARTIAL, REST, UNKNOWN = "snapshot", "partial", "rest", "unknown"
USED, UNUSED, KEPT = "used", "unused", "kept"
REMOVED, WOULD = "removed", "would go"
REVISION = re.compile(r"[0-9a-f]{40}")
HIDDEN = re.compile(r"\.([0-9a-f]{40})\.(partial|pruned)")
GOING = "pruned"  # what is being removed has this ending, so that a rest of it is known as one


def disk_bytes(path: Path) -> int:
    """Return what a file or a tree takes on the disk, each inode once."""
    found: dict[tuple[int, int], int] = {}
    for entry in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else [])]:
        with contextlib.suppress(OSError):
            status = entry.lstat()
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def newest(path: Path) -> float:
    """Return when anything in a tree was last changed, in seconds since 1970."""
    times = [path.lstat().st_mtime]
    for entry in path.rglob("*") if path.is_dir() else []:
        with contextlib.suppress(OSError):
            times.append(entry.lstat().st_mtime)
    return max(times)


def texts(content: Any) -> Iterator[str]:
    """Return every text in JSON."""
    if isinstance(content, dict):
        for value in content.values():
            yield from texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from texts(value)
    elif isinstance(content, str):
        yield content


def mapped(process: Path) -> set[str]:
    """Return the files that a process has in its memory, and its directory."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found.add(str((process / "cwd").readlink()))
    with contextlib.suppress(OSError):
        lines = (process / "maps").read_text("utf-8", "replace").splitlines()
        found |= {words[5] for words in (line.split(None, 5) for line in lines) if len(words) > 5}  # noqa: PLR2004
    return found


def opened(process: Path) -> set[tuple[int, int]]:
    """Return device and inode of the files that a process has open, under whatever path."""
    found: set[tuple[int, int]] = set()
    with contextlib.suppress(OSError):
        for handle in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                status = handle.stat()
                found.add((status.st_dev, status.st_ino))
    return found


def arguments(process: Path) -> str:
    """Return the arguments of a process, a blank between them."""
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


class Users:
    """Who uses what: the inventory, configurations, the receipt, processes."""

    def __init__(self, params: dict[str, Any]) -> None:
        """Ask the host.

        Raises:
            HostError: the receipt or a configuration cannot be read, so that nobody knows.
        """
        self.keep = set(params["keep"])
        self.files = dict(self.read(Path(params["configurations"])))
        self.receipt = set(self.recorded(Path(params["receipt"])))
        earlier = sorted(Path(params["generations"]).glob("*/receipt.json"))
        self.generations = {text for path in earlier for text in self.recorded(path)}
        self.processes = list(self.running())

    @staticmethod
    def read(folder: Path) -> Iterator[tuple[str, str]]:
        """Return the configurations by their names."""
        try:
            for path in sorted(folder.glob("*.yaml")):
                yield path.name, path.read_text("utf-8", errors="replace")
        except OSError as error:
            raise HostError(f"{error}: so it is not known which models are in use") from error

    @staticmethod
    def recorded(path: Path) -> Iterator[str]:
        """Return the texts of a receipt."""
        try:
            content = read_json_object(path)
        except (OSError, ValueError) as error:
            raise HostError(
                f"{path} cannot be read ({error}), so it is not known which models are in use;"
                " provision the host again, or move the file away by hand"
            ) from error
        yield from texts(content)

    @staticmethod
    def running() -> Iterator[tuple[str, set[str], set[tuple[int, int]], str]]:
        """Return name, paths, open files (device, inode) and arguments of all processes."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            yield f"process {entry.name}", mapped(entry), opened(entry), arguments(entry)

    def of(self, path: Path, name: str, revision: str) -> list[str]:
        """Return who uses a snapshot."""
        text = str(path)
        word = re.compile(re.escape(text) + r"(?![\w.-])")
        found = ["the inventory"] if f"{name}/{revision}" in self.keep else []
        found += [file for file, content in self.files.items() if word.search(content)]
        if any(word.match(one) for one in self.receipt):
            found.append("the receipt")
        elif any(word.match(one) for one in self.generations):
            found.append("a generation that is kept to go back to")
        inodes = {(s.st_dev, s.st_ino) for s in map(os.lstat, inside(path))}
        for process, paths, files, words in self.processes:
            has = any(one == text or one.startswith(f"{text}/") for one in paths)
            if has or files & inodes or word.search(words):
                found.append(process)
        return found


def inside(path: Path) -> list[Path]:
    """Return a tree and all that is in it."""
    return [path, *path.rglob("*")] if path.is_dir() else []


def entries(root: Path) -> Iterator[tuple[str, str, str, Path]]:
    """Return name, revision, kind and path of everything below the directory of the models."""
    for model in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(model.iterdir()):
            hidden = HIDDEN.fullmatch(path.name)
            if hidden:
                kind = PARTIAL if hidden.group(2) == "partial" else REST
                yield model.name, hidden.group(1), kind, path
            elif path.is_dir() and not path.is_symlink() and REVISION.fullmatch(path.name):
                known = path.with_name(f"{path.name}.json").is_file()
                yield model.name, path.name, SNAPSHOT if known else UNKNOWN, path
            elif REVISION.fullmatch(path.stem) and path.suffix == ".json":
                if not path.with_suffix("").is_dir():
                    yield model.name, path.stem, REST, path
            elif not path.name.endswith(".progress.json"):
                yield model.name, "", UNKNOWN, path


def judge(kind: str, path: Path, name: str, revision: str, users: Users) -> tuple[list[str], str]:
    """Return who uses an entry and, when nobody does, why it is there."""
    if kind == UNKNOWN:
        return ["unknown: it has no manifest of ours, look at it by hand"], ""
    if kind == REST:
        return [], "a rest of what was removed"
    if kind == SNAPSHOT:
        others = {one.split("/")[1][:12] for one in users.keep if one.split("/")[0] == name}
        why = f"{', '.join(sorted(others))} is used instead" if others else "nothing names it"
        return users.of(path, name, revision), why
    with locked(path) as free:
        if free is None:
            return ["a run that is fetching it"], ""
    whole = path.with_name(revision)
    if f"{name}/{revision}" in users.keep and not whole.exists():
        return ["the inventory: the next run goes on from it"], ""
    why = "the snapshot is there" if whole.exists() else "nothing names it"
    return [], f"an interrupted download, and {why}"


def listed(root: Path, users: Users) -> list[dict[str, Any]]:
    """Return everything below the directory of the models, with who uses it."""
    found = []
    for name, revision, kind, path in entries(root) if root.is_dir() else ():
        used_by, why = judge(kind, path, name, revision, users)
        why = "" if used_by else why
        manifest = path.with_name(f"{path.name}.json")
        when = manifest.stat().st_mtime if kind == SNAPSHOT else newest(path)
        found.append(
            {
                "name": name,
                "revision": revision,
                "path": str(path),
                "kind": kind,
                "bytes": disk_bytes(path) + (disk_bytes(manifest) if kind == SNAPSHOT else 0),
                "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)),
                "age_s": max(0, int(time.time() - when)),
                "used_by": used_by,
                "why": why,
                "state": KEPT if kind == UNKNOWN else USED if used_by else UNUSED,
            }
        )
    return found


def remove(entry: dict[str, Any], root: Path) -> None:
    """Remove an entry; a snapshot loses its name first, so that no half of one is ever seen.

    Raises:
        HostError: it is not below the directory of the models, or a run has taken it.
    """
    path = Path(entry["path"])
    if path.is_file():
        path.unlink()
    elif entry["kind"] == SNAPSHOT:
        going = path.with_name(f".{path.name}.{GOING}")
        if going.exists():
            remove_tree(going, root)
        path.rename(going)
        path.with_name(f"{path.name}.json").unlink()
        remove_tree(going, root)
    elif entry["kind"] == PARTIAL:
        with locked(path) as free:
            if free is None:
                raise HostError(f"a run has begun to fetch into {path}; it stays")
            remove_tree(path, root)
    else:
        remove_tree(path, root)
    with contextlib.suppress(OSError):  # others are left in it
        path.parent.rmdir()


def prune(params: dict[str, Any], found: list[dict[str, Any]], *, check: bool) -> None:
    """Remove what nobody uses, and note of each what became of it.

    Raises:
        HostError: something cannot be removed.
    """
    root = Path(params["root"])
    for entry in found:
        if entry["state"] != UNUSED:
            continue
        path = Path(entry["path"])
        # A service may have been started since.
        used_by, _ = judge(entry["kind"], path, entry["name"], entry["revision"], Users(params))
        if used_by:
            entry.update(state=USED, used_by=used_by, why="")
            continue
        if not check:
            remove(entry, root)
        entry["state"] = WOULD if check else REMOVED


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """List, remove where that is asked for, and return the result."""
    params = module.params
    found = listed(Path(params["root"]), Users(params))
    before = "".join(f"{entry['path']}\n" for entry in found)
    if params["remove"]:
        prune(params, found, check=module.check_mode)
    gone = [entry for entry in found if entry["state"] in (REMOVED, WOULD)]
    unused = [entry for entry in found if entry["state"] == UNUSED]
    after = "".join(f"{entry['path']}\n" for entry in found if entry not in gone)
    return {
        "changed": bool(gone),
        "diff": {"before": before, "after": after},
        "snapshots": found,
        "unused_bytes": sum(entry["bytes"] for entry in [*unused, *gone]),
        "freed_bytes": sum(entry["bytes"] for entry in gone),
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/srv/models"},
            "keep": {"type": "list", "elements": "str", "default": []},
            "configurations": {"type": "path", "default": "/etc/vllm"},
            "receipt": {"type": "path", "default": "/var/lib/vllm/receipt.json"},
            "generations": {"type": "path", "default": "/var/lib/vllm/generations"},
            "remove": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, f"the models below {module.params['root']} cannot be looked at")


if __name__ == "__main__":
    main()
