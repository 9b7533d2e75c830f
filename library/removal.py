#!/usr/bin/python
"""A host without what its receipt lists."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: removal
short_description: Remove from a host everything that a receipt lists, and nothing else
description:
  - Stops and disables our units; removes files, links, releases, caches, users, groups and
    memberships; takes our lines out of others' files; puts back what was switched off.
  - What was here before us stays, what another receipt of the host lists stays, and a directory in
    which somebody has put something stays with it. Of all that stays it is told why.
  - Models stay unless O(models). Packages of the operating system stay.
  - nginx goes on where it serves others or ran before us.
  - It can be interrupted and run again; the receipt goes last. Without a receipt it does nothing.
options:
  receipt:
    description: File of the receipt.
    type: path
    required: true
  others:
    description: Files of the other receipts that the host may have; what they list stays.
    type: list
    elements: path
    required: false
    default: []
  before:
    description: File that says what was on the host before us; it goes with the last receipt.
    type: path
    required: false
    default: /var/lib/vllm/before.json
  models:
    description: Whether models go too, and what was carried to a mirror host.
    type: bool
    required: false
    default: false
attributes:
  check_mode:
    support: full
    description: Says what would be removed and what would stay, and touches nothing.
  diff_mode:
    support: full
    description: Lists what is there before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The host has nothing of the server any more
  removal:
    receipt: /var/lib/vllm/receipt.json
    others: [/var/lib/vllm/webui.json]
"""

RETURN = r"""
removed:
  description: What was (or would be) removed or given back.
  returned: success
  type: list
  elements: str
kept:
  description: What stays though it stands in the receipt, each with what and why.
  returned: success
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_receipt import read_receipt
from ansible.module_utils.vllm_removal import Removal


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Remove everything and return the result.

    Raises:
        HostError: the receipt cannot be read, or something cannot be removed.
    """
    receipt, why = read_receipt(Path(module.params["receipt"]))
    if receipt is None:
        if why and why["found"] != "none":
            raise HostError(
                f"{why['subject']} is {why['found']}: it does not say what is ours, so nothing was"
                " removed; site.yml writes it anew"
            )
        return {"changed": False, "removed": [], "kept": []}
    removal = Removal(module.params, receipt, check=module.check_mode)
    removal.carry_out()
    before = "".join(f"{one}\n" for one in removal.removed)
    return {
        "changed": bool(removal.removed),
        "removed": removal.removed,
        "kept": removal.kept,
        "diff": {"before": before, "after": ""},
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "receipt": {"type": "path", "required": True},
            "others": {"type": "list", "elements": "path", "default": []},
            "before": {"type": "path", "default": "/var/lib/vllm/before.json"},
            "models": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, "the removal stopped; run it again")


if __name__ == "__main__":
    main()
