#!/usr/bin/python
"""The C++ compiler that is new enough, found by asking."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cxx_compiler
short_description: Find a g++ that is new enough, or say which one conda gives
description:
  - Asks each compiler on the system for its version and takes the first that is new enough.
  - With O(compiler=auto) and none of the system's new enough, conda-forge's is the answer; its
    packages then belong into the build's environment.
options:
  compiler:
    description:
      - V(system) takes one of the system's or fails, V(conda) takes conda-forge's without looking,
        V(auto) looks first.
    type: str
    choices: [auto, system, conda]
    required: false
    default: auto
  floor:
    description: The oldest version that will do.
    type: str
    required: false
    default: "12.3"
  candidates:
    description: Programs that are asked, in this order.
    type: list
    elements: str
    required: false
    default: [g++-12, g++-13, g++-14, g++]
  packages:
    description:
      - conda-forge's packages that hold its compiler. C({platform}) stands for this host's, such as
        linux-64.
    type: list
    elements: str
    required: false
    default: []
  prefix:
    description: Environment in which conda-forge's compiler is or will be.
    type: path
    required: false
    default: /opt/miniconda3
attributes:
  check_mode:
    support: full
    description:
      - Changes nothing in either mode. Where nothing is installed yet, V(auto) answers system.
  diff_mode:
    support: none
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The compiler is known
  cxx_compiler:
    compiler: auto
    floor: "12.3"
"""

RETURN = r"""
kind:
  description: Whose compiler it is, C(system) or C(conda).
  returned: success
  type: str
version:
  description: Its version; null for conda's, which may not be installed yet.
  returned: success
  type: str
cc:
  description: The C compiler.
  returned: success
  type: str
cxx:
  description: The C++ compiler.
  returned: success
  type: str
packages:
  description: What the build's environment must hold for it.
  returned: success
  type: list
  elements: str
found:
  description: Every compiler that was asked, with its version.
  returned: success
  type: dict
"""

import platform
import re
import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_process import run


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def ask(program: str) -> str | None:
    """Return a compiler's version; None where it is no compiler that runs."""
    result = run([program, "-dumpfullversion", "-dumpversion"], timeout=30)
    text = result.output.strip()
    return text if result.status == 0 and re.fullmatch(r"\d+(\.\d+)*", text) else None


def look(candidates: list[str]) -> dict[str, str]:
    """Return the version of each compiler that is there, in the order of asking."""
    found = {}
    for name in candidates:
        path = shutil.which(name)
        version = ask(path) if path else None
        if path and version:
            found[path] = version
    return found


def c_compiler(cxx: str) -> str:
    """Return the C compiler of the same version as a C++ compiler: g++-12 is gcc-12's."""
    head, _, name = cxx.rpartition("/")
    return f"{head}/{name.replace('g++', 'gcc')}"


def of_conda(params: dict[str, Any], found: dict[str, str]) -> dict[str, Any]:
    """Return conda-forge's compiler, whose programs carry the machine's name."""
    if not params["packages"]:
        raise HostError("packages: name conda-forge's packages that hold its compiler")
    machine = platform.machine()
    subdir = "linux-64" if machine == "x86_64" else f"linux-{machine}"
    base = f"{params['prefix']}/bin/{machine}-conda-linux-gnu"
    return {
        "kind": "conda",
        "version": None,
        "cc": f"{base}-gcc",
        "cxx": f"{base}-g++",
        "packages": [name.replace("{platform}", subdir) for name in params["packages"]],
        "found": found,
    }


def choose(params: dict[str, Any], found: dict[str, str], *, check: bool) -> dict[str, Any]:
    """Return the compiler to use.

    Raises:
        HostError: the system's is asked for and none is new enough.
    """
    floor = numbers(params["floor"])
    fitting = [(path, version) for path, version in found.items() if numbers(version) >= floor]
    if fitting and params["compiler"] != "conda":
        path, version = fitting[0]
        compilers = {"cc": c_compiler(path), "cxx": path}
        return {"kind": "system", "version": version, **compilers, "packages": [], "found": found}
    if check and not found and params["compiler"] != "conda":
        return {
            "kind": "system",
            "version": None,
            "cc": "gcc",
            "cxx": "g++",
            "packages": [],
            "found": {},
        }
    if params["compiler"] != "system":
        return of_conda(params, found)
    has = ", ".join(f"{path} is {version}" for path, version in found.items()) or "there is none"
    raise HostError(
        f"a g++ of version {params['floor']} or newer is needed, and {has}. Install g++-12 or"
        " newer, take a newer system (Debian 13, Ubuntu 22.04), or let conda-forge give the"
        " compiler (compiler: conda).",
        found=found,
    )


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Find the compiler and return it."""
    chosen = choose(module.params, look(module.params["candidates"]), check=module.check_mode)
    return {"changed": False, **chosen}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "compiler": {"type": "str", "choices": ["auto", "system", "conda"], "default": "auto"},
            "floor": {"type": "str", "default": "12.3"},
            "candidates": {
                "type": "list",
                "elements": "str",
                "default": ["g++-12", "g++-13", "g++-14", "g++"],
            },
            "packages": {"type": "list", "elements": "str", "default": []},
            "prefix": {"type": "path", "default": "/opt/miniconda3"},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, "the compiler could not be asked")


if __name__ == "__main__":
    main()
