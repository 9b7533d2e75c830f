"""What a host's model snapshots are used for, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vllm_ansible.progress import amount

if TYPE_CHECKING:
    from vllm_ansible.data import Data
    from vllm_ansible.schema import Words

_HEADS = ("MODEL", "REVISION", "WHAT", "SIZE", "AGE", "STATE", "WHY")
_DAY, _HOUR = 86400, 3600


def wanted(words: Words, data: Data) -> set[str]:
    """Returns the snapshots that a server's instances need, each as NAME/REVISION.

    Args:
        words: The server's.
        data: The project's, which has the catalogue.
    """
    known = {**data.models, **words.models}
    names = {instance.model for instance in words.instances}
    return {f"{name}/{known[name].revision}" for name in names}


def table(result: Mapping[str, Any], root: str) -> str:
    """Returns what the module `model_prune` found, in lines of equal columns, and a sum.

    Args:
        result: The module's.
        root: Directory of the models, for a host that has none.
    """
    rows = [_HEADS, *map(_row, result["snapshots"])]
    if len(rows) == 1:
        return f"no model snapshots in {root}"
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, _sum(result)])


def _row(entry: Mapping[str, Any]) -> Sequence[str]:
    return (
        str(entry["name"]),
        str(entry["revision"])[:12] or str(entry["path"]).rpartition("/")[2],
        str(entry["kind"]),
        amount(entry["bytes"]),
        _age(entry["age_s"]),
        str(entry["state"]),
        entry["why"] or ", ".join(entry["used_by"]),
    )


def _age(seconds: int) -> str:
    if seconds >= _DAY:
        return f"{seconds // _DAY} d"
    return f"{seconds // _HOUR} h" if seconds >= _HOUR else f"{seconds // 60} min"


def _sum(result: Mapping[str, Any]) -> str:
    states = [entry["state"] for entry in result["snapshots"]]
    for state in ("removed", "would go"):
        if state in states:
            return f"{states.count(state)} {state}, {amount(result['freed_bytes'])}"
    unused = states.count("unused")
    if unused:
        return f"{unused} unused, {amount(result['unused_bytes'])}: -e prune_remove=true removes"
    return "nothing is unused"
