"""Each instance's share of a host's memory and cores, where it computes on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan import length, threads
from vllm_ansible.plan.context import SAID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.data import Model
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

MIB_PER_GIB = 1024
# Beside weights and KV cache, an engine's processes were seen to need about this much (MiB).
ENGINE_OVERHEAD_MIB = 2048
SYSTEM_RESERVE_MIB = 1024
MOST_KV_GIB = 16
KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"


def kv_cache(
    context: Context, models: Mapping[str, Model], sizes: Mapping[str, int]
) -> dict[str, int]:
    """GiB of KV cache per instance: as said, else half of an equal share of what is left.

    Unset, vLLM would take 0.92 of the memory and refuse to start when less is free.

    Args:
        context: The host's words and facts; its problems grow.
        models: The models by name.
        sizes: Their weights in MiB; 0 where they are not known.
    """
    instances = context.words.instances
    least = {i.name: i.kv_cache_gib or length.needed_gib(i, models[i.model]) for i in instances}
    fixed = SYSTEM_RESERVE_MIB + sum(ENGINE_OVERHEAD_MIB + sizes[i.model] for i in instances)
    total = context.facts.memory_mib
    needed = fixed + sum(least.values()) * MIB_PER_GIB
    if total < needed:
        context.problems.append(
            f"memory is short: {len(instances)} instance(s) need {needed} MiB (weights, KV cache, "
            f"{ENGINE_OVERHEAD_MIB} MiB for each engine, {SYSTEM_RESERVE_MIB} for the system), the "
            f"host has {total} MiB: fewer instances, a smaller model or a smaller kv_cache_gib"
        )
    open_ones = [i for i in instances if i.kv_cache_gib is None]
    said = sum(i.kv_cache_gib or 0 for i in instances) * MIB_PER_GIB
    left = total - fixed - said
    share = left // 2 // max(len(open_ones), 1) // MIB_PER_GIB
    chosen = {i.name: _chosen(i, models[i.model], share, least[i.name]) for i in open_ones}
    if sum(chosen.values()) * MIB_PER_GIB > left:
        chosen = {name: least[name] for name in chosen}
    for one in instances:
        if one.kv_cache_gib is not None:
            context.because(f"{one.name}.{KV_CACHE}", f"{one.kv_cache_gib} GiB", SAID)
    for one in open_ones:
        gib = chosen[one.name]
        why = f"half of this instance's share of {left} MiB, {MOST_KV_GIB} GiB at most"
        if gib != min(share, MOST_KV_GIB):
            why = f"as little as it needs; {left} MiB are left for {len(open_ones)} instance(s)"
        context.because(f"{one.name}.{KV_CACHE}", f"{gib} GiB", why)
    return least | chosen


def _chosen(words: Instance, model: Model, share: int, least: int) -> int:
    """A share of the memory in GiB; an encoder keeps nothing, so it gets the least there is."""
    if length.bytes_per_token(words, model) == 0:
        return least
    return max(min(share, MOST_KV_GIB), least)


def cores(context: Context) -> dict[str, str]:
    """VLLM_CPU_OMP_THREADS_BIND per instance: disjoint ranges where several share the host.

    As many cores as each says; the others share equally what is left.
    """
    instances, count = context.words.instances, context.facts.cores
    open_ones = [one for one in instances if one.cores is None]
    said = sum(one.cores or 0 for one in instances)
    if len(instances) == 1 and open_ones:
        (one,) = instances
        return {one.name: _bound(context, one, "auto", "alone on the host: vLLM's own choice")}
    if said > 0 and said + len(open_ones) > count:
        asked = ", ".join(f"{i.name} {i.cores or 'at least 1'}" for i in instances)
        context.problems.append(
            f"cores are short: the instances want {said + len(open_ones)} ({asked}), the host has "
            f"{count}: fewer cores, or fewer instances"
        )
        return {one.name: "nobind" for one in instances}
    share = (count - said) // max(len(open_ones), 1)
    found, first = {}, 0
    for one in instances:
        if share == 0 and open_ones:
            why = f"{len(instances)} instances share {count} cores"
            found[one.name] = _bound(context, one, "nobind", why)
            continue
        width = one.cores or share
        text = f"{first}-{first + width - 1}" if width > 1 else str(first)
        why = (
            f"{count} cores shared by {len(instances)} instances"
            if one.cores is None
            else "as many cores as the inventory says"
        )
        found[one.name] = _bound(context, one, text, why)
        first += width
    return found


def _bound(context: Context, one: Instance, value: str, why: str) -> str:
    if not threads.one_process(context, one):
        context.because(f"{one.name}.VLLM_CPU_OMP_THREADS_BIND", value, why)
    return value
