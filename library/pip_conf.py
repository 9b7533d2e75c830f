#!/usr/bin/python
"""Options of pip for all users, beside those that somebody else has set."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pip_conf
short_description: Set options in pip's configuration for all users, and leave the others alone
description:
  - Each option that is set here has a comment before it that says so. An option that was set here
    once and is not listed any more is removed; lines of other people stay as they are.
  - A file that somebody else wrote is copied beside itself, once, before its first change. An
    option of theirs that is set here is replaced.
options:
  options:
    description: The options, by section, such as C({"global":{"index-url":"..."}}). Empty to undo.
    type: dict
    required: true
  path:
    description: The file. A link is followed.
    type: path
    required: false
    default: /etc/pip.conf
attributes:
  check_mode:
    support: full
    description: Says whether the file would change, and writes nothing.
  diff_mode:
    support: full
    description: Shows the options that are set here, before and after; users and passwords hidden.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: Pip asks the mirror
  pip_conf:
    options:
      global:
        index-url: https://mirrors.tuna.tsinghua.edu.cn/pypi/web/simple
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
backup:
  description: The copy of the file as it was before us; null when there was none.
  returned: success
  type: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import write_atomic
from ansible.module_utils.vllm_pip import (
    MODE,
    SUFFIX,
    holds,
    merge,
    ours,
    parse,
    shown,
    tidy,
    wanted_options,
)


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the file to its state and return the result."""
    wanted = wanted_options(module.params["options"])
    path = Path(module.params["path"]).resolve()
    before = path.read_text("utf-8") if path.is_file() else ""
    now, mine = parse(before, path), ours(before)
    # What is ours and right needs no new text: the order of the file stays.
    right = mine == wanted and holds(now, wanted)
    after = before if right else tidy(merge(before, wanted), wanted)
    found = parse(after, path)
    if not holds(found, wanted):
        raise HostError(f"{path} could not be edited: look at {', '.join(wanted)} in it by hand")
    backup = path.with_name(f"{path.name}{SUFFIX}")
    foreign = bool(before) and not mine and not backup.exists()
    changed = after != before
    if changed and not module.check_mode:
        mode = path.stat().st_mode & 0o777 if path.is_file() else MODE
        if foreign:
            write_atomic(backup, before.encode(), mode)
        if after:
            write_atomic(path, after.encode(), mode)
        else:
            path.unlink()
    seen = {name: {**mine.get(name, {}), **wanted.get(name, {})} for name in {*mine, *wanted}}
    return {
        "changed": changed,
        "path": str(path),
        "backup": str(backup) if backup.exists() else None,
        "diff": {
            "before_header": str(path),
            "after_header": str(path),
            "before": shown(now, seen),
            "after": shown(found, seen),
        },
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "options": {"type": "dict", "required": True},
            "path": {"type": "path", "default": "/etc/pip.conf"},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, f"{module.params['path']} cannot be written")


if __name__ == "__main__":
    main()
