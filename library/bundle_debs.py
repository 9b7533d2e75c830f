#!/usr/bin/python
"""A signed repository of Debian packages with everything that they need."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: bundle_debs
short_description: Gather packages of the operating system into a signed flat repository
description:
  - Lets apt download the packages and all that they depend on, as if nothing were installed, so
    that any machine of the same release can install them from here alone.
  - Indexes them with C(apt-ftparchive) and signs the index with a key that is made for it and
    thrown away; the public key lies beside it as C(key.asc).
  - Needs the packages apt-utils, gpg and gpg-agent.
options:
  names:
    description: Names of the packages.
    type: list
    elements: str
    required: true
  dest:
    description: Directory of the repository. It is replaced as a whole.
    type: path
    required: true
  cache_dir:
    description: Where downloads are kept between runs.
    type: path
    required: true
  timeout:
    description: Seconds that the download may take.
    type: int
    required: false
    default: 3600
attributes:
  check_mode:
    support: full
    description: Says that packages would be gathered where there is no repository yet.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: The packages and what they need are gathered
  bundle_debs:
    names: [nginx, libnuma1]
    dest: /var/cache/vllm-bundle/content/store/apt/debian-12-x86_64
    cache_dir: /var/cache/vllm-bundle/debs
"""

RETURN = r"""
packages:
  description: The repository's packages, file by file.
  returned: success
  type: list
  elements: str
bytes:
  description: Size of all packages in bytes.
  returned: success
  type: int
"""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError, conclude
from ansible.module_utils.vllm_process import Finished, run

QUIET = {"DEBIAN_FRONTEND": "noninteractive"}
# A line of --print-uris: the address, the name that apt gives the file, its size, its checksum.
URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+\.deb) (?P<size>\d+) (?P<sum>\S*)")


def require(result: Finished, purpose: str) -> str:
    """Return a program's output.

    Raises:
        HostError: it failed; with its last lines.
    """
    if result.status != 0:
        raise HostError(f"{purpose} (status {result.status}):\n{result.tail(20)}")
    return str(result.output)


def apt(params: dict[str, Any], state: Path, *words: str) -> str:
    """Run apt-get as on a machine on which nothing is installed, and return its output.

    Raises:
        HostError: it failed; a name may be unknown, or no repository may answer.
    """
    (state / "status").touch()
    cache = Path(params["cache_dir"])
    (cache / "partial").mkdir(mode=0o755, parents=True, exist_ok=True)
    argv = ["apt-get", "--quiet=2", "--assume-yes", "--no-install-recommends"]
    argv += ["-o", f"Dir::State::status={state / 'status'}", "-o", f"Dir::Cache::archives={cache}"]
    # As root, apt downloads as another user, who may not write here.
    argv += ["-o", "APT::Sandbox::User=root", *words]
    result = run(argv, timeout=params["timeout"], env=QUIET)
    return require(result, "apt could not gather the packages")


def closure(params: dict[str, Any], state: Path) -> list[str]:
    """Return the file names, as apt's cache has them, of the packages and all that they need."""
    said = apt(params, state, "--print-uris", "install", *params["names"])
    found = [match["file"] for match in URI.finditer(said)]
    if not found:
        raise HostError(f"apt names no file for {params['names']}; are its lists empty?")
    return sorted(found)


def plain(name: str) -> str:
    """Return a file's name as Debian's own archive has it: without the version's epoch."""
    return re.sub(r"_\d+:", "_", unquote(name))


def sign(folder: Path, scratch: Path) -> None:
    """Sign a repository's Release file with a key that nobody has afterwards."""
    home = scratch / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", "--pinentry-mode"]
    gpg += ["loopback", "--passphrase", ""]
    try:
        made = [*gpg, "--quick-generate-key", "vllm-ansible bundle", "ed25519", "sign", "never"]
        require(run(made, timeout=120), "the repository's key could not be made")
        signed = [*gpg, "--output", str(folder / "InRelease"), "--clear-sign"]
        require(run([*signed, str(folder / "Release")], timeout=60), "gpg could not sign")
        key = run([*gpg, "--armor", "--export"], timeout=60)
        (folder / "key.asc").write_text(require(key, "the public key could not be written"))
    finally:
        run(["gpgconf", "--homedir", str(home), "--kill", "all"], timeout=60)


def index(folder: Path) -> None:
    """Write a flat repository's Packages and Release files."""
    said = run(["apt-ftparchive", "packages", "."], timeout=600, cwd=folder)
    (folder / "Packages").write_text(require(said, "the packages could not be indexed"))
    words = ["-o", "APT::FTPArchive::Release::Origin=vllm-ansible"]
    words += ["-o", "APT::FTPArchive::Release::Label=vllm-ansible bundle"]
    release = run(["apt-ftparchive", *words, "release", "."], timeout=600, cwd=folder)
    (folder / "Release").write_text(require(release, "the Release file could not be made"))


def gather(params: dict[str, Any], dest: Path) -> list[str]:
    """Make the repository beside its place and put it there; return its files."""
    dest.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vllm-bundle-") as folder:
        scratch = Path(folder)
        require(
            run(["apt-get", "--quiet=2", "update"], timeout=600), "apt's lists are not to be had"
        )
        files = closure(params, scratch)
        apt(params, scratch, "--download-only", "install", *params["names"])
        fresh = dest.with_name(f".{dest.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o755)
        for name in files:
            shutil.copyfile(Path(params["cache_dir"]) / name, fresh / plain(name))
        index(fresh)
        sign(fresh, scratch)
    shutil.rmtree(dest, ignore_errors=True)
    fresh.replace(dest)
    for old in set(Path(params["cache_dir"]).glob("*.deb")):
        if old.name not in files:
            old.unlink()
    return [plain(name) for name in files]


def listed(dest: Path) -> dict[str, int]:
    """Return the packages of a repository with their sizes in bytes."""
    return {path.name: path.stat().st_size for path in sorted(dest.glob("*.deb"))}


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the repository to its state and return the result."""
    params, dest = module.params, Path(module.params["dest"])
    if not params["names"]:
        raise HostError("names: the list is empty; name at least one package")
    before = listed(dest)
    if module.check_mode:
        return {"changed": not before, "packages": sorted(before), "bytes": sum(before.values())}
    gather(params, dest)
    after = listed(dest)
    return {"changed": after != before, "packages": sorted(after), "bytes": sum(after.values())}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "cache_dir": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    conclude(module, ensure, f"{module.params['dest']} could not be made")


if __name__ == "__main__":
    main()
