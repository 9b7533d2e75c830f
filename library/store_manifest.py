#!/usr/bin/python
"""What a mirror's store holds, with sizes and checksums."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: store_manifest
short_description: Have a store list what it holds
description:
  - Writes C(manifest.json) into a directory. It holds the size (bytes) and the SHA-256 of every
    file below, by path, and appears whole or not at all.
  - A file is read again only when its size or its time of change differs from what was seen last.
  - Names that begin with a dot are files that are still being written, and are left out.
  - Nothing is removed. What nobody expects is named in the result.
options:
  path:
    description: Directory of the store.
    type: path
    required: true
  expected:
    description: Paths in the store that somebody refers to.
    type: list
    elements: str
    required: false
    default: []
attributes:
  check_mode:
    support: full
    description: Says whether the manifest would change, and writes nothing.
  diff_mode:
    support: full
    description: Shows the entries that differ, before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The store's manifest says what is there
  store_manifest:
    path: /srv/mirror/store
    expected: [installers/Miniconda3-py310_26.7.1-1-Linux-x86_64.sh]
"""

RETURN = r"""
files:
  description: The files by path, each with size (bytes) and sha256.
  returned: success
  type: dict
bytes:
  description: Size of all files in bytes.
  returned: success
  type: int
unreferenced:
  description: Paths that are there and that O(expected) does not name, such as a bundle's.
  returned: success
  type: list
  elements: str
missing:
  description: Paths that O(expected) names and that are not there.
  returned: success
  type: list
  elements: str
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import as_json, read_json_object, sha256_of, write_atomic

MANIFEST, SEEN = "manifest.json", ".manifest-seen.json"


def read_or_empty(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where the file is missing or damaged."""
    try:
        return read_json_object(path) or {}
    except ValueError:
        return {}


def present(store: Path) -> list[str]:
    """Return the paths of all files of a store, sorted; links are not followed."""
    found: list[str] = []
    for parent, directories, names in os.walk(store):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                found.append(str(path.relative_to(store)))
    return sorted(set(found) - {MANIFEST})


def describe(store: Path, seen: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was seen of each file: size, mtime_ns and sha256.

    Args:
        store: the directory.
        seen: what the last run saw; its checksums hold where size and time are the same.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in present(store):
        path = store / name
        status = path.stat()
        known: dict[str, Any] = seen.get(name, {})
        now: dict[str, Any] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        same = "sha256" in known and all(known.get(key) == value for key, value in now.items())
        now["sha256"] = known["sha256"] if same else sha256_of(path)
        found[name] = now
    return found


def entries(content: dict[str, Any], other: dict[str, Any]) -> str:
    """Return the entries of a manifest that another one does not have, as text."""
    text: str = as_json({name: said for name, said in content.items() if other.get(name) != said})
    return text


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the manifest to its state and return the result.

    Raises:
        HostError: there is no such store.
    """
    store = Path(module.params["path"])
    if not store.is_dir():
        if not module.check_mode:
            raise HostError(f"{store} is no directory; make it, or correct path")
        seen: dict[str, Any] = {}
        found: dict[str, dict[str, Any]] = {}
    else:
        seen = read_or_empty(store / SEEN)
        found = describe(store, seen)
    files = {name: {"size": s["size"], "sha256": s["sha256"]} for name, s in found.items()}
    before = read_or_empty(store / MANIFEST)
    changed = before != files or not (store / MANIFEST).is_file()
    if not module.check_mode:
        if changed:
            write_atomic(store / MANIFEST, as_json(files).encode(), 0o644)
        if found != seen:
            write_atomic(store / SEEN, as_json(found).encode(), 0o600)
    expected = set(module.params["expected"])
    return {
        "changed": changed,
        "files": files,
        "bytes": sum(said["size"] for said in files.values()),
        "unreferenced": sorted(set(files) - expected),
        "missing": sorted(expected - set(files)),
        "diff": {
            "before_header": str(store / MANIFEST),
            "after_header": str(store / MANIFEST),
            "before": entries(before, files),
            "after": entries(files, before),
        },
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "expected": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, f"{module.params['path']} cannot be read or written")


if __name__ == "__main__":
    main()
