#!/usr/bin/python
"""Facts of a host that the plan decides by."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_facts
short_description: Tell what the plan needs to know of a host
description:
  - Reads processor, memory, disks, GPUs, C library, systemd, apt's archives and the receipt.
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
  gpu_timeout:
    description: Seconds after which a call of nvidia-smi is given up; a broken driver hangs.
    type: int
    required: false
    default: 30
  receipt_path:
    description: File of the receipt that the last run left.
    type: path
    required: false
    default: /var/lib/vllm/receipt.json
  compare:
    description: Whether the host is compared with its receipt, as the module C(receipt) does.
    type: bool
    required: false
    default: false
  deep:
    description: Whether that reads each byte of models and packages.
    type: bool
    required: false
    default: false
  question:
    description: >-
      Asked of each instance that the receipt names, through its door; nothing is asked where it is
      empty.
    type: str
    required: false
    default: ''
  question_timeout:
    description: Seconds after which an instance counts as silent. All are asked at the same time.
    type: int
    required: false
    default: 60
  key_file:
    description: File of the door's key.
    type: path
    required: false
    default: /etc/vllm/api_key
  users:
    description: Names of users who should have an account.
    type: list
    elements: str
    required: false
    default: []
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
    apt_archives (addresses that apt asks by plain HTTP, without a proxy or a password),
    container, cores (usable processors), numa_nodes, cpu_nodes (by NUMA node and core, the
    numbers of the usable processors), cpu_flags, memory_mib, memory_available_mib,
    missing_users (of those asked about), disk_free_mib (MiB by path), gpus (name, uuid,
    memory_mib, compute_capability, mig, and MIG's slices with name, uuid, index and
    memory_mib), gpu_driver, gpu_error (why GPUs that may be there cannot be asked),
    nvidia_devices (NVIDIA's display devices on the PCI bus), reachable (by URL), unreachable
    (reason by URL), receipt (object or null), receipt_error.
  returned: always
  type: dict
  sample: {"architecture": "x86_64", "cores": 2, "glibc": "2.36", "memory_mib": 24000}
compared:
  description: The receipt, what differs from it, and the units that must be restarted for that.
  returned: with O(compare)
  type: dict
answers:
  description: >-
    What each instance answered (name, base_url, model, question, answer, seconds), or its name and
    the error.
  returned: always
  type: list
  elements: dict
"""

import csv
import os
import platform
import pwd
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vllm_apt import archives
from ansible.module_utils.vllm_drift import look
from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_files import free_bytes, read_json_object
from ansible.module_utils.vllm_process import run
from ansible.module_utils.vllm_question import ask_instance
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
    "sse4a",
    "sve",
    "sve2",
]
GPU_FORMAT = ("--format=csv,noheader,nounits",)
SYSTEM = Path("/sys/devices/system")
PCI = Path("/sys/bus/pci/devices")
PCI_FILES = ("vendor", "device", "class")
NVIDIA = "0x10de"
# PCI's class of displays: VGA (0x0300) and, for cards without an outlet, 3D controllers (0x0302).
DISPLAY = "0x03"
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


def numbers(text: str) -> list[int]:
    """Return the numbers of a list such as C(0-3,8)."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def cpu_nodes(usable: set[int], root: Path = SYSTEM) -> list[list[list[int]]]:
    """Return the usable processors by NUMA node and core, in the kernel's order of both.

    Args:
        usable: The processors that a process may run on.
        root: Where the kernel tells of processors and nodes.

    Returns:
        Nodes of cores of processors; nothing where the kernel does not tell.
    """
    found = []
    for node in sorted((root / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        cores: dict[tuple[int, ...], list[int]] = {}
        try:
            for cpu in numbers((node / "cpulist").read_text("utf-8")):
                if cpu in usable:
                    about = root / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list"
                    cores.setdefault(tuple(numbers(about.read_text("utf-8"))), []).append(cpu)
        except (OSError, ValueError):
            return []
        found.append(list(cores.values()))
    return [cores for cores in found if cores]


def memory_mib(meminfo: str, word: str) -> int:
    """Return one line of /proc/meminfo in MiB."""
    match = re.search(rf"^{word}:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(match.group(1)) // 1024 if match else 0


def gpus(timeout: float) -> dict[str, Any]:
    """Return the GPUs that nvidia-smi lists, their driver, and why the list could not be had.

    Args:
        timeout: seconds for each call.
    """
    none: dict[str, Any] = {"gpus": [], "gpu_driver": None, "gpu_error": None}
    if shutil.which("nvidia-smi") is None:
        return none
    try:
        text = ask_driver([f"--query-gpu={','.join(GPU_FIELDS)}", *GPU_FORMAT], timeout)
        found = parse_gpus(text)
        if any(gpu["mig"] for gpu in found["gpus"]):
            add_slices(found["gpus"], ask_driver(["-L"], timeout))
    except HostError as error:
        return {**none, "gpu_error": error.message}
    return found


def ask_driver(words: list[str], timeout: float) -> str:
    """Return what nvidia-smi answers.

    It runs in a thread: one that waits in a broken driver's system call cannot be ended, and must
    not keep this module from ending.

    Raises:
        HostError: it failed, or did not end in time.
    """
    answer: list[Any] = []

    def call() -> None:
        try:
            answer.append(run(["nvidia-smi", *words], timeout=timeout))
        except HostError as error:
            answer.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout + 2)
    if not answer:
        raise HostError(f"nvidia-smi hangs in the driver for over {timeout:g} s: reboot the host")
    if isinstance(answer[0], HostError):
        raise answer[0]
    if answer[0].status != 0:
        status = f"nvidia-smi ended with {answer[0].status}"
        raise HostError(answer[0].tail(5) or status)
    return str(answer[0].output)


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
                "slices": [],
            }
        )
    error = None if found else f"nvidia-smi lists no GPU: {text.strip()[:200]!r}"
    return {"gpus": found, "gpu_driver": driver, "gpu_error": error}


def add_slices(found: list[dict[str, Any]], text: str) -> None:
    """Add the MIG slices that `nvidia-smi -L` lists below each GPU."""
    slices: list[dict[str, Any]] = []
    for line in text.splitlines():
        gpu = re.match(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)", line)
        if gpu:
            slices = next((one["slices"] for one in found if one["uuid"] == gpu.group(1)), [])
            continue
        mig = re.match(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)", line)
        if mig:
            name, index, uuid = mig.groups()
            size = slice_mib(name)
            one = {"name": name, "uuid": uuid, "index": int(index), "memory_mib": size}
            slices.append(one)


def slice_mib(name: str) -> int:
    """Return the MiB of a slice such as 1g.10gb, rounded down.

    The name rounds up: 1g.5gb, 1g.10gb and 1g.18gb have 4864, 9728 and 16384 MiB (nvidia-smi mig
    -lgip), 0.89 to 0.97 of the GB that they are called after.
    """
    match = re.search(r"(\d+)gb", name)
    return int(int(match.group(1)) * 1024 * 0.885) if match else 0


def nvidia_devices(root: Path = PCI) -> list[str]:
    """Return NVIDIA's display devices on the PCI bus, with or without a driver."""
    found = []
    for device in sorted(root.glob("*")):
        try:
            words = [(device / name).read_text("utf-8").strip() for name in PCI_FILES]
        except OSError:
            continue
        vendor, number, kind = words
        if vendor == NVIDIA and kind.startswith(DISPLAY):
            found.append(f"10de:{number[2:]} at {device.name}")
    return found


def has_account(name: str) -> bool:
    """Tell whether the host knows a user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


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
    usable = os.sched_getaffinity(0)
    return {
        "architecture": platform.machine(),
        "distribution": name,
        "distribution_version": version,
        "glibc": glibc(),
        "python": platform.python_version(),
        "systemd": systemd_version(),
        "apt_archives": archives(os.environ.get("http_proxy")),
        "container": first_output(["systemd-detect-virt", "--container"]) not in (None, "", "none"),
        "cores": len(usable),
        "numa_nodes": max(1, len(list((SYSTEM / "node").glob("node[0-9]*")))),
        "cpu_nodes": cpu_nodes(usable),
        "cpu_flags": cpu_flags(Path("/proc/cpuinfo").read_text("utf-8", errors="replace")),
        "memory_mib": memory_mib(meminfo, "MemTotal"),
        "memory_available_mib": memory_mib(meminfo, "MemAvailable"),
        "disk_free_mib": {path: free_bytes(Path(path)) >> 20 for path in params["disk_paths"]},
        **gpus(params["gpu_timeout"]),
        "nvidia_devices": nvidia_devices(),
        "reachable": {url: reason is None for url, reason in answers.items()},
        "unreachable": {url: reason for url, reason in answers.items() if reason},
        "missing_users": [name for name in params["users"] if not has_account(name)],
        **receipt(Path(params["receipt_path"])),
    }


def asked(params: dict[str, Any], receipt: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return what the instances that a receipt names answer, all asked at the same time."""
    content = (receipt or {}).get("content") or {}
    # An older receipt does not say where an instance's door is.
    known = [one for one in content.get("instances") or [] if "url" in one]
    answers: dict[str, dict[str, Any]] = {}

    def ask(one: dict[str, Any]) -> None:
        words = {"question": params["question"], "timeout": params["question_timeout"]}
        try:
            answers[one["name"]] = ask_instance(one, key_file=Path(params["key_file"]), **words)
        except HostError as error:
            answers[one["name"]] = {"name": one["name"], "error": error.message}

    threads = [threading.Thread(target=ask, args=(one,), daemon=True) for one in known]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[one["name"]] for one in known if one["name"] in answers]


def compare(params: dict[str, Any]) -> dict[str, Any]:
    """Return what differs between the host and its receipt.

    Raises:
        HostError: a newer version of the project wrote the receipt.
    """
    found = look(Path(params["receipt_path"]), deep=params["deep"])
    named = {"differences": found.differences, "restart": found.restart, "receipt": found.receipt}
    return {"compared": named}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "compare": {"type": "bool", "default": False},
            "deep": {"type": "bool", "default": False},
            "question": {"type": "str", "default": ""},
            "question_timeout": {"type": "int", "default": 60},
            "key_file": {"type": "path", "default": "/etc/vllm/api_key", "no_log": False},
            "probe_urls": {"type": "list", "elements": "str", "default": []},
            "probe_timeout": {"type": "int", "default": 5},
            "gpu_timeout": {"type": "int", "default": 30},
            "users": {"type": "list", "elements": "str", "default": []},
            "receipt_path": {"type": "path", "default": "/var/lib/vllm/receipt.json"},
            "disk_paths": {"type": "list", "elements": "path", "default": ["/opt", "/srv", "/var"]},
        },
        supports_check_mode=True,
    )
    try:
        refuse_credentials(module.params["probe_urls"], "probe_urls")
        facts = collect(module.params)
        compared = compare(module.params) if module.params["compare"] else {}
    except HostError as error:
        module.fail_json(msg=error.message, **error.details)
    answers = asked(module.params, facts["receipt"]) if module.params["question"] else []
    module.exit_json(changed=False, facts=facts, answers=answers, **compared)


if __name__ == "__main__":
    main()
