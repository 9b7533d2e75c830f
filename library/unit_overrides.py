#!/usr/bin/python
"""Units of ours that nobody else configures."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: unit_overrides
short_description: Move away what somebody has put before or beside the files of a unit
description:
  - A drop-in that is not in O(files), a unit file that stands before the one in O(files), and a
    mask are moved below O(set_aside), where nothing reads them and nobody loses them. systemd then
    reads its files anew.
  - What the distribution brings, and drop-ins for all services, stay.
options:
  units:
    description: The units.
    type: list
    elements: str
    required: true
  files:
    description: Unit files and drop-ins that are ours.
    type: list
    elements: str
    required: true
  set_aside:
    description: Directory for what is moved, 0700; the time and the old path are part of its name.
    type: path
    required: false
    default: /var/lib/vllm/set-aside
attributes:
  check_mode:
    support: full
    description: Says what would be moved, and moves nothing.
  diff_mode:
    support: full
    description: Lists the files before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: Nobody else configures the instances' units
  unit_overrides:
    units: [vllm@chat.service]
    files: [/etc/systemd/system/vllm@.service, /etc/systemd/system/vllm@chat.service.d/vllm.conf]
"""

RETURN = r"""
moved:
  description: What was (or would be) moved, each with from and to.
  returned: success
  type: list
  elements: dict
"""

import contextlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_set_aside import place_for, set_aside
from ansible.module_utils.vllm_units import foreign_drop_ins, foreign_fragment, show


def overrides(units: list[str], ours: set[str]) -> list[str]:
    """Return the paths that configure units of ours and are not ours."""
    found: list[str] = []
    for unit, state in show(units).items():
        found += foreign_drop_ins(unit, state, ours)
        other = foreign_fragment(state, ours)
        found += [other] if other else []
    return sorted(set(found))


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Move what is not ours, and return the result.

    Raises:
        HostError: systemd does not answer, or still reads something else than our files.
    """
    params = module.params
    found = overrides(params["units"], set(params["files"]))
    root = Path(params["set_aside"])
    moved = [{"from": path, "to": str(place_for(Path(path), root))} for path in found]
    if found and not module.check_mode:
        for path in map(Path, found):
            set_aside(path, root)
            # A directory of drop-ins that nobody needs any more.
            if path.parent.name.endswith(".d"):
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
        result = run(["systemctl", "daemon-reload"], timeout=90)
        left = overrides(params["units"], set(params["files"]))
        if result.status or left:
            raise HostError(
                f"{', '.join(left or found)}: moved below {root}, and systemd still reads it:"
                f" {result.tail(5)}"
            )
    before = "".join(f"{path}\n" for path in found)
    return {"changed": bool(found), "moved": moved, "diff": {"before": before, "after": ""}}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "required": True},
            "files": {"type": "list", "elements": "str", "required": True},
            "set_aside": {"type": "path", "default": "/var/lib/vllm/set-aside"},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, "the units' files could not be put right")


if __name__ == "__main__":
    main()
