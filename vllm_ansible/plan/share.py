"""Each instance's share of a host's memory and cores, where it computes on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_ansible.plan import gpu, length, threads
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


class Domain(NamedTuple):
    """A part of a host that instances are kept to.

    Attributes:
        instances: Those.
        cores: The processors' numbers of each of its cores.
        memory_mib: Its memory in MiB.
    """

    instances: list[Instance]
    cores: list[list[int]]
    memory_mib: int


def domains(context: Context) -> list[Domain]:
    """The NUMA nodes with their instances, in turn; the whole host where it has one or they span.

    An engine takes memory of one node alone, that of its first core, whatever its cores are; and a
    core that reads another node's memory waits for it.

    Args:
        context: The host's words and facts.
    """
    instances, nodes = context.words.instances, context.facts.nodes()
    whole = [Domain(instances, [core for node in nodes for core in node], context.facts.memory_mib)]
    if any(gpu.span_of(one) > 1 for one in instances):
        return whole
    memory = context.facts.memory_mib // len(nodes)
    parts = [
        Domain(instances[number :: len(nodes)], node, memory) for number, node in enumerate(nodes)
    ]
    fits = all(sum(one.cores or 1 for one in part.instances) <= len(part.cores) for part in parts)
    return [part for part in parts if part.instances] if fits else whole


def engine_mib(words: Instance, sizes: Mapping[str, int]) -> int:
    """MiB that an engine needs besides its KV cache.

    Args:
        words: The instance.
        sizes: Weights in MiB, as the models' files have them: of 16-bit numbers, as a rule.
    """
    wide = words.dtype in length.WIDE
    return ENGINE_OVERHEAD_MIB + sizes[words.model] * (2 if wide else 1)


def fits(context: Context, instances: list[Instance], sizes: Mapping[str, int]) -> bool:
    """Whether the host's NUMA nodes have the memory for these in the place of its instances.

    Args:
        context: The host's words and facts.
        instances: The same instances, in another number format.
        sizes: Their weights in MiB.
    """
    by_name = {one.name: one for one in instances}
    return all(
        _needed_mib([by_name[one.name] for one in part.instances], context.models, sizes)
        <= part.memory_mib
        for part in domains(context)
    )


def _needed_mib(
    instances: list[Instance], models: Mapping[str, Model], sizes: Mapping[str, int]
) -> int:
    """MiB that instances need with the smallest KV caches, and the system beside them."""
    return SYSTEM_RESERVE_MIB + sum(
        engine_mib(one, sizes) + _least(one, models[one.model]) * MIB_PER_GIB for one in instances
    )


def _least(words: Instance, model: Model) -> int:
    """GiB of KV cache, as said or for one of the longest texts."""
    return words.kv_cache_gib or length.needed_gib(words, model)


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
    found: dict[str, int] = {}
    for domain in domains(context):
        found |= _caches(context, domain, models, sizes)
    return found


def _caches(
    context: Context, domain: Domain, models: Mapping[str, Model], sizes: Mapping[str, int]
) -> dict[str, int]:
    instances, total = domain.instances, domain.memory_mib
    least = {i.name: _least(i, models[i.model]) for i in instances}
    fixed = SYSTEM_RESERVE_MIB + sum(engine_mib(i, sizes) for i in instances)
    needed = _needed_mib(instances, models, sizes)
    if total < needed:
        whose, spanned = "the host", ""
        if total < context.facts.memory_mib:
            whose = "their NUMA node"
            spanned = ", or extra_args.tensor-parallel-size to span several"
        context.problems.append(
            f"memory is short: {len(instances)} instance(s) need {needed} MiB (weights, KV cache, "
            f"{ENGINE_OVERHEAD_MIB} MiB for each engine, {SYSTEM_RESERVE_MIB} for the system), "
            f"{whose} has {total} MiB: fewer instances, a smaller model or a smaller kv_cache_gib"
            f"{spanned}"
        )
    open_ones = [i for i in instances if i.kv_cache_gib is None]
    said = sum(i.kv_cache_gib or 0 for i in instances) * MIB_PER_GIB
    left = total - fixed - said
    share = left // 2 // max(len(open_ones), 1) // MIB_PER_GIB
    chosen = {i.name: _chosen(i, models[i.model], share, least[i.name]) for i in open_ones}
    if sum(chosen.values()) * MIB_PER_GIB > left:
        chosen = {name: least[name] for name in chosen}
    for one in instances:
        gib = chosen.get(one.name)
        why = f"half of this instance's share of {left} MiB, {MOST_KV_GIB} GiB at most"
        if gib is None:
            why = SAID
        elif gib != min(share, MOST_KV_GIB):
            why = f"as little as it needs; {left} MiB are left for {len(open_ones)} instance(s)"
        context.because(f"{one.name}.{KV_CACHE}", f"{gib or one.kv_cache_gib} GiB", why)
    return least | chosen


def _chosen(words: Instance, model: Model, share: int, least: int) -> int:
    """A share of the memory in GiB; an encoder keeps nothing, so it gets the least there is."""
    if length.bytes_per_token(words, model) == 0:
        return least
    return max(min(share, MOST_KV_GIB), least)


def cores(context: Context) -> dict[str, str]:
    """VLLM_CPU_OMP_THREADS_BIND per instance: cores of its own where several share the host.

    As many cores as each says; the others of its NUMA node share equally what is left.
    """
    instances = context.words.instances
    if len(instances) == 1 and instances[0].cores is None:
        return {instances[0].name: _bound(context, instances[0], "auto", _alone(context))}
    found: dict[str, str] = {}
    for number, domain in enumerate(domains(context)):
        found |= _dealt(context, domain, number)
    return found


def _alone(context: Context) -> str:
    nodes = len(context.facts.nodes())
    why = "alone on the host: vLLM's own choice, a thread for each core but one for its scheduler"
    if nodes == 1:
        return why
    return (
        f"{why}, of the first of {nodes} NUMA nodes; the others compute for further instances, or "
        f"with extra_args.tensor-parallel-size: {nodes}"
    )


def _dealt(context: Context, domain: Domain, number: int) -> dict[str, str]:
    """The cores of one domain, dealt out to its instances."""
    instances, count = domain.instances, len(domain.cores)
    open_ones = [one for one in instances if one.cores is None]
    said = sum(one.cores or 0 for one in instances)
    if said > 0 and said + len(open_ones) > count:
        asked = ", ".join(f"{i.name} {i.cores or 'at least 1'}" for i in instances)
        context.problems.append(
            f"cores are short: the instances want {said + len(open_ones)} ({asked}), the host has "
            f"{count}: fewer cores, or fewer instances"
        )
        return {one.name: "nobind" for one in instances}
    share = (count - said) // max(len(open_ones), 1)
    whose = f"{count} cores"
    if count < sum(len(node) for node in context.facts.nodes()):
        whose += f" of NUMA node {number}"
    found, first = {}, 0
    for one in instances:
        if share == 0 and open_ones:
            why = f"{len(instances)} instances share {whose}"
            found[one.name] = _bound(context, one, "nobind", why)
            continue
        width = one.cores or share
        # Of a core that runs two threads one computes, the last, as vLLM chooses.
        text = _ranges([core[-1] for core in domain.cores[first : first + width]])
        why = f"{whose} shared by {len(instances)} instances: none is kept free"
        found[one.name] = _bound(context, one, text, why if one.cores is None else SAID)
        first += width
    return found


def _ranges(numbers: list[int]) -> str:
    """Numbers as the kernel lists them: 0-3,8."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _bound(context: Context, one: Instance, value: str, why: str) -> str:
    if not threads.one_process(context, one):
        context.because(f"{one.name}.VLLM_CPU_OMP_THREADS_BIND", value, why)
    return value
