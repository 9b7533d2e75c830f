"""What systemd says of units: whether they run, and what configures them."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path, PurePath

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_process import run

PROPERTIES = (
    "Id", "ActiveState", "UnitFileState", "FragmentPath", "DropInPaths", "NeedDaemonReload",
    "ActiveEnterTimestampMonotonic",
)  # fmt: skip
# What "enabled" comes to for units without an [Install] section and for generated ones.
ENABLED = ("enabled", "alias", "generated", "indirect", "static")
# What the distribution brings is not somebody's change to a unit.
VENDOR = ("/usr/lib/systemd/", "/lib/systemd/", "/usr/local/lib/systemd/")


def show(units: list[str]) -> dict[str, dict[str, str]]:
    """Return the properties of units by one call for all of them.

    Raises:
        HostError: systemd does not answer.
    """
    if not units:
        return {}
    argv = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *units]
    result = run(argv, timeout=60)
    blocks = result.output.strip().split("\n\n")
    if result.status != 0 or len(blocks) != len(units):
        raise HostError(f"systemd does not tell about {', '.join(units)}: {result.tail(5)}")
    pairs = zip(units, blocks)  # noqa: B905 - `strict` is newer than the hosts' Python
    return {
        unit: dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for unit, block in pairs
    }


def active_seconds(state: dict[str, str]) -> float | None:
    """Return for how long a unit has been active; None when it is not."""
    entered = state.get("ActiveEnterTimestampMonotonic", "")
    if state.get("ActiveState") != "active" or not entered.isdigit() or entered == "0":
        return None
    return time.clock_gettime(time.CLOCK_MONOTONIC) - int(entered) / 1e6


def template_of(unit: str) -> str | None:
    """Return the template of an instance: vllm@.service of vllm@a.service."""
    match = re.fullmatch(r"([^@]+@)[^@]+(\.[a-z]+)", unit)
    return "".join(match.groups()) if match else None


def is_about(path: str, unit: str) -> bool:
    """Say whether a drop-in is about a unit or its template, and not about all services."""
    names = [unit, template_of(unit)]
    return PurePath(path).parent.name in {f"{name}.d" for name in names if name}


def foreign_drop_ins(unit: str, state: dict[str, str], ours: set[str]) -> list[str]:
    """Return the drop-ins of a unit of ours that somebody else has put there."""
    found = shlex.split(state.get("DropInPaths", ""))
    return [p for p in found if p not in ours and not p.startswith(VENDOR) and is_about(p, unit)]


def foreign_fragment(state: dict[str, str], ours: set[str]) -> str | None:
    """Return the file that stands before ours and configures a unit instead; None without one."""
    found = state.get("FragmentPath", "")
    return found if found and found not in ours else None


def differences(units: list[str], ours: set[str]) -> list[tuple[str, str, str, str]]:
    """Return what is not as recorded of units: kind, unit, expected, found.

    Args:
        units: their names.
        ours: the paths of our files, unit files and drop-ins among them.

    Raises:
        HostError: systemd does not answer.
    """
    found: list[tuple[str, str, str, str]] = []
    for name, state in show(units).items():
        if state.get("ActiveState") != "active":
            found.append(("unit", name, "active", state.get("ActiveState", "")))
        if state.get("UnitFileState") not in ENABLED:
            found.append(("unit", name, "enabled", state.get("UnitFileState") or "not there"))
        if state.get("NeedDaemonReload") == "yes":
            found.append(("unit reload", name, "systemd has read its files", "changed since"))
        file = fragment(name, ours)
        if file:
            found += [
                ("unit drop-in", path, "none but ours", f"configures {name}")
                for path in foreign_drop_ins(name, state, ours)
            ]
            other = foreign_fragment(state, ours)
            if other:
                found.append(("unit file", name, file, other))
    return found


def fragment(unit: str, ours: set[str]) -> str | None:
    """Return the file of ours that a unit is made from."""
    names = {unit, template_of(unit)}
    return next((path for path in sorted(ours) if Path(path).name in names), None)
