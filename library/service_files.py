#!/usr/bin/python
"""The files of a service, which change together or not at all."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: service_files
short_description: Put a service's files in place together
description:
  - Writes all files that differ beside their places first, so that a full disk or a missing owner
    is found before anything is replaced, and then renames them. Directories are made as needed.
  - Removes the files that must not be there, with the directories of drop-ins (C(*.d)) that
    nothing is left in.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: false
    default: []
    suboptions:
      path:
        description: The file.
        type: path
        required: true
      content:
        description: What it says.
        type: str
      secret:
        description: What it says, where nobody but its owner may read it. Neither logged nor shown.
        type: str
      owner:
        description: Its owner.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: root
      mode:
        description: Its permission bits, as C("0644").
        type: str
        required: true
  absent:
    description: Files that must not be there.
    type: list
    elements: path
    required: false
    default: []
attributes:
  check_mode:
    support: full
    description: Says which files would be written and removed, and changes none.
  diff_mode:
    support: full
    description: Shows each file before and after; of a secret one only that it changes.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The instance's files are in place
  service_files:
    files:
      - {path: /etc/vllm/chat.yaml, content: "model: /srv/models/chat", group: vllm, mode: "0640"}
      - {path: /etc/vllm/chat.env, secret: "HF_TOKEN=x", mode: "0600"}
    absent: [/etc/systemd/system/vllm@chat.service.d/vllm.conf]
"""

RETURN = r"""
written:
  description: The files that were, or would be, written.
  returned: success
  type: list
  elements: str
removed:
  description: The files that were, or would be, removed.
  returned: success
  type: list
  elements: str
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_placing import Placed, differs, place, take_away

HIDDEN = "(what it says is not shown)\n"


def wanted(option: dict[str, Any]) -> Placed:
    """Return a file as an option describes it.

    Raises:
        HostError: its mode is no octal number, or it has no content.
    """
    text = option["content"] if option["secret"] is None else option["secret"]
    if text is None:
        raise HostError(f"{option['path']} has neither content nor secret; give one of them")
    try:
        mode = int(option["mode"], 8)
    except ValueError:
        raise HostError(f"mode of {option['path']}: {option['mode']!r} is not octal") from None
    return Placed(option["path"], text.encode(), mode, option["owner"], option["group"])


def shown(path: str) -> str:
    """Return what a file says now; nothing when it is not there."""
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return ""


def difference(option: dict[str, Any]) -> dict[str, str]:
    """Return what the task's diff shows of a file that changes."""
    path, secret = option["path"], option["secret"] is not None
    before, after = (HIDDEN, HIDDEN) if secret else (shown(path), option["content"])
    return {"before_header": path, "after_header": path, "before": before, "after": after}


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Put the files in place and return the result."""
    options = module.params["files"]
    pairs = [(option, wanted(option)) for option in options]
    changing = [(option, file) for option, file in pairs if differs(file)]
    going = [path for path in module.params["absent"] if os.path.lexists(path)]
    texts = [difference(option) for option, _ in changing]
    texts += [{"before_header": path, "before": "a file\n", "after": ""} for path in going]
    if not module.check_mode:
        place([file for _, file in changing])
        take_away(going)
    return {
        "changed": bool(changing or going),
        "written": [file.path for _, file in changing],
        "removed": going,
        "diff": texts,
    }


def main() -> None:
    """Run as an Ansible module."""
    file = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "secret": {"type": "str", "no_log": True},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "default": [], "options": file},
            "absent": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, "the files cannot be put in place")


if __name__ == "__main__":
    main()
