#!/usr/bin/python
"""One archive with everything that a site needs: made, proved, and put into a mirror's store."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle_archive
short_description: Pack, prove and unpack a bundle
description:
  - A bundle is one tar archive of the directories C(store) and C(models) of a mirror, led by
    C(bundle.json) (what it is) and C(manifest.json) (each file's size and SHA-256). Each protects
    the next by a checksum.
  - It is unpacked only when every file in it has been proved. A flipped bit, a short archive, a
    file too many or too few, a link, or a path that leads outside is refused before anything in
    the store is changed.
  - What is in the store with the right bytes stays; what differs and is newer than the bundle stays
    too, with a warning. Pages of package indexes and lists of conda channels are united, so that
    several bundles can fill one store.
  - The C(bundle.json) of the last one is kept in O(root).
options:
  archive:
    description: The archive.
    type: path
    required: true
  state:
    description:
      - C(packed) makes it from O(source), C(verified) proves it, C(unpacked) puts it into O(root).
    type: str
    choices: [packed, verified, unpacked]
    required: false
    default: verified
  source:
    description: Directory that holds C(store) and C(models). Needed to pack.
    type: path
    required: false
    default: null
  only:
    description: Files and directories below O(source) that are packed; all when empty.
    type: list
    elements: str
    required: false
    default: []
  about:
    description: What the bundle was made for; it is written into C(bundle.json).
    type: dict
    required: false
    default: {}
  root:
    description: The mirror's directory. Needed to unpack.
    type: path
    required: false
    default: null
attributes:
  check_mode:
    support: full
    description: Proves the archive and says what would be changed; packs and unpacks nothing.
  diff_mode:
    support: full
    description: Shows the files that would be added or replaced.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The bundle is made
  bundle_archive:
    state: packed
    source: /var/cache/vllm-bundle/content
    archive: /var/cache/vllm-bundle/site.tar
    about: {inventory: lab}

- name: The bundle is in the mirror's store
  bundle_archive:
    state: unpacked
    archive: /var/tmp/site.tar
    root: /srv/mirror
"""

RETURN = r"""
bundle:
  description: The content of bundle.json.
  returned: success
  type: dict
files:
  description: Number of files in the bundle.
  returned: success
  type: int
bytes:
  description: Size of all files in the bundle.
  returned: success
  type: int
placed:
  description: Files that were (or would be) added or replaced in the store.
  returned: when unpacked
  type: list
  elements: str
kept:
  description: Files of the store that differ from the bundle's, are newer, and stayed.
  returned: when unpacked
  type: list
  elements: str
"""

import contextlib
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_bundle import (
    HEAD,
    Archive,
    copy_proved,
    damaged,
    describe,
    write,
)
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import (
    as_json,
    held,
    require_free,
    sha256_of,
    sync_directory,
    write_atomic,
)
from ansible.module_utils.vllm_store import is_united, unite

MARGIN = 64 << 20  # bytes left free besides what is written
UTC = timezone.utc  # noqa: UP017 - Python 3.9 has no datetime.UTC
TIME = "%Y-%m-%dT%H:%M:%SZ"


def as_built(params: dict[str, Any], archive: Path, files: dict[str, Any]) -> Archive | None:
    """Return the archive that is there if it was made from the same files for the same plans."""
    with contextlib.suppress(HostError):
        present = Archive(archive)
        if present.files == files and present.head.get("about") == params["about"]:
            return present
    return None


def pack(module: AnsibleModule) -> dict[str, Any]:
    """Have the archive of a directory, under its name only when it is whole."""
    params, archive = module.params, Path(module.params["archive"])
    if not params["source"]:
        raise HostError("source: must be given to pack; name the directory of store and models")
    files = describe(Path(params["source"]), params["only"])
    total = sum(said["size"] for said in files.values())
    present = as_built(params, archive, files)
    head: dict[str, Any] = {"about": params["about"]}
    head["created"] = datetime.now(UTC).strftime(TIME)
    changed = present is None
    if changed and not module.check_mode:
        archive.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        require_free(archive.parent, total + MARGIN, "the bundle")
        fresh = archive.with_name(f".{archive.name}.new")
        try:
            write(fresh, Path(params["source"]), files, head)
            with fresh.open("rb") as stream:
                os.fsync(stream.fileno())
            fresh.replace(archive)
        finally:
            fresh.unlink(missing_ok=True)
        sync_directory(archive.parent)
        present = Archive(archive)
    result = {"bundle": present.head if present else head, "files": len(files), "bytes": total}
    return {"changed": changed, **result}


def when(archive: Archive) -> float:
    """Return when a bundle was made, in seconds since 1970.

    Raises:
        HostError: it does not say so.
    """
    try:
        made = datetime.strptime(archive.head["created"], TIME).replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(archive.path, f"it does not say when it was made ({error})") from error
    return made.timestamp()


class Filling:
    """The filling of a mirror's store from a bundle that is proved."""

    def __init__(self, archive: Archive, root: Path) -> None:
        """Decide for each file what shall become of it; nothing is changed yet.

        Raises:
            HostError: the archive is damaged.
        """
        self.archive, self.root = archive, root
        self.partial = root / ".unbundle.partial"
        self.created = when(archive)
        self.united: dict[str, bytes] = {}
        self.place: list[str] = []
        self.kept: list[str] = []
        lists = archive.verify(is_united)
        for name in archive.files:
            self.decide(name, lists.get(name))

    def decide(self, name: str, text: bytes | None) -> None:
        """Decide whether one file is placed, united with what is there, or left."""
        target, said = self.root / name, self.archive.files[name]
        if target.is_symlink() or not target.is_file():
            self.place.append(name)
        elif target.stat().st_size == said["size"] and sha256_of(target) == said["sha256"]:
            return
        elif text is not None:
            there = target.read_bytes()
            whole = unite(name, there, text, newer=target.stat().st_mtime > self.created)
            if whole != there:
                self.united[name] = whole
        elif target.stat().st_mtime > self.created:
            self.kept.append(name)
        else:
            self.place.append(name)

    @property
    def changes(self) -> list[str]:
        """The files that are added or replaced."""
        return sorted([*self.place, *self.united])

    def carry_out(self) -> None:
        """Unpack beside the store, prove again, and move in.

        Raises:
            HostError: too little disk, another run at work, or the archive changed meanwhile.
        """
        with held(self.root, f"filling {self.root}"):
            try:
                shutil.rmtree(self.partial, ignore_errors=True)
                need = sum(self.archive.files[name]["size"] for name in self.place)
                require_free(self.root, need + MARGIN, "the bundle's content")
                self.unpack()
                for name in self.changes:
                    self.move_in(name)
                sync_directory(self.root)
            finally:
                shutil.rmtree(self.partial, ignore_errors=True)

    def unpack(self) -> None:
        """Write what is placed below the partial directory, each file proved and flushed."""
        wanted = set(self.place)
        for name, stream in self.archive.members():
            if name not in wanted:
                continue
            path = self.partial / name
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with path.open("wb") as target:
                flaw = copy_proved(stream, target, self.archive.files[name])
                if flaw:
                    raise damaged(self.archive.path, f"{name}: {flaw}")
                target.flush()
                os.fsync(target.fileno())
            # The age of the bundle tells later ones whether they are newer.
            os.utime(path, (self.created, self.created))
        for name, text in self.united.items():
            path = self.partial / name
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.write_bytes(text)

    def move_in(self, name: str) -> None:
        """Give one file its place."""
        target = self.root / name
        if target.is_dir() and not target.is_symlink():
            raise HostError(f"{target} is a directory, and the bundle has a file there; look at it")
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.partial / name).replace(target)


def unpack(module: AnsibleModule) -> dict[str, Any]:
    """Have a bundle's content in a mirror's store."""
    if not module.params["root"]:
        raise HostError("root: must be given to unpack; name the mirror's directory")
    archive, root = Archive(Path(module.params["archive"])), Path(module.params["root"])
    filling = Filling(archive, root)
    if filling.changes and not module.check_mode:
        filling.carry_out()
    last, told_last = root / HEAD, as_json(archive.head).encode()
    new = not last.is_file() or last.read_bytes() != told_last
    if new and not module.check_mode:
        write_atomic(last, told_last, 0o644)
    for name in filling.kept:
        module.warn(f"{root / name} is newer than the bundle and stays as it is")
    return {
        "changed": bool(filling.changes) or new,
        "diff": {"before": "", "after": "".join(f"{name}\n" for name in filling.changes)},
        "placed": filling.changes,
        "kept": filling.kept,
        **told(archive),
    }


def told(archive: Archive) -> dict[str, Any]:
    """Return what the result says of a bundle."""
    head = archive.head
    return {"bundle": head, "files": head["files"], "bytes": head["bytes"]}


def verify(module: AnsibleModule) -> dict[str, Any]:
    """Prove an archive."""
    archive = Archive(Path(module.params["archive"]))
    archive.verify()
    return {"changed": False, **told(archive)}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["packed", "verified", "unpacked"],
                "default": "verified",
            },
            "source": {"type": "path"},
            "only": {"type": "list", "elements": "str", "default": []},
            "about": {"type": "dict", "default": {}},
            "root": {"type": "path"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    work = {"packed": pack, "verified": verify, "unpacked": unpack}[module.params["state"]]
    conclude(module, work, f"{module.params['archive']} could not be used")


if __name__ == "__main__":
    main()
