#!/usr/bin/python
"""What was carried out on a host, and whether it still is so."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: receipt
short_description: Record what was carried out on a host, or compare the host with the record
description:
  - With O(state=present), writes the receipt, with what is recorded of everything that the host has
    from us.
  - With O(state=check), compares the host with its receipt in one pass and lists the differences.
    It reads only.
  - With O(state=begun), notes what of O(managed) was on the host before us, so that a removal
    leaves it there. What has been noted once stays.
options:
  state:
    description: Whether to write the receipt, to compare with it, or to note what was here before.
    type: str
    choices: [begun, check, present]
    required: false
    default: check
  path:
    description: File of the receipt, 0600. The key that seals its secret files lies beside it.
    type: path
    required: false
    default: /var/lib/vllm/receipt.json
  before:
    description: File that says what was on the host before us, 0600; one for all receipts.
    type: path
    required: false
    default: /var/lib/vllm/before.json
  plan_digest:
    description: Digest of the plan that was, or is to be, carried out.
    type: str
    required: false
    default: ''
  content:
    description: What is kept of the plan (release, models, instances); never a secret.
    type: dict
    required: false
    default: {}
  managed:
    description:
      - Everything that the host gets from us, as the plan lists it. C(files) (each with path,
        secret), C(marks), C(links) (path, target), C(units), C(directories), C(trees) (path, kind),
        C(users), C(groups), C(memberships) (user, group), C(os_packages), C(absent) (patterns),
        C(switched_off) (path, target), C(lines) (kind, subject), C(services) (unit, socket,
        address, path, ready_timeout, inputs, trees), C(environments).
    type: dict
    required: false
    default: {}
  deep:
    description: Whether every byte of models and packages is read, with O(state=check).
    type: bool
    required: false
    default: false
  project_version:
    description: Version of the project that carries the plan out.
    type: str
    required: false
    default: ''
attributes:
  check_mode:
    support: full
    description: Says whether the receipt would change, and writes nothing.
  diff_mode:
    support: full
    description: Shows the receipt before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: What differs between the host and its receipt is known
  receipt:
    state: check
    plan_digest: "{{ vllm_plan.digest }}"
  register: host_receipt

- name: What was here before is noted
  receipt:
    state: begun
    managed: "{{ vllm_plan.managed }}"

- name: The receipt says what was carried out
  receipt:
    state: present
    plan_digest: "{{ vllm_plan.digest }}"
    content: "{{ vllm_plan.receipt }}"
    managed:
      files:
        - path: /etc/vllm/smollm2-135m.yaml
        - path: /etc/vllm/api_key
          secret: true
      links:
        - path: /opt/vllm/current
          target: /opt/vllm/releases/0.31.0-cpu-0123456789ab
      units: [vllm@smollm2-135m.service, nginx.service]
"""

RETURN = r"""
current:
  description: Whether the host is as the plan and its receipt say.
  returned: success
  type: bool
differences:
  description: What differs, each with kind, subject, expected and found.
  returned: success
  type: list
  elements: dict
restart:
  description:
    - Units that are ill, that run with what was changed by hand, or that run since before what they
      read was last written.
  returned: success
  type: list
  elements: str
receipt:
  description: The receipt, in the current format; null when there is none.
  returned: success
  type: dict
"""

import os
import pwd
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_drift import look
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import as_json, write_atomic
from ansible.module_utils.vllm_lines import SHELLS, start_files
from ansible.module_utils.vllm_receipt import (
    FORMAT,
    made_key,
    read_before,
    read_key,
    read_receipt,
    same,
    write_before,
)
from ansible.module_utils.vllm_records import (
    difference,
    file_record,
    link_differences,
    link_target,
    members,
    rights,
    user_record,
)
from ansible.module_utils.vllm_units import ENABLED, show

# Kinds of things, by what they are known.
PLACED = ("files", "links", "trees", "switched_off", "directories")
NAMED = ("users", "groups")
# What of the plan's list stands in the receipt as it is.
PLAIN = ("absent", "environments", "lines", "os_packages", "services")


def compare(params: dict[str, Any]) -> dict[str, Any]:
    """Return the receipt and all differences of the host from it and from the plan."""
    looked = look(Path(params["path"]), deep=params["deep"])
    found = looked.differences
    if looked.receipt and looked.receipt.get("plan_digest") != params["plan_digest"]:
        pair = (params["plan_digest"], looked.receipt.get("plan_digest"))
        found = [difference("plan", "digest", *pair), *found]
    return {"receipt": looked.receipt, "differences": found, "restart": looked.restart}


def places(managed: dict[str, Any]) -> dict[str, Any]:
    """Return the keys under which it is noted whether a thing was here, with what is there now."""
    found: dict[str, Any] = {}
    for kind in ("files", "links", "trees", "switched_off"):
        for one in managed.get(kind) or []:
            path = one["path"]
            found[path] = link_target(path) or os.path.lexists(path)
    for path in managed.get("directories") or []:
        found[path] = Path(path).is_dir()
    for one in managed.get("lines") or []:
        if one["kind"] == "conda":
            found.update({str(file): file.exists() for file in shells_of(one["subject"])})
    for name in managed.get("users") or []:
        found[f"user {name}"] = user_record(name) is not None
    for name in managed.get("groups") or []:
        found[f"group {name}"] = members(name) is not None
    for one in managed.get("memberships") or []:
        there = one["user"] in (members(one["group"]) or [])
        found[f"member {one['user']} {one['group']}"] = there
    for name, state in show(managed.get("units") or []).items():
        known = state.get("UnitFileState") or ""
        enabled, active = known in ENABLED, state.get("ActiveState") == "active"
        found[f"unit {name}"] = {"enabled": enabled, "active": active} if known else False
    return found


def shells_of(name: str) -> list[Path]:
    """Return the start files of a user; none when there is no such user."""
    try:
        return list(start_files(pwd.getpwnam(name), list(SHELLS)).values())
    except KeyError:
        return []


def begin(module: AnsibleModule) -> dict[str, Any]:
    """Note what was here before us, of what has not been noted yet."""
    params, before = module.params, Path(module.params["before"])
    there = read_before(before)
    receipt, aged = read_receipt(Path(params["path"]))
    new = {key: found for key, found in places(params["managed"]).items() if key not in there}
    # What stands in a receipt came from us, unless something else was noted then. The first format
    # did not list all of it, and nothing was noted.
    ours = set(new) if aged and receipt else set(places_of(receipt or {}))
    there.update({key: False if key in ours else found for key, found in new.items()})
    if new and not module.check_mode:
        write_before(before, there)
    return {
        "changed": False,
        "current": False,
        "differences": [],
        "restart": [],
        "receipt": receipt,
    }


def key_of(kind: str, one: Any) -> str:
    """Return the key under which it is noted whether a thing was here before us."""
    if kind == "memberships":
        return f"member {one['user']} {one['group']}"
    if kind == "units":
        return f"unit {one}"
    return f"{kind[:-1]} {one['name']}" if kind in NAMED else str(one["path"])


def places_of(receipt: dict[str, Any]) -> list[str]:
    """Return the keys of all that a receipt lists."""
    kinds = (*PLACED, *NAMED, "memberships", "units")
    return [key_of(kind, one) for kind in kinds for one in receipt.get(kind) or []]


def compose(params: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """Return the receipt that is to be written.

    Args:
        params: the module's options.
        strict: whether each file and link must be there (in check mode it need not be yet).

    Raises:
        HostError: naming all files and links that are missing or differ.
    """
    managed, path = params["managed"], Path(params["path"])
    files, links = managed.get("files") or [], managed.get("links") or []
    key = made_key(path) if strict else read_key(path)
    records = [(file["path"], file_record(file, key)) for file in files]
    wrong = [name for name, record in records if record is None]
    wrong += [item["subject"] for item in link_differences(links)]
    if wrong and strict:
        raise HostError(
            f"the receipt would not be true; not there as planned: {', '.join(wrong)}",
            missing=wrong,
        )
    receipt = {
        "format": FORMAT,
        "project_version": params["project_version"],
        "plan_digest": params["plan_digest"],
        "content": params["content"],
        "files": [record or {"path": name} for name, record in records],
        "links": links,
        "marks": [
            file_record({"path": one}, key) or {"path": one} for one in managed.get("marks") or []
        ],
        "units": managed.get("units") or [],
        "directories": [
            {"path": one, **(rights(Path(one)) or {})}
            for one in managed.get("directories") or []
            if Path(one).is_dir()
        ],
        "trees": managed.get("trees") or [],
        "users": [user_record(one) or {"name": one} for one in managed.get("users") or []],
        "groups": [{"name": one} for one in managed.get("groups") or []],
        "memberships": managed.get("memberships") or [],
        "switched_off": [
            one for one in managed.get("switched_off") or [] if link_target(one["path"]) is None
        ],
        **{kind: managed.get(kind) or [] for kind in PLAIN},
    }
    return {**receipt, "before": noted(params, receipt)}


def noted(params: dict[str, Any], receipt: dict[str, Any]) -> dict[str, Any]:
    """Return what was here before us of all that a receipt lists."""
    there = read_before(Path(params["before"]))
    keys = [*places_of(receipt), *lines_of(receipt.get("lines", []))]
    return {key: there[key] for key in keys if there.get(key)}


def lines_of(lines: list[dict[str, Any]]) -> list[str]:
    """Return the start files of all users whose shells know conda from us."""
    return [str(f) for one in lines if one["kind"] == "conda" for f in shells_of(one["subject"])]


def write(module: AnsibleModule) -> dict[str, Any]:
    """Write the receipt where it differs, and return the result."""
    path = Path(module.params["path"])
    receipt, aged = read_receipt(path)
    wanted = compose(module.params, strict=not module.check_mode)
    modes = path.exists() and stat.S_IMODE(path.stat().st_mode) == stat.S_IRUSR | stat.S_IWUSR
    changed = aged is not None or not same(receipt, wanted) or not modes
    if changed and not module.check_mode:
        write_atomic(path, as_json(wanted).encode(), 0o600)
    texts = {
        "before_header": str(path),
        "after_header": str(path),
        "before": as_json(receipt) if receipt else "",
        "after": as_json(wanted),
    }
    current = not (changed and module.check_mode)
    result: dict[str, Any] = {"changed": changed, "receipt": wanted, "diff": texts}
    return {**result, "current": current, "differences": [], "restart": []}


def work(module: AnsibleModule) -> dict[str, Any]:
    """Do what the state asks for."""
    if module.params["state"] == "present":
        return write(module)
    if module.params["state"] == "begun":
        return begin(module)
    found = compare(module.params)
    return {"changed": False, "current": not found["differences"], **found}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["begun", "check", "present"], "default": "check"},
            "path": {"type": "path", "default": "/var/lib/vllm/receipt.json"},
            "before": {"type": "path", "default": "/var/lib/vllm/before.json"},
            "plan_digest": {"type": "str", "default": ""},
            "content": {"type": "dict", "default": {}},
            "managed": {"type": "dict", "default": {}},
            "deep": {"type": "bool", "default": False},
            "project_version": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    conclude(module, work, module.params["path"])


if __name__ == "__main__":
    main()
