#!/usr/bin/python
"""Facts of the mirror host that the plan and its configuration need."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: mirror_facts
short_description: Tell what a mirror holds, and what it can reach
description:
  - Reads the store's manifest and the manifests of the model snapshots, the free disk, the name
    servers and nginx's version.
  - Asks which of the given addresses answer this machine; others may answer the servers.
  - Reads only; it never changes the host, in check mode or out of it.
options:
  root:
    description: Directory of the mirror.
    type: path
    required: false
    default: /srv/mirror
  urls:
    description: Addresses to ask; each is reachable when a GET is answered with a status below 400.
    type: list
    elements: str
    required: false
    default: []
  timeout:
    description: Seconds after which an address counts as not reachable. All are asked at once.
    type: int
    required: false
    default: 10
  resolv_conf:
    description: File that names the machine's name servers.
    type: path
    required: false
    default: /etc/resolv.conf
  nginx:
    description: The program nginx.
    type: path
    required: false
    default: /usr/sbin/nginx
attributes:
  check_mode:
    support: full
    description: Nothing is changed in any mode.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: vllm-ansible
"""

EXAMPLES = r"""
- name: What the mirror holds is known
  mirror_facts:
    urls:
      - https://mirrors.tuna.tsinghua.edu.cn/anaconda/miniconda/
  register: mirror
"""

RETURN = r"""
facts:
  description: >-
    files (size in bytes and sha256 by path in the store, as its manifest says), models (revisions
    by name), free_mib, nameservers (as nginx writes them), ipv6 (whether a way out by IPv6 is
    known), nginx (its version; null where it is not installed), reachable (by URL), unreachable
    (reason by URL).
  returned: always
  type: dict
  sample: {"free_mib": 81920, "ipv6": false, "nginx": "1.22.1", "models": {}}
"""

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import free_bytes, read_json_object
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_urls import ask_all, refuse_credentials

ROUTES = Path("/proc/net/ipv6_route")
NOWHERE = "0" * 32


def store_files(root: Path) -> dict[str, Any]:
    """Return the store's manifest; an empty one where it is missing or damaged."""
    try:
        return read_json_object(root / "store/manifest.json") or {}
    except (ValueError, OSError):
        return {}


def models(root: Path) -> dict[str, list[str]]:
    """Return the revisions of each model that are there whole: those with a manifest."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "models").glob("*/*.json")):
        if not path.name.startswith(".") and path.with_suffix("").is_dir():
            found.setdefault(path.parent.name, []).append(path.stem)
    return found


def nameservers(path: Path) -> list[str]:
    """Return the name servers as nginx writes them; none where the file cannot be read."""
    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    except OSError:
        return []
    # A server's zone (fe80::1%eth0) means nothing to nginx.
    found = [words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1]
    return [f"[{one}]" if ":" in one else one for one in found if "%" not in one]


def ipv6_leads_out(routes: Path = ROUTES) -> bool:
    """Tell whether the machine has a default route by IPv6, other than the kernel's refusal."""
    try:
        lines = [line.split() for line in routes.read_text("utf-8").splitlines()]
    except OSError:
        return False
    return any(w[0] == NOWHERE and w[1] == "00" and w[-1] != "lo" for w in lines if len(w) > 1)


def nginx_version(program: str) -> str | None:
    """Return nginx's version; None where it is not installed."""
    try:
        said = run([program, "-v"], timeout=10)
    except HostError:
        return None
    match = re.search(r"nginx/(\d[\d.]*)", said.tail(5))
    return match.group(1) if match else None


def collect(params: dict[str, Any]) -> dict[str, Any]:
    """Return all facts."""
    root = Path(params["root"])
    answers = ask_all(params["urls"], params["timeout"])
    return {
        "files": store_files(root),
        "models": models(root),
        "free_mib": free_bytes(root) >> 20,
        "nameservers": nameservers(Path(params["resolv_conf"])),
        "ipv6": ipv6_leads_out(),
        "nginx": nginx_version(params["nginx"]),
        "reachable": {url: reason is None for url, reason in answers.items()},
        "unreachable": {url: reason for url, reason in answers.items() if reason},
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/srv/mirror"},
            "urls": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 10},
            "resolv_conf": {"type": "path", "default": "/etc/resolv.conf"},
            "nginx": {"type": "path", "default": "/usr/sbin/nginx"},
        },
        supports_check_mode=True,
    )
    try:
        refuse_credentials(module.params["urls"], "urls")
        facts = collect(module.params)
    except HostError as error:
        module.fail_json(msg=error.message, **error.details)
    module.exit_json(changed=False, facts=facts)


if __name__ == "__main__":
    main()
