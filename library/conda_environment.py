#!/usr/bin/python
"""A conda environment that is whole, or is made anew."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: conda_environment
short_description: Make a conda environment at a prefix, whole or not at all
description:
  - Creates the environment with C(conda create), proves that its Python runs and has the version
    asked for, and only then writes the marker C(.vllm-release.json) into it.
  - A half-made environment (no marker, a damaged one, no history, a Python that does not run) is
    removed and made anew. A complete one is never changed in place.
  - A conda that outlived a killed run is waited for, up to O(timeout).
options:
  prefix:
    description: Directory of the environment, below O(base).
    type: path
    required: true
  packages:
    description: Conda specifications to install, C(python=X.Y) among them.
    type: list
    elements: str
    required: false
    default: [python=3.10, pip]
  conda:
    description: The conda program.
    type: path
    required: false
    default: /opt/miniconda3/bin/conda
  base:
    description: The only directory below which environments are made and removed.
    type: path
    required: false
    default: /opt/vllm/releases
  env:
    description: Environment variables for conda, besides the inherited ones.
    type: dict
    required: false
    default: {}
  timeout:
    description: Seconds that C(conda create) may take.
    type: int
    required: false
    default: 1800
  deep:
    description: Whether every byte that conda has installed is read.
    type: bool
    required: false
    default: false
attributes:
  check_mode:
    support: full
    description: Says whether the environment would be made or remade, and does neither.
  diff_mode:
    support: full
    description: Shows the environment's state before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The release has its Python environment
  conda_environment:
    prefix: /opt/vllm/releases/0.31.0-cpu-0123456789ab
    packages: [python=3.10, pip]
"""

RETURN = r"""
prefix:
  description: Directory of the environment.
  returned: success
  type: str
python:
  description: Version of its Python; null in check mode when there is none yet.
  returned: success
  type: str
remade:
  description: Whether something half-made was (or would be) removed first.
  returned: success
  type: bool
reason:
  description: Why it was (or would be) made; null when it was complete.
  returned: success
  type: str
stage:
  description: How far the release has been made, C(environment), C(installing) or C(complete).
  returned: success
  type: str
"""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_environment import conda_flaws, conda_listing, listing_changes
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import remove_tree
from ansible.module_utils.vllm_process import ca_environment, run
from ansible.module_utils.vllm_release import COMPLETE, ENVIRONMENT, read_marker, write_marker

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION_CODE = "import platform; print(platform.python_version())"
HINTS = {
    "CondaToSNonInteractiveError": "use mirror channels only, or accept Anaconda's terms",
    "PackagesNotFoundError": "no channel has such a package; correct the name or the channels",
    "HTTP 403": "the mirror refuses this address for now; use another mirror",
    "NoSpaceLeftError": "free some disk",
}


def asked_version(packages: list[str]) -> str | None:
    """Return X.Y of the specification C(python=X.Y); None when Python's version is left open."""
    for package in packages:
        match = re.match(r"python\s*={1,2}\s*(\d+\.\d+)", package)
        if match:
            return match.group(1)
    return None


def python_version(prefix: Path, packages: list[str]) -> str:
    """Return the version of an environment's Python.

    Raises:
        HostError: it does not run, or is not the version asked for.
    """
    result = run([str(prefix / "bin/python"), "-I", "-c", VERSION_CODE], timeout=60)
    if result.status != 0:
        raise HostError(f"{prefix}/bin/python does not run: {result.tail(5)}")
    found: str = result.output.strip()
    asked = asked_version(packages)
    if asked and not f"{found}.".startswith(f"{asked}."):
        raise HostError(f"{prefix}/bin/python is Python {found}, and {asked} was asked for")
    return found


def change_by_hand(prefix: Path, marker: dict[str, Any], *, deep: bool) -> str | None:
    """Return what somebody has changed of what conda made; None when it is as it was."""
    changes = listing_changes(marker.get("conda"), conda_listing(prefix))
    if changes:
        words = ", ".join(f"{name} {what}" for name, what in sorted(changes.items())[:5])
        return f"its conda packages were changed by hand: {words}"
    wrong = sorted(conda_flaws(prefix).items()) if deep else []
    return f"a file of a conda package was changed: {wrong[0][0]} {wrong[0][1]}" if wrong else None


def flaw(prefix: Path, packages: list[str], *, deep: bool = False) -> str | None:
    """Return why an existing directory is no usable environment; None when it is one."""
    if not prefix.is_dir():
        return "it is not there"
    if not (prefix / "conda-meta/history").is_file():
        return "half-made: it has no conda-meta/history"
    marker = read_marker(prefix)
    if marker is None:
        return "half-made: its marker is missing or damaged"
    try:
        python_version(prefix, packages)
    except HostError as error:
        return f"broken: {error.message}"
    changed = change_by_hand(prefix, marker, deep=deep)
    if changed or marker.get("packages") == packages:
        return changed
    if marker["stage"] == COMPLETE:
        raise HostError(
            f"{prefix} is a complete release made with {marker.get('packages')}, and {packages} was"
            " asked for; a complete release is never changed, so give the new one another prefix"
        )
    return f"it was made with {marker.get('packages')}"


def require_place(prefix: Path, base: Path) -> None:
    """Refuse a prefix that is not ours to make and remove.

    Raises:
        HostError: the prefix is a link, no directory, or not below the base.
    """
    if base.resolve() not in prefix.resolve().parents:
        raise HostError(f"prefix {prefix} is not below {base}; environments are made only there")
    if prefix.is_symlink() or (prefix.exists() and not prefix.is_dir()):
        raise HostError(f"prefix {prefix} is there and is no directory; move it away by hand")


@contextlib.contextmanager
def alone(base: Path, timeout: float) -> Iterator[int]:
    """Lock the base, and yield the lock's file descriptor for conda to inherit.

    A conda whose module was killed goes on by itself, and holds the lock as long as it does:
    removing and making what it still writes would leave a mixture of both.

    Args:
        base: directory of all environments.
        timeout: seconds to wait for others.

    Raises:
        HostError: they did not end in time.
    """
    deadline = time.monotonic() + timeout
    handle = os.open(base, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"another conda still works below {base} after {timeout:g} s; wait for it,"
                        f" or end it (fuser {base} names it)"
                    ) from error
                time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


def conda_create(params: dict[str, Any], prefix: Path, lock: int) -> None:
    """Run C(conda create); it inherits the lock, an open file.

    Raises:
        HostError: conda is missing or failed; the message has its last lines.
    """
    argv = [params["conda"], "create", "--yes", "--quiet", "--prefix", str(prefix)]
    env = {**ca_environment(), **{name: str(value) for name, value in params["env"].items()}}
    result = run([*argv, *params["packages"]], timeout=params["timeout"], env=env, pass_fds=[lock])
    if result.status == 0:
        return
    tail = result.tail(40)
    hint = next((text for word, text in HINTS.items() if word in tail), "see conda's words above")
    raise HostError(
        f"conda could not make {prefix} (status {result.status}):\n{tail}\nWay out: {hint}.",
        status=result.status,
        output=tail,
    )


def make(params: dict[str, Any], prefix: Path) -> str:
    """Make the environment, prove it, mark it, and return its Python's version.

    Raises:
        HostError: it could not be made; nothing is left of it.
    """
    base = Path(params["base"])
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    with alone(base, params["timeout"]) as lock:
        if prefix.exists():
            remove_tree(prefix, base)
        try:
            conda_create(params, prefix, lock)
            version = python_version(prefix, params["packages"])
            said = {"packages": params["packages"], "conda": conda_listing(prefix)}
            write_marker(prefix, stage=ENVIRONMENT, python=version, **said)
        except BaseException:
            if prefix.exists():
                remove_tree(prefix, base)
            raise
    return version


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the environment to its state and return the result."""
    params, prefix = module.params, Path(module.params["prefix"])
    packages: list[str] = params["packages"]
    require_place(prefix, Path(params["base"]))
    reason = flaw(prefix, packages, deep=params["deep"])
    remade = reason is not None and prefix.exists()
    result: dict[str, Any] = {"changed": reason is not None, "prefix": str(prefix)}
    result.update(reason=reason, remade=remade)
    after = f"{prefix}: {' '.join(packages)}\n"
    before = after if reason is None else f"{prefix}: {reason}\n"
    result["diff"] = {"before": before, "after": after}
    if reason is None:
        result["python"] = python_version(prefix, packages)
    elif module.check_mode:
        result["python"] = None
    else:
        result["python"] = make(params, prefix)
    marker = read_marker(prefix) if result["python"] else None
    if marker and "conda" not in marker and not module.check_mode:
        # One of before this was noted: it is taken as it is.
        marker = {**marker, "conda": conda_listing(prefix)}
        write_marker(prefix, **marker)
    result["stage"] = marker["stage"] if marker else ENVIRONMENT
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "packages": {"type": "list", "elements": "str", "default": ["python=3.10", "pip"]},
            "conda": {"type": "path", "default": "/opt/miniconda3/bin/conda"},
            "base": {"type": "path", "default": "/opt/vllm/releases"},
            "env": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 1800},
            "deep": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    # Modes of what conda writes must not depend on who runs this.
    os.umask(0o022)
    conclude(module, ensure, f"{module.params['prefix']} could not be made")


if __name__ == "__main__":
    main()
