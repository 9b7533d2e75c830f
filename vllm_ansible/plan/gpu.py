"""Decisions about GPUs: whether they can be used, by which version, and who gets which."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, NamedTuple

from packaging.version import Version

from vllm_ansible.plan.context import SAID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_ansible.data import Device, GpuFloor
    from vllm_ansible.plan.context import Context
    from vllm_ansible.plan.facts import HostFacts
    from vllm_ansible.plan.result import ModelSnapshot
    from vllm_ansible.schema import Instance

# Compute capability below which a GPU has no bfloat16: the T4 has 7.5.
BFLOAT16_SINCE = "8.0"
MIB = 2**20
# MiB that an engine needs on a GPU beside weights and cache, roughly: activations, CUDA's own.
COMPUTING_MIB = 2048
MEMORY_SHARE = "gpu-memory-utilization"
# The arguments whose product is the number of GPUs that one instance spans.
SPANS = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")


class Place(NamedTuple):
    """Where an engine can compute: a GPU, or a MIG slice of one.

    `visible` is its name in CUDA_VISIBLE_DEVICES; memory in MiB, None where it is not told.
    """

    name: str
    visible: str
    memory_mib: int | None
    capability: str
    is_slice: bool


class Share(NamedTuple):
    """What one instance gets.

    Attributes:
        places: Its GPUs or its slice.
        visible: CUDA_VISIBLE_DEVICES; None where there is nothing to choose from.
        memory_share: The share of each place's memory to be named to the engine; None where its
            own default is right.
    """

    places: tuple[Place, ...]
    visible: str | None
    memory_share: float | None


def branch_of(driver: str) -> int:
    """The branch of a driver such as 580.95.05; 0 where it cannot be read."""
    return int(re.split(r"\D", driver, maxsplit=1)[0] or 0)


def arguments(words: Instance) -> dict[str, object]:
    """What the inventory says in `extra_args`, by the flags' own names."""
    return {
        name.lstrip("-").replace("_", "-"): _as_text(value)
        for name, value in words.extra_args.items()
    }


def _as_text(value: object) -> object:
    """A mapping as JSON: the `--config` file of 0.11.0, and every version's lists, want it so."""
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return json.dumps(value) if isinstance(value, dict) else value


def span_of(words: Instance, names: Sequence[str] = SPANS) -> int:
    """How many parts one instance has, each on a GPU; or how many by some of the arguments."""
    said = [str(arguments(words).get(name, 1)) for name in names]
    return math.prod(int(number) for number in said if number.isdigit() and int(number) > 0)


def choose_device(context: Context) -> Device:
    """CPU or GPU, by the words and what the host has; where they name no version, that too.

    The default version stays wherever driver and GPU can run it. Else the newest older one that
    they can run is taken, if it may be installed: most carry flaws that must be accepted.
    """
    asked = context.words.engine.device
    if asked == "cpu":
        context.because("device", "cpu", "the inventory asks for it")
        return "cpu"
    lack = shortage(context, context.version)
    if "gpu" not in context.known.devices:
        lack = lack or f"vLLM {context.version} is not installed for GPU"
    if lack is not None and _older(context, lack):
        return "gpu"
    if asked == "gpu":
        context.because("device", "gpu", "the inventory asks for it")
    elif lack is None:
        gpu, driver = context.facts.gpus[0], context.facts.gpu_driver
        context.because("device", "gpu", f"{gpu.name} with driver {driver} can be used")
    else:
        return _cpu_instead(context, lack)
    if lack is not None:
        context.problems.append(
            f"vllm_engine.device is gpu, but {lack}: install or update the driver "
            f"(nvidia-smi shows it), or say device: cpu"
        )
    return "gpu"


def _cpu_instead(context: Context, lack: str) -> Device:
    """The CPU, where the inventory leaves the choice and there is no GPU to be used."""
    if "cpu" not in context.known.devices:
        context.problems.append(f"vLLM {context.version} has no CPU build that we install: {lack}")
    if context.facts.gpus or context.facts.nvidia_devices:
        context.notices.append(f"the CPU is used although the host has a GPU: {lack}")
    context.because("device", "cpu", lack)
    return "cpu"


def _older(context: Context, lack: str) -> bool:
    """Whether an older version takes the default's place, or is offered in an error."""
    versions, engine = context.data.versions, context.words.engine
    if engine.version is not None or not context.facts.gpus or context.facts.gpu_driver is None:
        return False
    fitting = [
        name
        for name, known in versions.vllm.items()
        if Version(name) < Version(versions.default_vllm)
        and "gpu" in known.devices
        and known.supports(context.python)
        and shortage(context, name) is None
    ]
    if not fitting:
        return False
    version = max(fitting, key=Version)
    flaws = [name for floor in versions.flaws(version) if floor.refused for name in floor.ids]
    if flaws and not engine.accept_vulnerable:
        context.problems.append(
            f"{lack}. Update it, or say vllm_engine.accept_vulnerable: true to get vLLM {version}, "
            f"the newest that this host can run, which carries {', '.join(flaws)}, or device: cpu"
        )
        return True
    context.chosen = version
    context.because("version", version, f"the newest that this host's GPU can run: {lack}")
    context.notices.append(f"vLLM {version} instead of {versions.default_vllm}: {lack}")
    context.because("device", "gpu", f"{context.facts.gpus[0].name} runs vLLM {version}")
    return True


def shortage(context: Context, version: str) -> str | None:
    """Why the host's GPUs cannot run a version of vLLM; None when one of them can."""
    facts, floor = context.facts, context.data.versions.gpu_floor(version)
    wheel = f"vLLM {version}'s GPU wheel (CUDA {floor.cuda})"
    lack = _no_driver(facts)
    if lack is not None:
        return lack
    driver = facts.gpu_driver or ""
    if branch_of(driver) < floor.driver:
        return f"driver {driver} is too old: {wheel} needs branch {floor.driver} or newer"
    if floor.glibc and facts.glibc and Version(facts.glibc) < Version(floor.glibc):
        return f"the host has glibc {facts.glibc}: {wheel} needs {floor.glibc}"
    if not any(_has_kernels(floor, gpu.compute_capability) for gpu in facts.gpus):
        found = ", ".join(sorted({f"{g.name} has {g.compute_capability}" for g in facts.gpus}))
        newest = (
            f" and no newer than {floor.newest_capability}.x" if floor.newest_capability else ""
        )
        needs = f"needs compute capability {floor.compute_capability} or newer{newest}"
        return f"{wheel} {needs}, and {found}"
    if not places(context, version):
        return (
            "MIG is on and there is no slice: make one (nvidia-smi mig -cgi PROFILE -C) or switch "
            "MIG off (nvidia-smi -mig 0)"
        )
    return None


def _no_driver(facts: HostFacts) -> str | None:
    """Why no driver reports a GPU; None when one does."""
    if facts.gpus and facts.gpu_driver is not None:
        return None
    devices = ", ".join(facts.nvidia_devices)
    if facts.gpu_error is not None:
        last = (facts.gpu_error.strip().splitlines() or [""])[-1]
        return f"the host's NVIDIA driver does not answer ({last})"
    if devices:
        return f"the host has an NVIDIA device ({devices}) but no NVIDIA driver"
    return "the host has no NVIDIA GPU that its driver reports"


def _has_kernels(floor: GpuFloor, capability: str) -> bool:
    found = Version(capability)
    newest = floor.newest_capability
    return found >= Version(floor.compute_capability) and (newest is None or found.major <= newest)


def places(context: Context, version: str) -> list[Place]:
    """Where a version can compute on this host, in the order of the driver.

    A whole GPU goes by its index, which every version understands, but by its UUID beside slices,
    where CUDA counts otherwise than the driver. A slice goes by its UUID, the only name it has; but
    vLLM (0.30.0 to 0.33.0, read) then takes the slice's number within its GPU for the number of a
    GPU, so a slice is of use only where such a GPU exists.
    """
    facts, floor = context.facts, context.data.versions.gpu_floor(version)
    alone = sum(max(1, len(gpu.slices)) for gpu in facts.gpus) == 1
    by_uuid = floor.uuids and any(gpu.mig for gpu in facts.gpus)
    found = []
    for number, gpu in enumerate(facts.gpus):
        if not _has_kernels(floor, gpu.compute_capability):
            continue
        capability = gpu.compute_capability
        if not gpu.mig:
            visible = gpu.uuid if by_uuid and gpu.uuid else str(number)
            found.append(Place(gpu.name, visible, gpu.memory_mib, capability, is_slice=False))
            continue
        for one in gpu.slices:
            if alone or (floor.uuids and one.index < len(facts.gpus)):
                name = f"{gpu.name} MIG {one.name}"
                found.append(Place(name, one.uuid, one.memory_mib, capability, is_slice=True))
    return found


def assign(
    context: Context, models: Mapping[str, ModelSnapshot], sizes: Mapping[str, int]
) -> dict[str, Share]:
    """Gives every instance its GPUs, and refuses what they cannot hold.

    Args:
        context: The host's words and facts; its problems grow.
        models: The models by name.
        sizes: Their weights in MiB; 0 where they are not known.
    """
    free, instances = places(context, context.version), context.words.instances
    if not free:
        return {}
    _skipped(context, free)
    spans = {one.name: span_of(one) for one in instances}
    disjoint = sum(spans.values()) <= len(free)
    taken, next_one = {}, 0
    for one in instances:
        width = spans[one.name]
        if width > 1 and (not disjoint or any(place.is_slice for place in free)):
            context.problems.append(
                f"{one.name} spans {width} GPUs ({', '.join(SPANS)}) and the instances together "
                f"{sum(spans.values())}: the host has {_listed(free)} (MIG slices cannot be joined)"
            )
            width = 1
        taken[one.name] = tuple(free[(next_one + n) % len(free)] for n in range(width))
        next_one += width
    choice = sum(max(1, len(gpu.slices)) for gpu in context.facts.gpus) > 1
    shares = {}
    for one in instances:
        mine = taken[one.name]
        with_it = [other for other in instances if set(taken[other.name]) & set(mine)]
        shares[one.name] = _share(context, one, mine, with_it, choice=choice)
        _memory(context, one, shares[one.name], sizes[models[one.model].name])
        _formats(context, one, mine)
    return shares


def _listed(found: list[Place]) -> str:
    return f"{len(found)}: {', '.join(place.name for place in found)}"


def _skipped(context: Context, found: list[Place]) -> None:
    """Says which slices are of no use."""
    all_slices = [s for gpu in context.facts.gpus if gpu.mig for s in gpu.slices]
    unused = len(all_slices) - sum(place.is_slice for place in found)
    if unused > 0:
        context.notices.append(
            f"{unused} of {len(all_slices)} MIG slices are left unused: vLLM {context.version} "
            f"cannot be told to take them (it reads a slice's number as that of a GPU)"
        )


def _share(
    context: Context, words: Instance, mine: tuple[Place, ...], sharers: list[Instance], *,
    choice: bool,
) -> Share:  # fmt: skip
    """What one instance gets of its GPUs: what it says, else an equal part of what others leave."""
    visible = ",".join(place.visible for place in mine) if choice else None
    if visible is not None:
        names = ", ".join(place.name for place in mine)
        context.because(f"{words.name}.CUDA_VISIBLE_DEVICES", visible, names)
    said = [_said_share(one) for one in sharers if MEMORY_SHARE in arguments(one)]
    whole = context.data.versions.gpu_floor(context.version).memory_share
    if sum(said) > 1 or (sum(said) >= whole and len(said) < len(sharers)):
        context.problems.append(
            f"GPU memory is short: {words.name} shares {mine[0].name} with instances whose "
            f"extra_args.{MEMORY_SHARE} add up to {sum(said):g}: together at most 1, and less "
            f"than {whole:g} where another says none"
        )
        return Share(mine, visible, None)
    if len(sharers) == 1 or MEMORY_SHARE in arguments(words):
        return Share(mine, visible, None)
    share = math.floor((whole - sum(said)) / (len(sharers) - len(said)) * 100) / 100
    why = f"{len(sharers)} instances share {mine[0].name}"
    why += f", others were given {sum(said):g} of it" if said else ""
    context.because(f"{words.name}.gpu-memory-utilization", share, why)
    return Share(mine, visible, share)


def part_of(context: Context, words: Instance) -> float:
    """The part of a GPU's memory that an instance takes which shares it with none."""
    default = context.data.versions.gpu_floor(context.version).memory_share
    return _said_share(words) or default


def _said_share(words: Instance) -> float:
    """The share of a GPU's memory that the inventory names; 0 where it is no number."""
    try:
        return float(str(arguments(words).get(MEMORY_SHARE, 0)))
    except ValueError:
        return 0


def _memory(context: Context, words: Instance, share: Share, weights: int) -> None:
    """Refuses weights and KV cache that do not fit into the engine's share of the GPU's memory."""
    smallest = _smallest(share)
    if smallest is None:
        context.notices.append(f"the memory of {share.places[0].name} is not told: not checked")
        return
    part = _part(context, words, share)
    room = int(_memory_of(smallest) * part)
    each = -(-weights // len(share.places))
    cache = (words.kv_cache_gib or 0) * 1024
    if each + cache > room or (weights and each + cache == room):
        of = f" of {weights} MiB on {len(share.places)} GPUs" if len(share.places) > 1 else ""
        context.problems.append(
            f"GPU memory is short: {words.name} needs {each} MiB for weights{of} and {cache} MiB "
            f"of KV cache, and gets {room} MiB ({part:g} of {smallest.name}'s "
            f"{smallest.memory_mib} MiB): a smaller model, more GPUs (extra_args."
            f"tensor-parallel-size), or fewer instances on this GPU"
        )


def left_for_cache(context: Context, words: Instance, share: Share, weights: int) -> int | None:
    """GiB that weights and computing leave of an engine's share, estimated; None where unknown.

    Args:
        context: The host's facts; the reason is noted.
        words: The instance.
        share: Its GPUs.
        weights: MiB; 0 where they are not known.
    """
    smallest = _smallest(share)
    if smallest is None or not weights:
        return None
    room = int(_memory_of(smallest) * _part(context, words, share))
    left = (room - -(-weights // len(share.places)) - COMPUTING_MIB) // 1024
    if left < 1:
        return None
    why = f"estimated: what {weights} MiB of weights and {COMPUTING_MIB} for computing leave"
    context.because(f"{words.name}.KV cache", f"{left} GiB", why)
    return left


def _smallest(share: Share) -> Place | None:
    return min((p for p in share.places if p.memory_mib), key=_memory_of, default=None)


def _part(context: Context, words: Instance, share: Share) -> float:
    """The part of a GPU's memory that the engine takes."""
    return share.memory_share or part_of(context, words)


def _memory_of(place: Place) -> int:
    return place.memory_mib or 0


def _formats(context: Context, words: Instance, mine: tuple[Place, ...]) -> None:
    """Refuses a number format that the GPU does not have."""
    if words.dtype == "bfloat16" and not has_bfloat16(mine):
        weakest = _weakest(mine)
        context.problems.append(
            f"vllm_instances {words.name}: dtype bfloat16 needs compute capability "
            f"{BFLOAT16_SINCE}, {weakest.name} has {weakest.capability}: say auto or half"
        )


def _weakest(mine: tuple[Place, ...]) -> Place:
    return min(mine, key=lambda place: Version(place.capability))


def has_bfloat16(mine: tuple[Place, ...]) -> bool:
    """Whether all of an instance's GPUs have bfloat16."""
    return Version(_weakest(mine).capability) >= Version(BFLOAT16_SINCE)


def choose_dtype(context: Context, words: Instance, share: Share | None) -> str:
    """The number format; older GPUs have no bfloat16 and are given half precision."""
    if words.dtype != "auto" or share is None or has_bfloat16(share.places):
        why = "the model's own" if words.dtype == "auto" else SAID
        context.because(f"{words.name}.dtype", words.dtype, why)
        return words.dtype
    weakest = _weakest(share.places)
    why = f"{weakest.name}'s compute capability {weakest.capability} has no bfloat16"
    context.because(f"{words.name}.dtype", "half", why)
    return "half"
