"""Compare a host with its receipt: reads only, in one pass."""

from __future__ import annotations

import pwd
import time
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils import vllm_environment, vllm_units
from ansible.module_utils.vllm_health import HEALTHY, health
from ansible.module_utils.vllm_lines import SHELLS, is_known, start_files
from ansible.module_utils.vllm_receipt import read_key, read_receipt
from ansible.module_utils.vllm_records import (
    Difference,
    absent_differences,
    difference,
    directory_differences,
    file_differences,
    group_differences,
    link_differences,
    membership_differences,
    package_differences,
    switched_off_differences,
    user_differences,
)
from ansible.module_utils.vllm_release import read_marker
from ansible.module_utils.vllm_seen import altered, changed_since, manifest_of, present_files

# The engine answers so once it is dead.
DEAD = "503"
ILL, STALE, STARTING = "service ill", "service stale", "service starting"
# Most differences that are told of one environment.
MOST = 50
# Seconds without an answer after which a service is ill; a busy engine takes its time.
PATIENCE = 10.0
# Seconds: the times of files and of processes come from different clocks.
SLACK = 2.0
# Rights are put right without a restart.
CONTENT = (
    "file", "file sha256", "file seal", "model", "package", "package file", "conda package",
    "conda file", "release",
)  # fmt: skip


def model_differences(models: list[dict[str, Any]], *, deep: bool) -> list[Difference]:
    """Return how models differ from what was proved; only what looks changed is read."""
    found: list[Difference] = []
    for path in (Path(model["path"]) for model in models if model.get("path")):
        manifest = manifest_of(path)
        if manifest.get("files"):
            found += snapshot_differences(path, manifest, deep=deep)
        else:
            found.append(difference("model", str(path), "a manifest beside it", "none"))
    return found


def snapshot_differences(path: Path, manifest: dict[str, Any], *, deep: bool) -> list[Difference]:
    """Return how one snapshot differs from its manifest."""
    found: list[Difference] = []
    for name, wanted in manifest["files"].items():
        entry = path / name
        size = entry.lstat().st_size if entry.is_file() and not entry.is_symlink() else None
        if size != wanted["size"]:
            bytes_found = "no file" if size is None else f"{size} bytes"
            found.append(difference("model", str(entry), f"{wanted['size']} bytes", bytes_found))
    extra = sorted(present_files(path) - set(manifest["files"]))
    found += [difference("model", str(path / name), "none", "a file") for name in extra]
    if found:
        return found
    looked = changed_since(path, manifest, full=deep)
    wrong = altered(path, manifest, looked)
    for name in looked:
        subject, stated = str(path / name), f"sha256 {manifest['files'][name]['sha256']}"
        if name in wrong:
            found.append(difference("model", subject, stated, f"sha256 {wrong[name]}"))
        elif name in changed_since(path, manifest):
            found.append(difference("model touched", subject, "as proved", "read, and unaltered"))
    return found


def environment_differences(prefixes: list[str], *, deep: bool) -> list[Difference]:
    """Return how Python environments differ from what was made."""
    expected = {"package": "as installed", "conda package": "as made", "release": "complete"}
    found: list[Difference] = []
    for prefix in prefixes:
        wrong = vllm_environment.differences(Path(prefix), deep=deep)
        found += [
            difference(kind, subject, expected.get(kind, "as installed"), what)
            for kind, subject, what in wrong[:MOST]
        ]
        if len(wrong) > MOST:
            found.append(difference("package", prefix, "as installed", f"{len(wrong) - MOST} more"))
    return found


def line_differences(lines: list[dict[str, Any]], trees: list[dict[str, Any]]) -> list[Difference]:
    """Return whose shells do not know conda any more."""
    prefix = next((tree["path"] for tree in trees if tree["kind"] == "conda"), None)
    found: list[Difference] = []
    for one in lines:
        if one["kind"] != "conda" or one["subject"] == "*" or prefix is None:
            continue
        try:
            user = pwd.getpwnam(one["subject"])
        except KeyError:
            found.append(difference("shell", one["subject"], "a user", "none"))
            continue
        files = start_files(user, list(SHELLS)).values()
        found += [
            difference("shell", str(file), "conda's lines", "none")
            for file in files
            if not is_known(file, Path(prefix) / "bin/conda")
        ]
    return found


def inputs_since(service: dict[str, Any], started: float, told: set[str]) -> str | None:
    """Return what a service reads at its start and that is newer than that; None without one.

    Args:
        service: with its inputs and trees.
        started: when it started, in seconds since 1970.
        told: files that differ anyway.
    """
    now = time.time()
    times = {path: mtime(path) for path in service.get("inputs") or []}
    for tree in service.get("trees") or []:
        times[tree] = float((read_marker(Path(tree)) or {}).get("filled") or 0)
        times[tree] = max(times[tree], float(manifest_of(Path(tree)).get("placed") or 0))
    # What lies in the future was written by a clock that was wrong, and says nothing.
    newer = [
        path
        for path, when in sorted(times.items())
        if started + SLACK < when <= now and path not in told
    ]
    return newer[0] if newer else None


def mtime(path: str) -> float:
    """Return when a file was last written; 0 when it is not there."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0


def service_differences(services: list[dict[str, Any]], told: set[str]) -> list[Difference]:
    """Return which services are ill, or run since before what they read was last written.

    What was changed by hand is told by itself. A service that is still within the time that its
    start may take is starting, and not ill.
    """
    states = vllm_units.show([one["unit"] for one in services])
    found: list[Difference] = []
    for one in services:
        active = vllm_units.active_seconds(states[one["unit"]])
        if active is None:
            continue  # the difference of the unit says so
        newer = inputs_since(one, time.time() - active, told)
        if newer:
            text = "runs since before that was written"
            found.append(difference(STALE, one["unit"], f"started with {newer}", text))
        answer = health(one["socket"], one["address"], route=one["path"], timeout=PATIENCE)
        if answer != HEALTHY:
            ill = active > one["ready_timeout"] or answer == DEAD
            kind, expected = ILL if ill else STARTING, f"{one['path']} answers with 200"
            found.append(difference(kind, one["unit"], expected, answer))
    return found


def to_restart(services: list[dict[str, Any]], found: list[Difference]) -> list[str]:
    """Return the units that run with something that was changed by hand, or that are ill."""
    return [one["unit"] for one in services if any(concerns(item, one) for item in found)]


def concerns(item: Difference, service: dict[str, Any]) -> bool:
    """Say whether a difference is mended only when a service starts anew."""
    kind, subject, unit = item["kind"], item["subject"], service["unit"]
    if kind == STARTING:
        return False
    if kind.startswith("service "):
        return bool(subject == unit)
    if kind in ("unit drop-in", "unit file"):
        return bool(subject == unit or vllm_units.is_about(subject, unit))
    places = [*(service.get("inputs") or []), *(service.get("trees") or [])]
    inside = any(subject == place or subject.startswith(f"{place}/") for place in places)
    return kind in CONTENT and inside


def differences(receipt: dict[str, Any], key: bytes, *, deep: bool) -> list[Difference]:
    """Return all differences of the host from a receipt of this format.

    Args:
        receipt: what was recorded.
        key: this host's, with which secret files were sealed.
        deep: whether every byte of models and packages is read.

    Raises:
        HostError: systemd does not answer.
    """
    files = receipt.get("files", [])
    ours = {one["path"] for one in [*files, *receipt.get("links", [])]}
    found: list[Difference] = file_differences([*files, *receipt.get("marks", [])], key)
    found += link_differences(receipt.get("links", []))
    found += directory_differences(receipt.get("directories", []))
    found += absent_differences(receipt.get("absent", []), ours)
    found += switched_off_differences(receipt.get("switched_off", []))
    found += group_differences(receipt.get("groups", []))
    found += user_differences(receipt.get("users", []))
    found += membership_differences(receipt.get("memberships", []))
    found += package_differences(receipt.get("os_packages", []))
    found += line_differences(receipt.get("lines", []), receipt.get("trees", []))
    found += environment_differences(environments(receipt), deep=deep)
    found += model_differences(receipt.get("content", {}).get("models") or [], deep=deep)
    found += [difference(*one) for one in vllm_units.differences(receipt.get("units", []), ours)]
    told = {one["subject"] for one in found}
    found += service_differences(receipt.get("services", []), told)
    return found


class Look(NamedTuple):
    """A host held against its receipt.

    Attributes:
        receipt: in the current format; None where there is none.
        differences: what differs, each with kind, subject, expected and found.
        restart: units that must be started anew.
    """

    receipt: dict[str, Any] | None
    differences: list[Difference]
    restart: list[str]


def look(path: Path, *, deep: bool = False) -> Look:
    """Hold a host against its receipt.

    Args:
        path: the receipt.
        deep: whether every byte of models and packages is read.

    Raises:
        HostError: the receipt is of a newer version, or systemd does not answer.
    """
    receipt, aged = read_receipt(path)
    found = [aged] if aged else []
    if receipt is None:
        return Look(None, found, [])
    found += differences(receipt, read_key(path), deep=deep)
    return Look(receipt, found, to_restart(receipt.get("services", []), found))


def environments(receipt: dict[str, Any]) -> list[str]:
    """Return the environments whose packages are compared."""
    release = (receipt.get("content", {}).get("release") or {}).get("path")
    found: list[str] = receipt.get("environments") or ([release] if release else [])
    return found
