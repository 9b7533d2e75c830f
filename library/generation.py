#!/usr/bin/python
"""What a host was after its successful runs, to go back to."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: generation
short_description: Keep what a host was after a successful run, and bring it back
description:
  - A generation is the host's receipt with a copy of each file that it names, and the release
    that it ran. The copies may hold secrets, so all of it is for root alone.
  - A generation has its name only when it is whole; one that was interrupted is never used.
options:
  state:
    description:
      - V(listed) says what is kept. V(saved) keeps what the receipt is of.
      - V(restored) puts files and links of a generation back and says which instances are then to
        be started anew; V(used) then writes its receipt, when they have answered.
      - V(pruned) gives up the generations that are too many, and the releases that none names.
    type: str
    choices: [listed, saved, restored, used, pruned]
    required: false
    default: listed
  root:
    description: Directory of the generations.
    type: path
    required: false
    default: /var/lib/vllm/generations
  receipt:
    description: The receipt of what was carried out last.
    type: path
    required: false
    default: /var/lib/vllm/receipt.json
  name:
    description:
      - With O(state=restored) and O(state=used), the generation's name, the id of its release or
        that one's version of vLLM. Without one it is the generation that was in use before.
    type: str
    required: false
    default: ''
  again:
    description:
      - With O(state=saved), whether a generation of this name is brought up to date. A host is
        saved anew after a successful run, but not before a change, as it may have been altered.
    type: bool
    required: false
    default: true
  files:
    description: With O(state=restored), files that a run may have made and that go with it.
    type: list
    elements: path
    required: false
    default: []
  units:
    description: With O(state=restored), units that a run may have started and that go with it.
    type: list
    elements: str
    required: false
    default: []
  notes:
    description: Directory in which it is noted what each instance was started with.
    type: path
    required: false
    default: /var/lib/vllm
  releases:
    description: Directory of the releases.
    type: path
    required: false
    default: /opt/vllm/releases
  keep:
    description: With O(state=pruned), how many releases stay, the one in use included.
    type: int
    required: false
    default: 2
attributes:
  check_mode:
    support: full
    description: Says what would be done, and does none of it.
  diff_mode:
    support: full
    description: Shows the names of generations, files and releases before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: What this host serves is kept, to go back to
  generation:
    state: saved
    again: false
  register: host_kept

- name: The files and the release of the generation before are back
  generation:
    state: restored
  register: host_restored
"""

RETURN = r"""
current:
  description: Name of the generation that the receipt is of; empty when it is not kept.
  returned: success
  type: str
generation:
  description: The generation that was saved or restored, as in RV(generations); null for none.
  returned: success
  type: dict
generations:
  description: All that are kept, the last one in use first, each with its release and instances.
  returned: success
  type: list
  elements: dict
why:
  description: Why nothing could be saved; empty otherwise.
  returned: success
  type: str
written:
  description: The files that were, or would be, put back or removed.
  returned: with O(state=restored)
  type: list
  elements: str
instances:
  description: The generation's instances, each with what it is asked by and whether to restart it.
  returned: with O(state=restored)
  type: list
  elements: dict
surplus:
  description: Units that the generation does not have, to be stopped.
  returned: with O(state=restored)
  type: list
  elements: str
removed:
  description: The generations and releases that were, or would be, given up.
  returned: with O(state=pruned)
  type: list
  elements: str
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import locked, read_json_object, remove_tree, write_atomic
from ansible.module_utils.vllm_generations import (
    GOING,
    RECEIPT,
    Generation,
    Notes,
    Store,
    choose,
    described,
    name_of,
    running_from,
    same,
    stamped,
    to_keep,
)
from ansible.module_utils.vllm_placing import differs, place, take_away
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_release import COMPLETE, read_marker


class Host:
    """The host's generations, and its receipt as it is now."""

    def __init__(self, module: AnsibleModule) -> None:
        """Read the receipt; one that is not there or cannot be read is none."""
        self.params, self.check = module.params, module.check_mode
        self.store, self.notes = Store(Path(self.params["root"])), Notes(Path(self.params["notes"]))
        self.path = Path(self.params["receipt"])
        try:
            self.receipt = read_json_object(self.path) or {}
        except (OSError, ValueError):
            self.receipt = {}

    @property
    def current(self) -> str:
        """Name of the generation in use; empty when it is not kept."""
        name = name_of(self.receipt)
        return name if name and self.store.find(name) else ""

    def result(self, one: Generation | None = None, **more: Any) -> dict[str, Any]:
        """Return what every state tells."""
        return {
            "changed": False,
            "current": self.current,
            "generation": one.shown() if one else None,
            "generations": [other.shown() for other in self.store.kept()],
            "why": "",
            **more,
        }

    def listed(self) -> dict[str, Any]:
        """Say what is kept."""
        return self.result()

    def saved(self) -> dict[str, Any]:
        """Keep what the receipt is of."""
        name = name_of(self.receipt)
        if not name:
            return self.result(why=f"{self.path} is no receipt of what was carried out")
        before = self.store.find(name)
        if before and not self.params["again"]:
            return self.result(before)
        try:
            about, files = described(self.receipt, self.notes)
        except HostError as error:
            return self.result(why=error.message)
        changed = before is None or not same(before, about)
        if changed and not self.check:
            self.store.save(self.path.read_bytes(), stamped(about), files)
        elif before and not self.check:
            self.store.mark_used(before)
        return self.result(self.store.find(name), changed=changed)

    def chosen(self) -> Generation:
        """Return the generation that is meant.

        Raises:
            HostError: there is none.
        """
        return choose(self.store.kept(), self.current, self.params["name"])

    def restored(self) -> dict[str, Any]:
        """Put a generation's files and links back.

        Raises:
            HostError: it is not kept, damaged, or its release or a model of it is gone.
        """
        one = self.chosen()
        require_whole(one)
        changing = [file for file in one.files() if differs(file)]
        ours = {item["path"] for item in self.receipt.get("files") or []}
        ours |= set(self.params["files"])
        going = sorted(path for path in ours - one.paths if os.path.lexists(path))
        links = [item for item in one.about["links"] if target_of(item["path"]) != item["target"]]
        written = sorted([*(file.path for file in changing), *going])
        instances = [
            {
                **instance,
                "restart": self.altered(one, instance, written)
                or runs_another(instance["unit"], one.release_path, otherwise=bool(links)),
            }
            for instance in one.about["instances"]
        ]
        if not self.check:
            # From here on until they have answered, whoever comes next starts them anew.
            for instance in (each for each in instances if each["restart"]):
                self.notes.withdraw(instance["name"])
            place(changing)
            take_away(going)
            for item in links:
                point(Path(item["path"]), item["target"])
        units = {*(self.receipt.get("units") or []), *self.params["units"]}
        return self.result(
            one,
            changed=bool(written or links or any(each["restart"] for each in instances)),
            written=written,
            instances=instances,
            surplus=sorted(units - set(one.about["units"])),
            diff=shown_diff([*written, *(item["path"] for item in links)]),
        )

    def altered(self, one: Generation, instance: dict[str, Any], written: list[str]) -> bool:
        """Return whether an instance may run with something else than the generation's files."""
        name = instance["name"]
        noted = self.notes.read(name)
        if noted is None or noted != one.about["notes"].get(name):
            return True
        own = (f"/{name}.", f"vllm@{name}.service", "vllm@.service")
        return any(word in path for path in written for word in own)

    def used(self) -> dict[str, Any]:
        """Write the receipt of the generation that is in use again, and what its instances run."""
        one = self.chosen()
        receipt = (one.path / RECEIPT).read_bytes()
        notes = {name: text for name, text in one.about["notes"].items() if text is not None}
        stale = [name for name, text in notes.items() if self.notes.read(name) != text]
        other = not self.path.is_file() or self.path.read_bytes() != receipt
        if not self.check:
            for name in stale:
                self.notes.write(name, notes[name])
            if other:
                write_atomic(self.path, receipt, 0o600)
            self.store.mark_used(one)
        return self.result(one, changed=bool(stale or other), current=one.name)

    def pruned(self) -> dict[str, Any]:
        """Give up what is too much."""
        kept = self.store.kept()
        stay = to_keep(kept, self.current, self.params["keep"])
        gone = [one for one in kept if one.name not in stay]
        paths = {one.release_path for one in kept if one.name in stay}
        paths |= {str(item.get("target")) for item in self.receipt.get("links") or []}
        root = Path(self.params["releases"])
        releases = surplus_releases(root, paths)
        if not self.check:
            for one in gone:
                self.store.remove(one)
            self.store.tidy()
            releases = remove_releases(root, releases)
        removed = [*(str(one.path) for one in gone), *map(str, releases)]
        return self.result(changed=bool(removed), removed=removed, diff=shown_diff(removed))


def require_whole(one: Generation) -> None:
    """Refuse a generation whose release or models are not there as they were.

    Raises:
        HostError: they are gone, or the release was not completed.
    """
    path = one.release_path
    gone = [model for model in one.about.get("models") or [] if not Path(model).is_dir()]
    if gone:
        raise HostError(
            f"generation {one.name} served {', '.join(gone)}, which is no longer there;"
            " take another one, or run site.yml with the inventory of that time"
        )
    if path and (read_marker(Path(path)) or {}).get("stage") != COMPLETE:
        raise HostError(
            f"generation {one.name} ran the release {path}, which is no longer there whole;"
            " take another one, or run site.yml with the inventory of that time"
        )


def runs_another(unit: str, release: str, *, otherwise: bool) -> bool:
    """Return whether a unit runs from another release; `otherwise` where that is not known."""
    try:
        result = run(["systemctl", "show", "--property=MainPID", "--value", unit], timeout=30)
        program = Path(f"/proc/{int(result.output)}/exe").readlink()
    except (HostError, ValueError, OSError):
        return otherwise
    return not str(program).startswith(f"{release}/")


def target_of(path: str) -> str | None:
    """Return where a link points; None when there is no link."""
    return str(Path(path).readlink()) if Path(path).is_symlink() else None


def point(path: Path, target: str) -> None:
    """Have a link point elsewhere, with no moment in which it does not point anywhere.

    Raises:
        HostError: something else than a link has its name.
    """
    if path.exists() and not path.is_symlink():
        raise HostError(f"{path} is no link; look at it by hand")
    fresh = path.with_name(f".{path.name}{GOING}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)


def surplus_releases(root: Path, stay: set[str]) -> list[Path]:
    """Return the releases that nothing names and no process runs from."""
    found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    surplus = [path for path in found if not path.is_symlink() and str(path) not in stay]
    busy = running_from(surplus)
    return [path for path in surplus if path not in busy]


def remove_releases(root: Path, releases: list[Path]) -> list[Path]:
    """Remove releases, each without its name first; return which, none while one is being made."""
    if not releases:
        return []
    with locked(root) as alone:
        if alone is None:
            return []
        for path in releases:
            going = path
            if path.suffix != GOING:
                going = path.with_name(f".{path.name}{GOING}")
                path.rename(going)
            remove_tree(going, root)
    return releases


def shown_diff(gone: list[str]) -> dict[str, str]:
    """Return what the task's diff shows."""
    return {"before": "".join(f"{path}\n" for path in gone), "after": ""}


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Do what is asked for and return the result."""
    host = Host(module)
    result: dict[str, Any] = getattr(host, module.params["state"])()
    return result


def main() -> None:
    """Run as an Ansible module."""
    states = ["listed", "saved", "restored", "used", "pruned"]
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": states, "default": "listed"},
            "root": {"type": "path", "default": "/var/lib/vllm/generations"},
            "receipt": {"type": "path", "default": "/var/lib/vllm/receipt.json"},
            "name": {"type": "str", "default": ""},
            "again": {"type": "bool", "default": True},
            "files": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "notes": {"type": "path", "default": "/var/lib/vllm"},
            "releases": {"type": "path", "default": "/opt/vllm/releases"},
            "keep": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, f"the generations below {module.params['root']} cannot be had")


if __name__ == "__main__":
    main()
