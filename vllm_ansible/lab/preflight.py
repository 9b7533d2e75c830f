"""What this computer must be and have before a lab is begun; all problems at once."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from vllm_ansible.lab import network, resolver
from vllm_ansible.lab.errors import LabError, PreflightError
from vllm_ansible.lab.spec import CACHE_ROOT, STATE_ROOT, LabSpec
from vllm_ansible.lab.system import Progress, run

# Program (or file) to the Debian package that has it.
_TOOLS = {
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
}
_KEYRING = ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring")
_MIB = 1024 * 1024


def check(lab: LabSpec, progress: Progress, *, running: bool) -> None:
    """Refuse a computer that cannot carry the lab, before anything is made.

    Missing Debian packages are installed where that is possible.

    Args:
        lab: The lab.
        progress: Told of what is installed.
        running: Whether machines of the lab run already; then they hold memory and disk.

    Raises:
        PreflightError: With every problem and the way out of each.
    """
    problems = basics()
    if sys.platform != "linux":
        raise PreflightError(problems)
    missing = missing_packages()
    if missing and (problems or not _is_debian()):
        problems.append(
            f"missing Debian packages: {', '.join(missing)}; install them "
            f"(Debian, Ubuntu: apt-get install {' '.join(missing)}) or what they are called here"
        )
    problems += [*_state_problems(lab), *_dns_problems(lab)]
    if not running:
        problems += _memory_problems(lab)
    if not _is_there(lab.state):
        problems += _disk_problems(lab)
    if os.geteuid() == 0:
        problems += _overlay_problems()
    if shutil.which("ip"):
        problems += _network_problems(lab)
    if problems:
        raise PreflightError(problems)
    if missing:
        _install(missing, progress)
        if late := _network_problems(lab):
            raise PreflightError(late)


def basics() -> list[str]:
    """Name what stops every command of the lab: not Linux, or no root."""
    if sys.platform != "linux":
        return [f"this is {sys.platform}: the lab's machines need Linux; run it in a Linux machine"]
    if os.geteuid() != 0:
        return [f"user {os.geteuid()}: the lab needs root for machines and network; use sudo"]
    return []


def missing_packages() -> list[str]:
    """Name the Debian packages whose programs are not here."""
    missing = {package for tool, package in _TOOLS.items() if not _which(tool)}
    if not Path(_KEYRING[0]).exists():
        missing.add(_KEYRING[1])
    return sorted(missing)


def _which(tool: str) -> bool:
    # Root's PATH may lack the system directories when it comes from su or cron.
    parts = os.environ.get("PATH", "").split(os.pathsep)
    parts += [part for part in ("/usr/sbin", "/sbin") if part not in parts]
    os.environ["PATH"] = os.pathsep.join(parts)
    return shutil.which(tool) is not None


def _is_debian() -> bool:
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return False
    words = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    family = f"{words.get('ID', '')} {words.get('ID_LIKE', '')}".replace('"', "").split()
    return bool({"debian", "ubuntu"} & set(family)) and shutil.which("apt-get") is not None


def _install(packages: list[str], progress: Progress) -> None:
    progress(f"installing Debian packages on this computer: {', '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "-qq", "update", env=quiet)
        run("apt-get", "-qq", "install", "--no-install-recommends", "-y", *packages, env=quiet)
    except LabError as error:
        raise PreflightError(
            f"could not install {', '.join(packages)}; install them by hand: {error}"
        ) from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True


def _state_problems(lab: LabSpec) -> list[str]:
    """A lab that stands with another subnet cannot be repaired into this one."""
    record = lab.state / "lab.json"
    try:
        subnet = json.loads(record.read_text(encoding="utf-8"))["subnet"]
    except (OSError, ValueError, KeyError):
        return []  # no lab, or half-written by an interruption: up writes it again
    if subnet == str(lab.subnet):
        return []
    problem = (
        f"the lab {lab.name} stands with lab_subnet {subnet}, the inventory now says {lab.subnet}; "
        "run scripts/lab down first"
    )
    return [problem]


def _dns_problems(lab: LabSpec) -> list[str]:
    if resolver.servers(lab):
        return []
    problem = (
        "no name server that machines can reach: /etc/resolv.conf names none but this computer's "
        "own; give one with lab_dns: [address]"
    )
    return [problem]


def _memory_problems(lab: LabSpec) -> list[str]:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    words = dict(line.split(":", 1) for line in lines)
    free = int(words["MemAvailable"].split()[0]) // 1024
    if free >= lab.memory_mib:
        return []
    problem = (
        f"memory: {free} MiB available, {lab.memory_mib} MiB needed; stop something, or ask for "
        "less with lab_memory_mib if the lab's models are smaller"
    )
    return [problem]


def _disk_problems(lab: LabSpec) -> list[str]:
    problems, seen = [], set()
    for path in (STATE_ROOT, CACHE_ROOT):
        place = _existing(path)
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free // _MIB
        if free < lab.disk_mib:
            problems.append(
                f"disk: {free} MiB free for {path}, {lab.disk_mib} MiB needed; make room "
                "(scripts/lab purge empties the caches), or ask for less with lab_disk_mib"
            )
    return problems


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _overlay_problems() -> list[str]:
    if not shutil.which("mount"):
        return []  # named among the missing packages
    with tempfile.TemporaryDirectory(prefix=".vllm-lab-", dir=_existing(STATE_ROOT)) as name:
        place = Path(name)
        for part in ("lower", "upper", "work", "root"):
            (place / part).mkdir()
        layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        done = run("mount", "-t", "overlay", "overlay", "-o", layers, place / "root", check=False)
        if done.returncode == 0:
            run("umount", place / "root")
            return []
    problem = (
        f"overlay file systems do not work on {_existing(STATE_ROOT)} ({done.stderr.strip()}); "
        "load the kernel module overlay (modprobe overlay), or put /var/lib/vllm-lab on ext4 or xfs"
    )
    return [problem]


def _network_problems(lab: LabSpec) -> list[str]:
    problems = []
    if used := network.overlapping(lab):
        problems.append(
            f"lab_subnet {lab.subnet} is in use on this computer ({', '.join(used)}); choose "
            "another, with the machines' lab_address in it"
        )
    if network.is_foreign(lab):
        problems.append(
            f"an interface {lab.bridge} exists and is no bridge; choose another lab_name"
        )
    return problems
