#!/usr/bin/python
"""The packages of conda environments, laid out as the channels that they came from."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle_conda
short_description: Gather the packages of conda environments into static channels
description:
  - Reads from C(conda-meta) which packages the solver chose for each environment, downloads each
    from its own address, proves its checksum, and writes C(<dest>/<channel>/<subdir>/) with the
    packages and a C(repodata.json) that names these alone.
  - The destination holds afterwards the packages of these environments and nothing else.
options:
  base:
    description: Directory of the environments.
    type: path
    required: true
  environments:
    description: The environments.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Directory of the environment below O(base).
        type: str
        required: true
      channels:
        description: The channels, in the order in which the environment was solved.
        type: list
        elements: dict
        required: true
        suboptions:
          name:
            description: Name of the directory that the channel becomes.
            type: str
            required: true
          url:
            description: Address of the channel, without a subdirectory.
            type: str
            required: true
  dest:
    description: Directory of the channels.
    type: path
    required: true
  timeout:
    description: Seconds that one package may take.
    type: int
    required: false
    default: 1800
attributes:
  check_mode:
    support: full
    description: Says that packages would be gathered; asks no channel.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The environment's packages are gathered
  bundle_conda:
    base: /var/cache/vllm-bundle/environments
    environments:
      - name: python-3.10
        channels:
          - name: main
            url: https://mirrors.tuna.tsinghua.edu.cn/anaconda/pkgs/main
    dest: /var/cache/vllm-bundle/content/store/conda
"""

RETURN = r"""
files:
  description: Paths of the packages below O(dest).
  returned: success
  type: list
  elements: str
bytes:
  description: Size of the packages in bytes.
  returned: success
  type: int
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_download import TROUBLE, explain, resume
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_files import CHUNK, as_json, write_atomic
from ansible.module_utils.vllm_urls import refuse_credentials

SILENCE = 60  # seconds without a byte
# What a channel says of a package; the rest of a conda-meta file is about its installation.
WORDS = (
    "arch", "build", "build_number", "constrains", "depends", "features", "license",
    "license_family", "md5", "name", "noarch", "platform", "python_site_packages_path", "sha256",
    "size", "subdir", "timestamp", "track_features", "version",
)  # fmt: skip
LISTS = {".conda": "packages.conda", ".tar.bz2": "packages"}


def records(prefix: Path) -> list[dict[str, Any]]:
    """Return what conda wrote about each package of an environment.

    Raises:
        HostError: there is no environment, or a file of it is damaged.
    """
    found = []
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise HostError(f"{path} is damaged ({error}); make the environment anew") from error
        if not {"url", "subdir", "name"} <= set(record):
            raise HostError(f"{path} does not say where the package came from")
        found.append(record)
    if not found:
        raise HostError(f"{prefix} has no packages in conda-meta; make the environment first")
    return found


def place(record: dict[str, Any], channels: list[dict[str, str]]) -> tuple[str, str]:
    """Return the channel and the file name of a package.

    Raises:
        HostError: it is of no channel that is named.
    """
    for channel in channels:
        base = f"{channel['url'].rstrip('/')}/{record['subdir']}/"
        name = unquote(record["url"][len(base) :])
        if record["url"].startswith(base) and name.endswith(tuple(LISTS)) and "/" not in name:
            return channel["name"], name
    known = ", ".join(channel["url"] for channel in channels)
    raise HostError(f"{record['name']} came from {record['url']}, which is in none of: {known}")


def checksum(path: Path, record: dict[str, Any]) -> bool:
    """Tell whether a package has the bytes that its channel promised."""
    kind = next((kind for kind in ("sha256", "md5") if record.get(kind)), None)
    if kind is None:
        raise HostError(f"{record['name']}: the channel names no checksum, so it is not carried")
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return bool(digest.hexdigest() == record[kind])


def have(target: Path, record: dict[str, Any], timeout: float) -> bool:
    """Have one package, proved; return whether it was fetched now.

    Raises:
        HostError: it cannot be had whole.
    """
    if target.is_file() and checksum(target, record):
        return False
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part, flaw = target.with_name(f".{target.name}.part"), ""
    for _ in range(3):
        try:
            resume(record["url"], part, SILENCE, timeout)
        except (HostError, *TROUBLE) as error:
            flaw = explain(error)
            continue
        if checksum(part, record):
            part.replace(target)
            return True
        part.unlink()
        flaw = "its checksum is not the one that the channel promised"
    raise HostError(f"{record['url']} could not be had: {flaw}")


def list_packages(folder: Path, subdir: str, found: dict[str, dict[str, Any]]) -> None:
    """Write a directory's repodata, which names these packages, and remove all others."""
    repodata: dict[str, Any] = {"info": {"subdir": subdir}, "removed": [], "repodata_version": 1}
    repodata.update({kind: {} for kind in LISTS.values()})
    for name, record in found.items():
        ending = next(ending for ending in LISTS if name.endswith(ending))
        said = {word: record[word] for word in WORDS if record.get(word) is not None}
        repodata[LISTS[ending]][name] = said
    # conda's classic solver asks for the second name first.
    for name in ("repodata.json", "current_repodata.json"):
        write_atomic(folder / name, as_json(repodata).encode(), 0o644)
    for path in folder.iterdir():
        if path.name not in found and not path.name.endswith("repodata.json"):
            path.unlink()


def gather(params: dict[str, Any], dest: Path) -> tuple[list[str], bool]:
    """Fetch and list the packages; return their paths, and whether any was fetched.

    Raises:
        HostError: a package cannot be had, or is of an unknown channel.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    fetched = False
    for environment in params["environments"]:
        wanted = records(Path(params["base"]) / environment["name"])
        # A channel that lacks one of its directories is an error to conda.
        subdirs = {record["subdir"] for record in wanted} | {"noarch"}
        for channel in environment["channels"]:
            for subdir in subdirs:
                found.setdefault((channel["name"], subdir), {})
        for record in wanted:
            channel, name = place(record, environment["channels"])
            target = dest / channel / record["subdir"] / name
            fetched |= have(target, record, params["timeout"])
            found[channel, record["subdir"]][name] = record
    for (channel, subdir), names in found.items():
        list_packages(dest / channel / subdir, subdir, names)
    for folder in dest.glob("*/*"):
        if (folder.parent.name, folder.name) not in found:
            shutil.rmtree(folder)
    return sorted(f"{c}/{s}/{name}" for (c, s), names in found.items() for name in names), fetched


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the channels to their state and return the result."""
    params, dest = module.params, Path(module.params["dest"])
    for environment in params["environments"]:
        refuse_credentials([channel["url"] for channel in environment["channels"]], "channels")
    if module.check_mode:
        return {"changed": True, "files": [], "bytes": 0}
    paths, fetched = gather(params, dest)
    size = sum((dest / path).stat().st_size for path in paths)
    return {"changed": fetched, "files": paths, "bytes": size}


def main() -> None:
    """Run as an Ansible module."""
    channel = {
        "name": {"type": "str", "required": True},
        "url": {"type": "str", "required": True},
    }
    environment = {
        "name": {"type": "str", "required": True},
        "channels": {"type": "list", "elements": "dict", "required": True, "options": channel},
    }
    module = AnsibleModule(
        argument_spec={
            "base": {"type": "path", "required": True},
            "environments": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": environment,
            },
            "dest": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 1800},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    conclude(module, ensure, f"{module.params['dest']} could not be filled")


if __name__ == "__main__":
    main()
