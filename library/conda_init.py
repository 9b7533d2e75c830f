#!/usr/bin/python
"""Shells of users that know conda."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: conda_init
short_description: Make conda known to the shells of users
description:
  - Runs C(conda init) as each user whose start files do not name this installation yet. conda
    writes its block, so that what a person does later with C(conda init) finds it.
  - All users are looked at before the first one's files are changed.
options:
  users:
    description: Names of the users.
    type: list
    elements: str
    required: true
  conda:
    description: The conda program.
    type: path
    required: false
    default: /opt/miniconda3/bin/conda
  shells:
    description: The shells whose start files (C(~/.bashrc), C(~/.zshrc)) are written.
    type: list
    elements: str
    choices: [bash, zsh]
    required: false
    default: [bash, zsh]
  timeout:
    description: Seconds that C(conda init) may take for one user.
    type: int
    required: false
    default: 120
attributes:
  check_mode:
    support: full
    description: Says which users' shells would be changed, and changes none.
  diff_mode:
    support: full
    description: Shows which start files have the block, before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: Conda is known to the shells of its users
  conda_init:
    users: [alice]
"""

RETURN = r"""
files:
  description: The start files that were (or would be) written.
  returned: success
  type: list
  elements: str
"""

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_lines import is_known, start_files


def find_users(names: list[str]) -> list[pwd.struct_passwd]:
    """Return the users' entries.

    Raises:
        HostError: some do not exist here, or have no home.
    """
    found, missing = [], []
    for name in dict.fromkeys(names):
        try:
            found.append(pwd.getpwnam(name))
        except KeyError:
            missing.append(f"{name} (no such user)")
            continue
        if not Path(found[-1].pw_dir).is_dir():
            missing.append(f"{name} (no home {found[-1].pw_dir})")
    if missing:
        raise HostError(
            f"users: {', '.join(missing)}; make them on this host, or take them off the list"
        )
    return found


def initialize(params: dict[str, Any], user: pwd.struct_passwd, shells: list[str]) -> None:
    """Run conda as the user, who then owns what it writes.

    Raises:
        HostError: conda failed, or did not write what it should.
    """
    environment = {
        "HOME": user.pw_dir,
        "LOGNAME": user.pw_name,
        "USER": user.pw_name,
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups, "umask": 0o022}
    try:
        done = subprocess.run(
            [params["conda"], "init", *shells],
            env=environment,
            cwd=user.pw_dir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=params["timeout"],
            check=False,
            **who,
        )
    except FileNotFoundError as error:
        raise HostError(f"{params['conda']} is not there; install Miniconda first") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(
            f"conda init did not end within {params['timeout']} s as user {user.pw_name}"
        ) from error
    program = Path(params["conda"])
    left = [f for f in start_files(user, shells).values() if not is_known(f, program)]
    if done.returncode or left:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise HostError(
            f"conda init as user {user.pw_name} ended with status {done.returncode} and left"
            f" {', '.join(map(str, left)) or 'no file'} without its block. It said:\n{said}"
        )


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the shells to their state and return the result."""
    params, program = module.params, Path(module.params["conda"])
    todo: list[tuple[pwd.struct_passwd, list[str]]] = []
    before, files = "", []
    for user in find_users(params["users"]):
        places = start_files(user, params["shells"])
        new = [shell for shell, path in places.items() if not is_known(path, program)]
        files += [str(places[shell]) for shell in new]
        before += "".join(f"{f}: {'no ' if s in new else ''}conda\n" for s, f in places.items())
        if new:
            todo.append((user, new))
    if not module.check_mode:
        for user, shells in todo:
            initialize(params, user, shells)
    after = before.replace(": no conda\n", ": conda\n")
    return {"changed": bool(todo), "files": files, "diff": {"before": before, "after": after}}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "str", "required": True},
            "conda": {"type": "path", "default": "/opt/miniconda3/bin/conda"},
            "shells": {
                "type": "list",
                "elements": "str",
                "choices": ["bash", "zsh"],
                "default": ["bash", "zsh"],
            },
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, "the users' shells could not be initialized")


if __name__ == "__main__":
    main()
