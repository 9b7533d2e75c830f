#!/usr/bin/python
"""The exact set of Python packages in an environment, installed by uv."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: python_packages
short_description: Have an environment hold exactly the pinned Python packages
description:
  - Compares the pins with what the environment holds and lets a pinned uv install what differs,
    without following dependencies, since the pins are complete.
  - What has hashes is installed first, from the default index and C(find_links), and no file with
    another checksum is. The rest is installed by its exact version from all indexes.
  - Packages that the pins do not name are reported as unmanaged, and left alone unless O(exact).
  - When all is there, the marker C(.vllm-release.json) says C(complete).
options:
  prefix:
    description: Directory of the environment, with C(bin/python) and pip.
    type: path
    required: true
  requirements:
    description: Pins of the form C(name==version).
    type: list
    elements: str
    required: true
  hashes:
    description:
      - SHA-256 of the files of a requirement that may be installed, by the package's name.
      - They are no part of the release's identity, and what is installed is not checked again.
    type: dict
    required: false
    default: {}
  find_links:
    description:
      - Directories and pages with wheels, looked at besides the indexes. No URL may carry a
        password.
    type: list
    elements: str
    required: false
    default: []
  indexes:
    description:
      - Package indexes asked before the default one, for requirements without hashes. An index of
        some packages may have its own build of others. No URL may carry a password.
    type: list
    elements: str
    required: false
    default: []
  default_index:
    description: The default package index; the clients' own when null.
    type: str
    required: false
    default: null
  uv:
    description: Version of uv to install with.
    type: str
    required: false
    default: 0.13.8
  index_strategy:
    description:
      - How uv chooses between the indexes.
      - The default takes each pin from the first index that has that very version. uv's own default
        would stop at the first index that has the name, and torch's index has old copies of many.
    type: str
    choices: [first-index, unsafe-first-match, unsafe-best-match]
    required: false
    default: unsafe-first-match
  cache_dir:
    description: uv's cache. It is kept after a failure, so that a re-run downloads nothing twice.
    type: path
    required: false
    default: /opt/vllm/cache/uv
  keep_cache:
    description: Keep the cache after success too.
    type: bool
    required: false
    default: false
  compile_bytecode:
    description: Compile all modules at installation. Slower now, quicker at the first start.
    type: bool
    required: false
    default: false
  env:
    description: Environment variables for pip and uv, besides the inherited ones.
    type: dict
    required: false
    default: {}
  http_timeout:
    description: Seconds without a byte after which a download is given up.
    type: int
    required: false
    default: 60
  timeout:
    description: Seconds that the whole installation may take.
    type: int
    required: false
    default: 7200
  exact:
    description:
      - Whether what was changed by hand is put right as well. Packages that neither the pins nor
        conda have brought go, packages with altered or missing files are installed anew, and files
        that belong to no package are moved below O(set_aside), where altered ones are copied to.
      - Of vLLM itself, whose files people edit, those are read that are newer than the last look.
    type: bool
    required: false
    default: false
  deep:
    description: Whether every byte of every package is read, with O(exact).
    type: bool
    required: false
    default: false
  set_aside:
    description: Directory for what was changed by hand.
    type: path
    required: false
    default: /var/lib/vllm/set-aside
attributes:
  check_mode:
    support: full
    description: Says what would be installed, and installs nothing.
  diff_mode:
    support: full
    description: Lists the packages that differ, before and after.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The release has its packages
  python_packages:
    prefix: /opt/vllm/releases/0.31.0-cpu-0123456789ab
    requirements:
      - vllm==0.31.0+cpu
      - torch==2.13.0
    hashes:
      torch: [bcf9fa90b79f7f62cbaef9b4eb3d9a5e6b5ab4ec98a90a0fc0d8a1bd1ed9b7b6]
    indexes:
      - https://mirror.example.org/vllm/simple/
"""

RETURN = r"""
installed:
  description: Pins that were (or would be) installed anew, by name.
  returned: success
  type: dict
upgraded:
  description: Packages whose version was (or would be) changed, each with from and to.
  returned: success
  type: dict
unmanaged:
  description: Packages in the environment that no pin names, by name.
  returned: success
  type: dict
repaired:
  description:
    - What was changed by hand and was (or would be) put right, with O(exact). C(strangers), C(pins)
      (of what conda had brought), C(again) (packages installed anew), C(altered) and C(strays)
      (paths).
  returned: success
  type: dict
reinstalled:
  description: Whether all was (or would be) installed again after an interrupted installation.
  returned: success
  type: bool
requirements_digest:
  description: SHA-256 over the sorted pins.
  returned: success
  type: str
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_environment import (
    TOOLS,
    Repair,
    installed,
    listing_changes,
    normalise,
    repair,
    strays,
)
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_process import Finished, ca_environment, run
from ansible.module_utils.vllm_release import COMPLETE, INSTALLING, read_marker, write_marker
from ansible.module_utils.vllm_set_aside import copy_aside, set_aside
from ansible.module_utils.vllm_urls import refuse_credentials

PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")
SHA256 = re.compile(r"[0-9a-f]{64}")
# uv's words for a file whose checksum is none of those expected.
MISMATCH = re.compile(r"Hash mismatch for `(?P<pin>[^`]+)`(?P<sums>(?:\s+[\w:]+)*)")
LISTING = """
import importlib.metadata, json
found = {}
for dist in importlib.metadata.distributions():
    name = dist.metadata["Name"]
    if name:
        found.setdefault(name, []).append(dist.version)
print(json.dumps(found))
"""


def parse_pins(requirements: list[str]) -> dict[str, str]:
    """Return versions by normalised name.

    Raises:
        HostError: listing all lines that are no pins, and names pinned twice.
    """
    pins: dict[str, str] = {}
    wrong: list[str] = []
    for line in requirements:
        match = PIN.fullmatch(line.strip())
        if match is None or pins.get(normalise(match.group(1)), match.group(2)) != match.group(2):
            wrong.append(line)
        else:
            pins[normalise(match.group(1))] = match.group(2)
    if wrong or not pins:
        raise HostError(f"requirements must be pins, name==version, each name once: {wrong}")
    return pins


def with_hashes(requirements: list[str], hashes: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the lines of the requirements that have hashes, and those of the others.

    Raises:
        HostError: something given as a hash is none.
    """
    by_name = {normalise(str(name)): [str(one) for one in found] for name, found in hashes.items()}
    wrong = [one for found in by_name.values() for one in found if not SHA256.fullmatch(one)]
    if wrong:
        raise HostError(f"hashes must be SHA-256 in 64 hexadecimal digits: {wrong}")
    hashed: list[str] = []
    bare: list[str] = []
    for line in (line.strip() for line in requirements):
        words = [
            f"--hash=sha256:{one}"
            for one in by_name.get(normalise(re.split(r"[\[=]", line)[0]), [])
        ]
        (hashed if words else bare).append(" ".join([line, *words]))
    return hashed, bare


def digest_of(requirements: list[str]) -> str:
    """Return the SHA-256 over the sorted pins."""
    lines = sorted({line.strip() for line in requirements})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def listing(prefix: Path) -> dict[str, str]:
    """Return versions by normalised name of what an environment holds.

    A package that is there in two versions (an interrupted upgrade) is listed with both, so that
    it equals no pin.

    Raises:
        HostError: the environment's Python cannot tell.
    """
    result = run([str(prefix / "bin/python"), "-I", "-c", LISTING], timeout=120)
    if result.status != 0:
        raise HostError(f"{prefix}/bin/python cannot list its packages: {result.tail(10)}")
    found: dict[str, set[str]] = {}
    for name, versions in json.loads(result.output).items():
        found.setdefault(normalise(name), set()).update(str(version) for version in versions)
    return {name: " and ".join(sorted(versions)) for name, versions in found.items()}


def compare(pins: dict[str, str], present: dict[str, str]) -> dict[str, Any]:
    """Return what to install, what to change, and what no pin names."""
    changes = {n: {"from": present[n], "to": v} for n, v in pins.items() if n in present}
    return {
        "installed": {name: v for name, v in sorted(pins.items()) if name not in present},
        "upgraded": {n: c for n, c in sorted(changes.items()) if c["from"] != c["to"]},
        "unmanaged": {n: v for n, v in sorted(present.items()) if n not in pins and n not in TOOLS},
    }


def difference(prefix: Path, compared: dict[str, Any], state: State) -> dict[str, str]:
    """Return the texts that Ansible shows with C(--diff)."""
    by_hand = [f"{name} (added by hand)" for name in state.repair.strangers]
    by_hand += [f"{path} (altered by hand)" for path in state.repair.altered]
    by_hand += [f"{path} (of no package)" for path in state.strays]
    before = by_hand + [
        f"{name}=={change['from']}" for name, change in compared["upgraded"].items()
    ]
    after = [f"{name}=={change['to']}" for name, change in compared["upgraded"].items()]
    after += [f"{name}=={version}" for name, version in compared["installed"].items()]
    texts = {"before": sorted(before), "after": sorted(after)}
    return {
        "before_header": f"{prefix} packages",
        "after_header": f"{prefix} packages",
        **{key: "".join(f"{line}\n" for line in lines) for key, lines in texts.items()},
    }


def environment(params: dict[str, Any]) -> dict[str, str]:
    """Return the variables that pip and uv run with."""
    return {
        **ca_environment(),
        "UV_CACHE_DIR": params["cache_dir"],
        # Else it leaves a lock in root's home.
        "UV_CREDENTIALS_DIR": f"{params['cache_dir']}/credentials",
        "UV_LINK_MODE": "hardlink",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_HTTP_TIMEOUT": str(params["http_timeout"]),
        **{name: str(value) for name, value in params["env"].items()},
    }


def require(result: Finished, purpose: str) -> None:
    """Refuse a program that failed.

    Raises:
        HostError: with the last 40 lines of its output.
    """
    if result.status != 0:
        tail = result.tail(40)
        raise HostError(f"{purpose} (status {result.status}):\n{tail}", output=tail)


def install_uv(params: dict[str, Any], prefix: Path, present: dict[str, str]) -> None:
    """Have the pinned uv in the environment, by its own pip."""
    if present.get("uv") == params["uv"] and (prefix / "bin/uv").is_file():
        return
    argv = [str(prefix / "bin/python"), "-m", "pip", "install", "--no-input", "--no-deps"]
    argv += ["--disable-pip-version-check", "--no-cache-dir", "--quiet", f"uv=={params['uv']}"]
    if params["default_index"]:
        argv += ["--index-url", params["default_index"]]
        parts = urlsplit(params["default_index"])
        if parts.scheme == "http":  # a mirror of the site; pip asks for its name a second time
            argv += ["--trusted-host", parts.netloc]
    result = run(argv, timeout=params["timeout"], env=environment(params))
    require(result, f"uv {params['uv']} could not be installed into {prefix}")


def install_pins(params: dict[str, Any], prefix: Path, *, again: bool) -> None:
    """Let uv install the pins, all of them anew when `again` is true.

    Raises:
        HostError: a file is not the one that was locked, or something cannot be had.
    """
    hashed, bare = with_hashes(params["requirements"], params["hashes"])
    if hashed:
        result = run_uv(params, prefix, hashed, ["--require-hashes"], again=again)
        refuse_other_files(result, params)
        require(result, f"uv could not install the packages into {prefix}")
    if bare:
        indexes = [word for url in params["indexes"] for word in ("--index", url)]
        result = run_uv(params, prefix, bare, indexes, again=again)
        require(result, f"uv could not install the packages into {prefix}")


def put_right(params: dict[str, Any], prefix: Path, pins: dict[str, str], todo: Repair) -> None:
    """Take strangers away and install anew what was altered; what was altered is kept aside.

    Raises:
        HostError: uv cannot do it.
    """
    for path in todo.altered:
        copy_aside(path, Path(params["set_aside"]))
    if todo.strangers:
        argv = [str(prefix / "bin/uv"), "pip", "uninstall", "--python", str(prefix / "bin/python")]
        result = run([*argv, *todo.strangers], timeout=params["timeout"], env=environment(params))
        require(result, f"uv could not remove {', '.join(todo.strangers)} from {prefix}")
    by_conda = [f"{name}=={version}" for name, version in todo.pins.items()]
    if by_conda:
        result = run_uv(params, prefix, by_conda, [], again=True)
        require(result, f"uv could not bring back {', '.join(by_conda)} in {prefix}")
    wanted = {*todo.again} & {*pins}
    lines = [r for r in params["requirements"] if normalise(re.split(r"[\[=]", r)[0]) in wanted]
    if lines:
        install_pins({**params, "requirements": lines}, prefix, again=True)


def clear_strays(params: dict[str, Any], prefix: Path, marker: dict[str, Any]) -> None:
    """Move away what belongs to no package, and prove that the rest is what was made.

    Raises:
        HostError: it is not, so that the environment has to be made anew.
    """
    for path in strays(prefix, marker, deep=params["deep"]):
        set_aside(path, Path(params["set_aside"]))
    left = listing_changes(marker.get("installed"), installed(prefix))
    if left:
        words = ", ".join(f"{name} {what}" for name, what in sorted(left.items())[:5])
        raise HostError(
            f"{prefix} was changed by hand and cannot be put right ({words}); move it away: the"
            " next run makes it anew",
            differing=left,
        )


def run_uv(
    params: dict[str, Any], prefix: Path, lines: list[str], words: list[str], *, again: bool
) -> Finished:
    """Run uv on some requirements and return how it ended."""
    argv = [str(prefix / "bin/uv"), "pip", "install", "--python", str(prefix / "bin/python")]
    argv += ["--no-deps", "--index-strategy", params["index_strategy"], *words]
    argv += ["--default-index", params["default_index"]] if params["default_index"] else []
    argv += [word for place in params["find_links"] for word in ("--find-links", place)]
    argv += ["--compile-bytecode"] if params["compile_bytecode"] else []
    argv += ["--reinstall"] if again else []
    with tempfile.NamedTemporaryFile("w", prefix="requirements-", suffix=".txt") as stream:
        stream.writelines(f"{line}\n" for line in lines)
        stream.flush()
        argv += ["--requirements", stream.name]
        return run(argv, timeout=params["timeout"], env=environment(params))


def refuse_other_files(result: Finished, params: dict[str, Any]) -> None:
    """Say in one sentence that a source serves another file than the one that was locked.

    Raises:
        HostError: naming the package, the sources, both checksums, and the way out.
    """
    found = MISMATCH.search(result.errors) if result.status != 0 else None
    if found is None:
        return
    index = params["default_index"] or "the default index of this host"
    places = ", ".join([index, *params["find_links"]])
    raise HostError(
        f"{found['pin']} from {places} is not the file that was locked"
        f" ({' '.join(found['sums'].split())}). Nothing of it was installed. Take the packages from"
        " another source (vllm_sources.profile or vllm_sources.packages.default_index), or clear"
        " the cache of the mirror that serves it. Only if that source is right, make the lock file"
        " anew (scripts/lock-engine).",
        package=found["pin"],
        sources=places,
    )


class State:
    """An environment as it is, held against its pins."""

    def __init__(self, params: dict[str, Any], prefix: Path) -> None:
        """Look at it.

        Raises:
            HostError: the pins are none, or the environment's Python cannot tell what it holds.
        """
        self.pins, self.digest = (
            parse_pins(params["requirements"]),
            digest_of(params["requirements"]),
        )
        there = (prefix / "bin/python").is_file()
        self.marker = (read_marker(prefix) or {}) if there else {}
        if self.marker.get("requirements_digest") != self.digest:
            # The listing is of other pins.
            for key in ("installed", "requirements_digest"):
                self.marker.pop(key, None)
        self.present = listing(prefix) if there else {}
        self.compared = compare(self.pins, self.present)
        self.again = self.marker.get("stage") == INSTALLING
        self.repair, self.strays = Repair([], {}, [], []), []
        if params["exact"] and there:
            deep = params["deep"]
            self.repair = repair(prefix, self.marker, self.pins, self.present, deep=deep)
            self.strays = strays(prefix, self.marker, deep=deep)
        listed = "installed" in self.marker or not params["exact"]
        self.marked = self.marker.get("stage") == COMPLETE and listed
        self.marked = self.marked and "requirements_digest" in self.marker

    def lacking(self) -> bool:
        """Say whether packages must be installed."""
        return bool(self.again or self.compared["installed"] or self.compared["upgraded"])

    def changed_by_hand(self) -> bool:
        """Say whether something must be put right."""
        return self.repair.needed() or bool(self.strays)


def install(params: dict[str, Any], prefix: Path, state: State) -> None:
    """Install, prove that all pins are there, and mark the release as complete.

    Raises:
        HostError: something could not be installed; the marker then says so.
    """
    install_uv(params, prefix, state.present)
    changing = state.lacking() or state.changed_by_hand()
    if changing:
        write_marker(prefix, **{**state.marker, "stage": INSTALLING})
        put_right(params, prefix, state.pins, state.repair)
        if state.lacking():
            install_pins(params, prefix, again=state.again)
        left = compare(state.pins, listing(prefix))
        if left["installed"] or left["upgraded"]:
            raise HostError(f"uv reports success, yet {prefix} still lacks packages", **left)
    if params["exact"]:
        clear_strays(params, prefix, state.marker)
    now = time.time()
    told = {"installed": installed(prefix), "proved": now, **({"filled": now} if changing else {})}
    told.update(stage=COMPLETE, requirements_digest=state.digest)
    write_marker(prefix, **{**state.marker, **told})
    if not params["keep_cache"]:
        shutil.rmtree(params["cache_dir"], ignore_errors=True)


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the packages to their state and return the result."""
    params, prefix = module.params, Path(module.params["prefix"])
    urls = [*params["indexes"], *([params["default_index"]] if params["default_index"] else [])]
    refuse_credentials(urls, "indexes")
    refuse_credentials(params["find_links"], "find_links")
    with_hashes(params["requirements"], params["hashes"])
    parse_pins(params["requirements"])
    if not (prefix / "bin/python").is_file() and not module.check_mode:
        raise HostError(f"{prefix} has no bin/python; make the environment first")
    state = State(params, prefix)
    changed = bool(not state.marked or state.lacking() or state.changed_by_hand())
    if changed and not module.check_mode:
        install(params, prefix, state)
    altered = [str(path) for path in state.repair.altered]
    strayed = [str(path) for path in state.strays]
    return {
        "changed": changed,
        "diff": difference(prefix, state.compared, state),
        "requirements_digest": state.digest,
        "reinstalled": state.again,
        "repaired": {**state.repair._asdict(), "altered": altered, "strays": strayed},
        **state.compared,
    }


def main() -> None:
    """Run as an Ansible module."""
    strategies = ["first-index", "unsafe-first-match", "unsafe-best-match"]
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "str", "required": True},
            "hashes": {"type": "dict", "default": {}},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "indexes": {"type": "list", "elements": "str", "default": []},
            "default_index": {"type": "str"},
            "uv": {"type": "str", "default": "0.13.8"},
            "index_strategy": {
                "type": "str",
                "choices": strategies,
                "default": "unsafe-first-match",
            },
            "cache_dir": {"type": "path", "default": "/opt/vllm/cache/uv"},
            "keep_cache": {"type": "bool", "default": False},
            "compile_bytecode": {"type": "bool", "default": False},
            "env": {"type": "dict", "default": {}},
            "http_timeout": {"type": "int", "default": 60},
            "timeout": {"type": "int", "default": 7200},
            "exact": {"type": "bool", "default": False},
            "deep": {"type": "bool", "default": False},
            "set_aside": {"type": "path", "default": "/var/lib/vllm/set-aside"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    conclude(module, ensure, f"{module.params['prefix']} could not be filled")


if __name__ == "__main__":
    main()
