#!/usr/bin/python
"""What was carried out on a host, and whether it still is so."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: receipt
short_description: Record what was carried out on a host, or compare the host with the record
description:
  - With O(state=present), writes the receipt, with checksum, mode and owner of each managed file.
  - With O(state=check), compares the host with its receipt in one pass and lists the differences.
    It reads only.
options:
  state:
    description: Whether to write the receipt or to compare with it.
    type: str
    choices: [check, present]
    required: false
    default: check
  path:
    description: File of the receipt, 0600.
    type: path
    required: false
    default: /var/lib/vllm/receipt.json
  plan_digest:
    description: Digest of the plan that was, or is to be, carried out.
    type: str
    required: true
  content:
    description: What is kept of the plan (release, models, instances); never a secret.
    type: dict
    required: false
    default: {}
  files:
    description: Files that the roles manage; recorded with O(state=present).
    type: list
    elements: dict
    required: false
    default: []
    suboptions:
      path:
        description: The file.
        type: path
        required: true
      secret:
        description: Whether its checksum is left out, since it would tell about the secret.
        type: bool
        default: false
  links:
    description: Symbolic links that the roles manage; recorded with O(state=present).
    type: list
    elements: dict
    required: false
    default: []
    suboptions:
      path:
        description: The link.
        type: path
        required: true
      target:
        description: Where it points.
        type: str
        required: true
  units:
    description: Units that must be enabled and active; recorded with O(state=present).
    type: list
    elements: str
    required: false
    default: []
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

- name: The receipt says what was carried out
  receipt:
    state: present
    plan_digest: "{{ vllm_plan.digest }}"
    content: "{{ vllm_plan.receipt }}"
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
receipt:
  description: The receipt; null when there is none.
  returned: success
  type: dict
"""

import grp
import pwd
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import as_json, read_json_object, sha256_of, write_atomic
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_release import COMPLETE, read_marker

FORMAT = 1
# What "enabled" comes to for units without an [Install] section and for generated ones.
ENABLED = ("enabled", "alias", "generated", "indirect", "static")


def difference(kind: str, subject: str, expected: Any, found: Any) -> dict[str, Any]:
    """Return one difference between the host and what is expected of it."""
    return {"kind": kind, "subject": subject, "expected": expected, "found": found}


def owner_name(number: int) -> str:
    """Return a user's name, or the number when it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    """Return a group's name, or the number when it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def file_record(path: str, *, secret: bool) -> dict[str, Any] | None:
    """Return what is recorded of a file; None when it is no regular file."""
    try:
        status = Path(path).lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    record: dict[str, Any] = {
        "path": path,
        "secret": secret,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": owner_name(status.st_uid),
        "group": group_name(status.st_gid),
    }
    if not secret:
        record["sha256"] = sha256_of(Path(path))
    return record


def link_target(path: str) -> str | None:
    """Return where a link points; None when there is no link."""
    entry = Path(path)
    return str(entry.readlink()) if entry.is_symlink() else None


def file_differences(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how the files differ from their records."""
    found: list[dict[str, Any]] = []
    for wanted in files:
        path = wanted["path"]
        record = file_record(path, secret=wanted["secret"])
        if record is None:
            found.append(difference("file", path, "a regular file", "none"))
            continue
        keys = [key for key in ("sha256", "mode", "owner", "group") if key in wanted]
        unequal = [key for key in keys if record.get(key) != wanted[key]]
        found += [difference(f"file {key}", path, wanted[key], record[key]) for key in unequal]
    return found


def link_differences(links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how the links differ from their records."""
    pairs = [(wanted, link_target(wanted["path"])) for wanted in links]
    return [
        difference("link", wanted["path"], wanted["target"], target or "no link")
        for wanted, target in pairs
        if target != wanted["target"]
    ]


def unit_differences(units: list[str]) -> list[dict[str, Any]]:
    """Return which units are not enabled and active, by one call for all of them.

    Raises:
        HostError: systemd does not answer.
    """
    if not units:
        return []
    argv = ["systemctl", "show", "--property=ActiveState,UnitFileState", "--", *units]
    result = run(argv, timeout=60)
    blocks = result.output.strip().split("\n\n")
    if result.status != 0 or len(blocks) != len(units):
        raise HostError(f"systemd does not tell about {', '.join(units)}: {result.tail(5)}")
    found: list[dict[str, Any]] = []
    for unit, block in zip(units, blocks):  # noqa: B905 - `strict` is newer than the hosts' Python
        state = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if state.get("ActiveState") != "active":
            found.append(difference("unit", unit, "active", state.get("ActiveState")))
        if state.get("UnitFileState") not in ENABLED:
            enabled = state.get("UnitFileState") or "not there"
            found.append(difference("unit", unit, "enabled", enabled))
    return found


def model_differences(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return which files of the models have another size than their manifests say."""
    found: list[dict[str, Any]] = []
    for path in (Path(model["path"]) for model in models if model.get("path")):
        try:
            manifest = read_json_object(path.with_name(f"{path.name}.json")) or {}
        except (ValueError, OSError):
            manifest = {}
        if not manifest.get("files"):
            found.append(difference("model", str(path), "a manifest beside it", "none"))
            continue
        for name, wanted in manifest["files"].items():
            entry = path / name
            size = entry.lstat().st_size if entry.is_file() else None
            if size != wanted["size"]:
                bytes_found = "no file" if size is None else f"{size} bytes"
                expected = f"{wanted['size']} bytes"
                found.append(difference("model", str(entry), expected, bytes_found))
    return found


def release_differences(release: dict[str, Any]) -> list[dict[str, Any]]:
    """Return whether the release is not there or was not completed."""
    path = release.get("path")
    if not path:
        return []
    stage = (read_marker(Path(path)) or {}).get("stage", "no marker")
    return [] if stage == COMPLETE else [difference("release", path, COMPLETE, stage)]


def read_receipt(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the receipt, or the difference that stands for there being none.

    Raises:
        HostError: a newer version of the project wrote it.
    """
    try:
        content = read_json_object(path)
    except (ValueError, OSError) as error:
        return None, difference("receipt", str(path), "a readable receipt", f"corrupt: {error}")
    if content is None:
        return None, difference("receipt", str(path), "a receipt", "none")
    found = content.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise HostError(
            f"{path} has format {found}, and this version of the project knows formats up to"
            f" {FORMAT}; use the version that wrote it"
            f" ({content.get('project_version') or 'a newer one'}), or move the file away",
            format=found,
        )
    if found != FORMAT:
        wrong = f"corrupt: format {found!r}"
        return None, difference("receipt", str(path), f"format {FORMAT}", wrong)
    return content, None


def compare(params: dict[str, Any]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the receipt and all differences of the host from it and from the plan."""
    receipt, absent = read_receipt(Path(params["path"]))
    if receipt is None:
        return None, [absent] if absent else []
    found: list[dict[str, Any]] = []
    if receipt.get("plan_digest") != params["plan_digest"]:
        pair = (params["plan_digest"], receipt.get("plan_digest"))
        found.append(difference("plan", "digest", *pair))
    content = receipt.get("content", {})
    found += file_differences(receipt.get("files", []))
    found += link_differences(receipt.get("links", []))
    found += release_differences(content.get("release") or {})
    found += model_differences(content.get("models") or [])
    found += unit_differences(receipt.get("units", []))
    return receipt, found


def compose(params: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """Return the receipt that is to be written.

    Args:
        params: the module's options.
        strict: whether each file and link must be there (in check mode it need not be yet).

    Raises:
        HostError: naming all files and links that are missing or differ.
    """
    records = [(file["path"], file_record(**file)) for file in params["files"]]
    wrong = [path for path, record in records if record is None]
    wrong += [item["subject"] for item in link_differences(params["links"])]
    if wrong and strict:
        raise HostError(
            f"the receipt would not be true; not there as planned: {', '.join(wrong)}",
            missing=wrong,
        )
    return {
        "format": FORMAT,
        "project_version": params["project_version"],
        "plan_digest": params["plan_digest"],
        "content": params["content"],
        "files": [record or {"path": path} for path, record in records],
        "links": params["links"],
        "units": params["units"],
    }


def write(module: AnsibleModule) -> dict[str, Any]:
    """Write the receipt where it differs, and return the result."""
    path = Path(module.params["path"])
    receipt, _ = read_receipt(path)
    wanted = compose(module.params, strict=not module.check_mode)
    modes = path.exists() and stat.S_IMODE(path.stat().st_mode) == stat.S_IRUSR | stat.S_IWUSR
    changed = receipt != wanted or not modes
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
    return {**result, "current": current, "differences": []}


def main() -> None:
    """Run as an Ansible module."""
    file = {
        "path": {"type": "path", "required": True},
        "secret": {"type": "bool", "default": False, "no_log": False},
    }
    link = {
        "path": {"type": "path", "required": True},
        "target": {"type": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["check", "present"], "default": "check"},
            "path": {"type": "path", "default": "/var/lib/vllm/receipt.json"},
            "plan_digest": {"type": "str", "required": True},
            "content": {"type": "dict", "default": {}},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file},
            "links": {"type": "list", "elements": "dict", "default": [], "options": link},
            "units": {"type": "list", "elements": "str", "default": []},
            "project_version": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        if module.params["state"] == "present":
            module.exit_json(**write(module))
        receipt, found = compare(module.params)
    except HostError as error:
        module.fail_json(msg=error.message, **error.details)
    except OSError as error:
        module.fail_json(msg=f"{module.params['path']}: {error}")
    module.exit_json(changed=False, current=not found, differences=found, receipt=receipt)


if __name__ == "__main__":
    main()
