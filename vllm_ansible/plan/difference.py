"""What a plan would change on a host, by what the host's receipt says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_ansible.plan.facts import HostFacts
    from vllm_ansible.plan.result import HostPlan


def differences(plan: HostPlan, facts: HostFacts) -> list[str]:
    """One line for each thing that would change; empty when the receipt is of this plan."""
    receipt = facts.receipt
    if receipt is None:
        return ["the host has no receipt: everything would be done"]
    if receipt.get("plan_digest") == plan.digest:
        return []
    was = facts.receipt_content()
    old, new = facts.installed_release().get("id"), plan.release.id
    lines = [f"release: {old or 'none'} -> {new}"] if old != new else []
    for kind, key in (("models", "revision"), ("instances", "config_digest")):
        lines += _named(kind, key, was.get(kind, []), plan.receipt.get(kind, []))
    return lines or [
        "configuration, or what carries it out, has changed: all files are written anew"
    ]


def _named(kind: str, key: str, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """What is added, removed or changed among things that have names."""
    before = {str(one.get("name")): one for one in old}
    after = {str(one["name"]): one for one in new}
    lines = [f"{kind}: {name} is added" for name in sorted(after.keys() - before.keys())]
    lines += [f"{kind}: {name} is removed" for name in sorted(before.keys() - after.keys())]
    lines += [
        f"{kind}: {name} is changed ({key})"
        for name in sorted(after.keys() & before.keys())
        if before[name].get(key) != after[name].get(key)
    ]
    return lines
