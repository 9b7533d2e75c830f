"""What is recorded of files, users and the like, so that a later look finds what has changed."""

from __future__ import annotations

import grp
import hmac
import pwd
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.vllm_files import sha256_of
from ansible.module_utils.vllm_owners import group_name, rights_of

SHADOW = Path("/etc/shadow")
DPKG = Path("/var/lib/dpkg/status")
INSTALLED = r"Status: \w+ ok installed"
RIGHTS = ("mode", "owner", "group")

Difference = dict[str, Any]


def difference(kind: str, subject: str, expected: Any, found: Any) -> Difference:
    """Return one difference between the host and what is expected of it."""
    return {"kind": kind, "subject": subject, "expected": expected, "found": found}


def rights(path: Path) -> dict[str, str] | None:
    """Return mode, owner and group; None when there is nothing."""
    try:
        found: dict[str, str] = rights_of(path.lstat())
    except OSError:
        return None
    return found


def unequal(
    kind: str, path: str, wanted: dict[str, Any], found: dict[str, Any]
) -> list[Difference]:
    """Return what differs of what was recorded."""
    differing = [
        difference(f"{kind} {key}", path, wanted[key], found.get(key))
        for key in (*RIGHTS, "sha256")
        if key in wanted and wanted[key] != found.get(key)
    ]
    if "seal" in wanted and wanted["seal"] != found.get("seal"):
        differing.append(difference(f"{kind} seal", path, "as written", "another content"))
    return differing


def seal(path: Path, key: bytes) -> str:
    """Return what tells a secret file from another one, and nothing to those without the key."""
    return hmac.new(key, path.read_bytes(), "sha256").hexdigest()


def file_record(file: dict[str, Any], key: bytes) -> dict[str, Any] | None:
    """Return what is recorded of a file; None when it is no regular file.

    Args:
        file: path, and whether it is secret.
        key: this host's, for secret files; without one they get no seal.
    """
    path = Path(file["path"])
    if path.is_symlink() or not path.is_file():
        return None
    secret = bool(file.get("secret"))
    record: dict[str, Any] = {"path": file["path"], "secret": secret, **(rights(path) or {})}
    if not secret:
        record["sha256"] = sha256_of(path)
    elif key:
        record["seal"] = seal(path, key)
    return record


def file_differences(files: list[dict[str, Any]], key: bytes) -> list[Difference]:
    """Return how files differ from their records."""
    found: list[Difference] = []
    for wanted in files:
        record = file_record(wanted, key)
        if record is None:
            found.append(difference("file", wanted["path"], "a regular file", "none"))
        else:
            found += unequal("file", wanted["path"], wanted, record)
    return found


def link_target(path: str) -> str | None:
    """Return where a link points; None when there is no link."""
    entry = Path(path)
    return str(entry.readlink()) if entry.is_symlink() else None


def link_differences(links: list[dict[str, Any]]) -> list[Difference]:
    """Return how links differ from their records."""
    pairs = [(wanted, link_target(wanted["path"])) for wanted in links]
    return [
        difference("link", wanted["path"], wanted["target"], target or "no link")
        for wanted, target in pairs
        if target != wanted["target"]
    ]


def directory_differences(directories: list[dict[str, Any]]) -> list[Difference]:
    """Return how directories differ from their records."""
    found: list[Difference] = []
    for wanted in directories:
        path = Path(wanted["path"])
        if not path.is_dir():
            found.append(difference("directory", wanted["path"], "a directory", "none"))
        else:
            found += unequal("directory", wanted["path"], wanted, rights(path) or {})
    return found


def absent_differences(patterns: list[str], listed: set[str]) -> list[Difference]:
    """Return what is there that is ours to write and that nothing lists."""
    paths = sorted(str(one) for pattern in patterns for one in Path("/").glob(pattern.lstrip("/")))
    return [
        difference("file not planned", one, "none", "a file") for one in paths if one not in listed
    ]


def switched_off_differences(links: list[dict[str, Any]]) -> list[Difference]:
    """Return what was switched off and is there again."""
    there = [one["path"] for one in links if Path(one["path"]).is_symlink()]
    return [difference("switched off", path, "none", "there again") for path in there]


def user_record(name: str) -> dict[str, Any] | None:
    """Return what is recorded of a user; None when there is none of that name."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    return {
        "name": name,
        "group": group_name(user.pw_gid),
        "home": user.pw_dir,
        "shell": user.pw_shell,
        "comment": user.pw_gecos,
        "locked": locked(name),
    }


def locked(name: str) -> bool | None:
    """Say whether no password opens an account; None where that cannot be read."""
    try:
        lines = SHADOW.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    word = next((line.split(":")[1] for line in lines if line.startswith(f"{name}:")), None)
    return None if word is None else word[:1] in ("!", "*")


def user_differences(users: list[dict[str, Any]]) -> list[Difference]:
    """Return which users are missing or are not as they were made."""
    found: list[Difference] = []
    for wanted in users:
        record = user_record(wanted["name"])
        if record is None:
            found.append(difference("user", wanted["name"], "a user", "none"))
            continue
        keys = [key for key in record if key in wanted and wanted[key] != record[key]]
        found += [difference(f"user {k}", wanted["name"], wanted[k], record[k]) for k in keys]
    return found


def members(group: str) -> list[str] | None:
    """Return the users that a group lists; None when there is no such group."""
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return None


def group_differences(groups: list[dict[str, Any]]) -> list[Difference]:
    """Return which groups are missing."""
    gone = [one["name"] for one in groups if members(one["name"]) is None]
    return [difference("group", name, "a group", "none") for name in gone]


def membership_differences(memberships: list[dict[str, Any]]) -> list[Difference]:
    """Return which users are no longer in the groups that they were put into."""
    return [
        difference("membership", one["user"], f"in group {one['group']}", "not in it")
        for one in memberships
        if one["user"] not in (members(one["group"]) or [])
    ]


def package_differences(names: list[str]) -> list[Difference]:
    """Return which packages of the operating system are not installed."""
    try:
        known = DPKG.read_text("utf-8", errors="replace")
    except OSError:
        return []
    return [
        difference("os package", name, "installed", "not installed")
        for name in names
        if not re.search(
            rf"^Package: {re.escape(name)}\n(?:.+\n)*?{INSTALLED}$", known, re.MULTILINE
        )
    ]
