#!/usr/bin/python
"""Facts of a host that the plan decides by."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_facts
short_description: Tell what the plan needs to know of a host
description:
  - Reads processor, memory, disks, GPUs, C library, systemd and the receipt.
  - Asks which URLs answer.
  - Reads only; it never changes the host, in check mode or out of it.
options:
  probe_urls:
    description: URLs to ask; each is reachable when a GET is answered with a status below 400.
    type: list
    elements: str
    required: false
    default: []
  probe_timeout:
    description: Seconds after which a URL counts as not reachable. All are asked at the same time.
    type: int
    required: false
    default: 5
  receipt_path:
    description: File of the receipt that the last run left.
    type: path
    required: false
    default: /var/lib/vllm/receipt.json
  disk_paths:
    description: Paths whose free space is told; a path's nearest existing parent counts.
    type: list
    elements: path
    required: false
    default: [/opt, /srv, /var]
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
- name: The host's facts are known
  host_facts:
    probe_urls:
      - https://mirrors.tuna.tsinghua.edu.cn/anaconda/miniconda/
  register: host
"""

RETURN = r"""
facts:
  description: >-
    architecture, distribution, distribution_version, glibc, python, systemd (number or null),
    container, cores (usable ones), numa_nodes, cpu_flags, memory_mib, memory_available_mib,
    disk_free_mib (MiB by path), gpus (name, uuid, memory_mib, compute_capability, mig), gpu_driver,
    gpu_error, reachable (by URL), unreachable (reason by URL), receipt (object or null),
    receipt_error.
  returned: always
  type: dict
  sample: {"architecture": "x86_64", "cores": 2, "glibc": "2.36", "memory_mib": 24000}
"""

import csv
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import free_bytes, read_json_object
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_urls import ask_all, refuse_credentials

# The names that Ansible itself uses, for the systems whose os-release spells them another way.
DISTRIBUTIONS = {
    "almalinux": "AlmaLinux",
    "centos": "CentOS",
    "debian": "Debian",
    "fedora": "Fedora",
    "rhel": "RedHat",
    "rocky": "Rocky",
    "ubuntu": "Ubuntu",
}
# What chooses vLLM's kernels: x86's vectors and matrices, Arm's vectors and number types.
CPU_FLAGS = [
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
    "amx_tile",
    "asimd",
    "asimddp",
    "avx",
    "avx2",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx512bw",
    "avx512dq",
    "avx512f",
    "avx512vl",
    "avx_vnni",
    "bf16",
    "f16c",
    "fma",
    "i8mm",
    "sve",
    "sve2",
]
GPU_FIELDS = ("name", "memory.total", "compute_cap", "mig.mode.current", "driver_version", "uuid")


def distribution() -> tuple[str, str]:
    """Return the distribution's name and version as os-release tells them."""
    words: dict[str, str] = {}
    for name in ("/etc/os-release", "/usr/lib/os-release"):
        if Path(name).is_file():
            lines = Path(name).read_text("utf-8").splitlines()
            words = {k: v.strip("\"'") for k, _, v in (line.partition("=") for line in lines)}
            break
    name = words.get("ID", "linux")
    return DISTRIBUTIONS.get(name, words.get("NAME", name)), words.get("VERSION_ID", "")


def glibc() -> str | None:
    """Return the version of the GNU C library; None with another C library (musl)."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return None
    return text.split()[-1] if text else None


def first_output(argv: list[str]) -> str | None:
    """Return what a program prints; None when it is not there or does not end soon."""
    if shutil.which(argv[0]) is None:
        return None
    try:
        output: str = run(argv, timeout=10).output
    except HostError:
        return None
    return output.strip()


def systemd_version() -> int | None:
    """Return systemd's version number; None without systemd."""
    match = re.match(r"systemd (\d+)", first_output(["systemctl", "--version"]) or "")
    return int(match.group(1)) if match else None


def cpu_flags(cpuinfo: str) -> list[str]:
    """Return the processor's abilities that matter here, from the text of /proc/cpuinfo."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    present = set(match.group(1).split()) if match else set()
    return [flag for flag in CPU_FLAGS if flag in present]


def memory_mib(meminfo: str, word: str) -> int:
    """Return one line of /proc/meminfo in MiB."""
    match = re.search(rf"^{word}:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(match.group(1)) // 1024 if match else 0


def gpus() -> dict[str, Any]:
    """Return the GPUs that nvidia-smi lists, their driver, and why the list could not be had."""
    none: dict[str, Any] = {"gpus": [], "gpu_driver": None, "gpu_error": None}
    if shutil.which("nvidia-smi") is None:
        return none
    argv = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        result = run(argv, timeout=30)
    except HostError as error:
        return {**none, "gpu_error": str(error)}
    if result.status != 0:
        return {**none, "gpu_error": result.tail(5) or f"nvidia-smi ended with {result.status}"}
    return parse_gpus(result.output)


def parse_gpus(text: str) -> dict[str, Any]:
    """Return the GPUs in nvidia-smi's CSV, whose columns are GPU_FIELDS."""
    found: list[dict[str, Any]] = []
    driver: str | None = None
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != len(GPU_FIELDS):
            continue
        name, memory, capability, mig, driver, uuid = (cell.strip() for cell in row)
        found.append(
            {
                "name": name,
                "uuid": uuid,
                # A GPU that shares the host's memory answers "[N/A]".
                "memory_mib": int(memory) if memory.isdigit() else None,
                "compute_capability": capability,
                "mig": mig == "Enabled",
            }
        )
    error = None if found else f"nvidia-smi lists no GPU: {text.strip()[:200]!r}"
    return {"gpus": found, "gpu_driver": driver, "gpu_error": error}


def receipt(path: Path) -> dict[str, Any]:
    """Return the receipt, or why it cannot be read."""
    try:
        return {"receipt": read_json_object(path), "receipt_error": None}
    except (ValueError, OSError) as error:
        return {"receipt": None, "receipt_error": f"{path}: {error}"}


def collect(params: dict[str, Any]) -> dict[str, Any]:
    """Return all facts."""
    meminfo = Path("/proc/meminfo").read_text("utf-8")
    name, version = distribution()
    answers = ask_all(params["probe_urls"], params["probe_timeout"])
    nodes = [
        entry for entry in Path("/sys/devices/system/node").glob("node[0-9]*") if entry.is_dir()
    ]
    return {
        "architecture": platform.machine(),
        "distribution": name,
        "distribution_version": version,
        "glibc": glibc(),
        "python": platform.python_version(),
        "systemd": systemd_version(),
        "container": first_output(["systemd-detect-virt", "--container"]) not in (None, "", "none"),
        "cores": len(os.sched_getaffinity(0)),
        "numa_nodes": max(1, len(nodes)),
        "cpu_flags": cpu_flags(Path("/proc/cpuinfo").read_text("utf-8", errors="replace")),
        "memory_mib": memory_mib(meminfo, "MemTotal"),
        "memory_available_mib": memory_mib(meminfo, "MemAvailable"),
        "disk_free_mib": {path: free_bytes(Path(path)) >> 20 for path in params["disk_paths"]},
        **gpus(),
        "reachable": {url: reason is None for url, reason in answers.items()},
        "unreachable": {url: reason for url, reason in answers.items() if reason},
        **receipt(Path(params["receipt_path"])),
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "probe_urls": {"type": "list", "elements": "str", "default": []},
            "probe_timeout": {"type": "int", "default": 5},
            "receipt_path": {"type": "path", "default": "/var/lib/vllm/receipt.json"},
            "disk_paths": {"type": "list", "elements": "path", "default": ["/opt", "/srv", "/var"]},
        },
        supports_check_mode=True,
    )
    try:
        refuse_credentials(module.params["probe_urls"], "probe_urls")
        facts = collect(module.params)
    except HostError as error:
        module.fail_json(msg=error.message, **error.details)
    module.exit_json(changed=False, facts=facts)


if __name__ == "__main__":
    main()
