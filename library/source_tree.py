#!/usr/bin/python
"""The sources of a package, from a package index or from git, whole or not at all."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: source_tree
short_description: Have the unpacked sources of one version of a package
description:
  - V(sdist) has pip download the source archive from the package index that a build environment
    uses; V(git) clones one tag without its history from the first repository of a list that serves.
  - The tree is made beside its place and put there by one rename. A marker beside it says what it
    was made from; a tree without one is made anew.
options:
  dest:
    description: Directory of the tree. Its parent holds the marker and the downloads.
    type: path
    required: true
  name:
    description: Name of the package.
    type: str
    required: false
    default: vllm
  version:
    description: Its version. The tag in git is this with a C(v) before it.
    type: str
    required: true
  kind:
    description: Where the sources come from.
    type: str
    choices: [sdist, git]
    required: false
    default: sdist
  sha256:
    description: Checksum of the source archive, where it is known.
    type: str
    required: false
    default: null
  urls:
    description: Repositories, tried in this order.
    type: list
    elements: str
    required: false
    default: []
  commit:
    description: The commit that the tag must be, where it is known.
    type: str
    required: false
    default: null
  python:
    description: Python whose pip downloads, with what the sources' own setup needs.
    type: path
    required: false
    default: null
  default_index:
    description: The default package index; pip's own when null.
    type: str
    required: false
    default: null
  env:
    description: Environment variables for pip and git, besides the inherited ones.
    type: dict
    required: false
    default: {}
  timeout:
    description: Seconds that one source may take.
    type: int
    required: false
    default: 1800
attributes:
  check_mode:
    support: full
    description: Says whether the sources would be fetched, and fetches none.
  diff_mode:
    support: none
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The sources are here
  source_tree:
    dest: /var/cache/vllm-build/work/0123456789ab/tree
    version: 0.31.0
    kind: git
    urls:
      - https://gitee.com/mirrors/vllm.git
"""

RETURN = r"""
dest:
  description: Directory of the tree.
  returned: success
  type: str
origin:
  description: What the tree was made from; its kind, and file and sha256, or url and commit.
  returned: success
  type: dict
attempts:
  description: The sources that were tried and did not serve, each with url and error.
  returned: success
  type: list
  elements: dict
"""

import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import as_json, read_json_object, sha256_of, write_atomic
from ansible.module_utils.vllm_process import ca_environment, run
from ansible.module_utils.vllm_urls import refuse_credentials

QUIET_GIT = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "GIT_LFS_SKIP_SMUDGE": "1"}


def wanted(params: dict[str, Any]) -> dict[str, Any]:
    """Return what a tree is known by: what was asked for."""
    return {key: params[key] for key in ("name", "version", "kind", "sha256", "commit")}


def marker_of(dest: Path) -> Path:
    """Return the file that says what a tree was made from."""
    return dest.with_name(f".{dest.name}.source.json")


def read_origin(params: dict[str, Any], dest: Path) -> dict[str, Any] | None:
    """Return what the tree was made from; None when it is not there, or is another."""
    try:
        marker = read_json_object(marker_of(dest))
    except ValueError:
        return None
    if not dest.is_dir() or marker is None or marker.get("wanted") != wanted(params):
        return None
    origin: dict[str, Any] = marker["origin"]
    return origin


def environment(params: dict[str, Any]) -> dict[str, str]:
    """Return the variables that pip and git run with."""
    return {**ca_environment(), **{name: str(value) for name, value in params["env"].items()}}


def download(params: dict[str, Any], staging: Path) -> Path:
    """Have pip download the source archive, its checksum compared where it is known.

    Raises:
        HostError: pip could not get it; the message has its last lines.
    """
    pin = f"{params['name']}=={params['version']}"
    lines = staging / "requirement.txt"
    lines.write_text(
        f"{pin} --hash=sha256:{params['sha256']}\n" if params["sha256"] else f"{pin}\n"
    )
    argv = [params["python"], "-m", "pip", "download", "--no-input", "--no-deps", "--no-cache-dir"]
    argv += ["--disable-pip-version-check", "--no-binary", ":all:", "--no-build-isolation"]
    argv += ["--requirement", str(lines), "--dest", str(staging)]
    if params["default_index"]:
        argv += ["--index-url", params["default_index"]]
        parts = urlsplit(params["default_index"])
        if parts.scheme == "http":  # a mirror of the site
            argv += ["--trusted-host", parts.netloc]
    # pip compares the version that the sources say with the one asked for, and a build for the CPU
    # would add "+cpu" to it.
    env = {**environment(params), "VLLM_VERSION_OVERRIDE": params["version"]}
    env["SETUPTOOLS_SCM_PRETEND_VERSION"] = params["version"]
    result = run(argv, timeout=params["timeout"], env=env)
    found = sorted(staging.glob("*.tar.gz"))
    if result.status != 0 or len(found) != 1:
        raise HostError(
            f"pip could not download the sources of {pin} (status {result.status}):\n"
            f"{result.tail(30)}\nWay out: name an index that has them, or take them from git."
        )
    return found[0]


def from_sdist(params: dict[str, Any], staging: Path) -> tuple[Path, dict[str, Any]]:
    """Download and unpack the source archive; return the tree and what it was made from."""
    archive = download(params, staging)
    unpacked = staging / "unpacked"
    unpacked.mkdir()
    argv = ["tar", "--extract", "--gzip", "--no-same-owner", "--file", str(archive)]
    result = run([*argv, "--directory", str(unpacked)], timeout=params["timeout"])
    trees = [path for path in unpacked.iterdir() if path.is_dir()]
    if result.status != 0 or len(trees) != 1:
        raise HostError(f"{archive.name} could not be unpacked: {result.tail(10)}")
    origin = {"kind": "sdist", "file": archive.name, "sha256": sha256_of(archive)}
    return trees[0], origin


def clone(params: dict[str, Any], url: str, tree: Path) -> str:
    """Clone one tag from one repository and return its commit.

    Raises:
        HostError: the repository does not serve it, or serves another commit.
    """
    tag = f"v{params['version']}"
    argv = ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, url, str(tree)]
    env = {**environment(params), **QUIET_GIT}
    result = run(argv, timeout=params["timeout"], env=env)
    if result.status != 0:
        raise HostError(result.tail(3) or f"git ended with status {result.status}")
    asked = run(["git", "rev-parse", "HEAD"], timeout=30, cwd=tree)
    commit: str = asked.output.strip()
    if asked.status != 0 or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise HostError(f"the clone has no commit: {asked.tail(3)}")
    if params["commit"] and commit != params["commit"]:
        raise HostError(f"{tag} is commit {commit} there, and {params['commit']} was expected")
    return commit


def from_git(
    params: dict[str, Any], staging: Path, attempts: list[dict[str, str]]
) -> tuple[Path, dict[str, Any]]:
    """Clone from the first repository that serves; return the tree and what it was made from.

    Raises:
        HostError: none serves; the message has a line for each.
    """
    if not params["urls"]:
        raise HostError("urls: the list is empty; name at least one repository")
    for number, url in enumerate(params["urls"]):
        tree = staging / f"clone-{number}"
        try:
            commit = clone(params, url, tree)
        except HostError as error:
            attempts.append({"url": url, "error": error.message})
        else:
            return tree, {"kind": "git", "url": url, "commit": commit}
    lines = "\n".join(f"  {attempt['url']}: {attempt['error']}" for attempt in attempts)
    raise HostError(
        f"tag v{params['version']} could not be had from any of {len(attempts)} repositories:\n"
        f"{lines}\nWay out: add a repository that serves it, or take the sources from an index.",
        attempts=attempts,
    )


def fetch(params: dict[str, Any], dest: Path, attempts: list[dict[str, str]]) -> dict[str, Any]:
    """Make the tree and return what it was made from.

    Raises:
        HostError: no source serves; nothing is left of the attempt.
    """
    marker_of(dest).unlink(missing_ok=True)
    staging = dest.with_name(f".{dest.name}.new")
    for leftover in (staging, dest):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        if params["kind"] == "git":
            tree, origin = from_git(params, staging, attempts)
        else:
            tree, origin = from_sdist(params, staging)
        tree.rename(dest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    content = {"wanted": wanted(params), "origin": origin}
    write_atomic(marker_of(dest), as_json(content).encode(), 0o644)
    return origin


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the tree to its state and return the result."""
    params, dest = module.params, Path(module.params["dest"])
    index = [params["default_index"]] if params["default_index"] else []
    refuse_credentials([*params["urls"], *index], "urls")
    if params["kind"] == "sdist" and not params["python"]:
        raise HostError("python: name the Python whose pip shall download the sources")
    attempts: list[dict[str, str]] = []
    origin = read_origin(params, dest)
    changed = origin is None
    if changed and not module.check_mode:
        origin = fetch(params, dest, attempts)
    for attempt in attempts:
        module.warn(f"{attempt['url']} was left: {attempt['error']}")
    return {"changed": changed, "dest": str(dest), "origin": origin, "attempts": attempts}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "name": {"type": "str", "default": "vllm"},
            "version": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["sdist", "git"], "default": "sdist"},
            "sha256": {"type": "str"},
            "urls": {"type": "list", "elements": "str", "default": []},
            "commit": {"type": "str"},
            "python": {"type": "path"},
            "default_index": {"type": "str"},
            "env": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 1800},
        },
        supports_check_mode=True,
    )
    conclude(module, ensure, f"{module.params['dest']} could not be made")


if __name__ == "__main__":
    main()
