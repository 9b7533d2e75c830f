"""What a machine of the lab is, in one dictionary, so that two states can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vllm_ansible.lab import ssh
from vllm_ansible.lab.machine import Machine
from vllm_ansible.lab.system import run

# Run by the machine's own Python. By path: kind, mode, owner, group, and a link's target, a file's
# SHA-256 or, of the many files of an environment, its size. What a program writes as it runs is
# left out: byte code, conda's history and its cache of packages, and the settings that git-lfs
# writes for git when it is installed, each time in another order.
_LOOK = r"""
import grp, hashlib, json, os, pwd, stat, subprocess
HASHED = ["/etc", "/srv/models", "/usr/local/bin", "/var/lib/vllm"]
SIZED = ["/opt", "/var/cache/vllm-ansible"]
LEFT_OUT = ("__pycache__", "pkgs", "ld.so.cache", "machine-id", "passwd-", "group-", "shadow-",
            "gshadow-", ".pwd.lock", "resolv.conf", "mtab", "history", "shadow", "gshadow",
            "gitconfig")

def name(get, number):
    try:
        return get(number)[0]
    except KeyError:
        return str(number)

def look(path, hashed):
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    found = [oct(mode)[2:], name(pwd.getpwuid, status.st_uid), name(grp.getgrgid, status.st_gid)]
    if stat.S_ISLNK(status.st_mode):
        return ["link", os.readlink(path)]
    if stat.S_ISDIR(status.st_mode):
        return ["directory", *found]
    if not stat.S_ISREG(status.st_mode):
        return ["other", *found]
    if not hashed:
        return ["file", *found, status.st_size]
    with open(path, "rb") as stream:
        return ["file", *found, hashlib.sha256(stream.read()).hexdigest()]

files = {}
for top, hashed in [(one, True) for one in HASHED] + [(one, False) for one in SIZED]:
    for parent, directories, names in os.walk(top):
        directories[:] = [one for one in directories if one not in LEFT_OUT]
        for one in [*directories, *names]:
            if one not in LEFT_OUT and not one.endswith((".pyc", ".dpkg-old")):
                files[os.path.join(parent, one)] = look(os.path.join(parent, one), hashed)
receipts = {}
for path in files:
    receipt = path.startswith("/var/lib/vllm/") and path.endswith(".json")
    manifest = path.startswith("/srv/models/") and path.endswith(".json") and path.count("/") == 4
    if receipt or manifest or path.endswith("/.vllm-release.json"):
        receipts[path] = json.load(open(path))
units = {}
ours = [one.rpartition("/")[2] for one in files if one.startswith("/etc/systemd/system/")]
ours += ["vllm@" + one[len("/etc/vllm/"):-len(".yaml")] + ".service" for one in files
         if one.startswith("/etc/vllm/") and one.endswith(".yaml")]
for unit in sorted({"nginx.service", *(one for one in ours if one.endswith(".service"))}):
    if "@." in unit:
        continue
    argv = ["systemctl", "show", "--property=ActiveState,UnitFileState,NeedDaemonReload", unit]
    units[unit] = sorted(subprocess.run(argv, capture_output=True, text=True).stdout.split())
print(json.dumps({"files": files, "receipts": receipts, "units": units}))
"""
# What differs each time that the same is done: when it was, and which inode it got.
_TIMES = frozenset(("seen", "placed", "filled", "proved", "saved", "written"))
# What tells a secret's change without the secret, made with a key of the host's own.
_SEALS = frozenset(("seal",))
# The files that a generation has copies of, and what tells their content.
_KEPT = "generation.json:files"
_SUMS = frozenset(("sha256",))

State = dict[str, Any]


def state_of(machine: Machine) -> State:
    """Files, links, units and receipts of a machine.

    Raises:
        LabError: It does not answer.
    """
    found = json.loads(run(*ssh.command(machine), "python3 -", stdin=_LOOK, timeout=120).stdout)
    state: State = {}
    for path, words in found["files"].items():
        # What they say is compared word by word, without times.
        state[path] = words[:-1] if path in found["receipts"] else words
    for path, content in found["receipts"].items():
        timeless = _leaving(content, _TIMES)
        state |= {f"{path}:{key}": value for key, value in timeless.items()}
    state.update(found["units"])
    return state


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What two states do not share, by path: what it was and what it is."""
    return {
        path: [before.get(path), after.get(path)]
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


def without(state: Mapping[str, Any], secrets: tuple[str, ...]) -> State:
    """A state with no more than mode and owner of what is made anew on each machine.

    Args:
        state: The state.
        secrets: Paths, or beginnings of them, whose content differs from machine to machine.
    """
    known = {path: _leaving(value, _SEALS) for path, value in state.items()}
    masked = {path for path in known if path.startswith(secrets)}
    for path, files in known.items():
        if path.endswith(_KEPT):
            copies = [one for one in files if one["path"].startswith(secrets)]
            masked |= {path.removesuffix(_KEPT) + one["copy"] for one in copies}
            known[path] = [_leaving(one, _SUMS) if one in copies else one for one in files]
    return {p: v[:4] if p in masked and isinstance(v, list) else v for p, v in known.items()}


def _leaving(value: Any, names: frozenset[str]) -> Any:
    """A value without the entries of some names, however deep they are."""
    if isinstance(value, dict):
        return {key: _leaving(one, names) for key, one in value.items() if key not in names}
    return [_leaving(one, names) for one in value] if isinstance(value, list) else value
