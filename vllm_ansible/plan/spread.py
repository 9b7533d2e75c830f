"""Over how many GPUs an instance is spread, where the inventory leaves that to the plan. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_ansible.plan import gpu, length
from vllm_ansible.plan.share import MIB_PER_GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

TENSOR, PIPELINE = length.SPLITS


class Width(NamedTuple):
    """A number of GPUs, as vLLM is told it: `tensor` share each layer, in `pipeline` stages."""

    pipeline: int
    tensor: int

    @property
    def gpus(self) -> int:
        """How many there are in all."""
        return self.tensor * self.pipeline


def over_gpus(context: Context, sizes: Mapping[str, int]) -> list[Instance]:
    """The instances, those that one GPU cannot hold told to span several that nobody has.

    The fewest that hold weights, cache and what computing takes; layers are shared where the
    model's attention heads can be divided by that number, else there are stages.

    Args:
        context: The host's words and facts; reasons are noted.
        sizes: The models' weights in MiB; 0 where they are not known.
    """
    free, instances = gpu.places(context, context.version), context.words.instances
    room = [place.memory_mib for place in free if not place.is_slice and place.memory_mib]
    idle = len(free) - sum(gpu.span_of(one) for one in instances)
    # Slices cannot be joined, of unknown memory nothing is known, and who shares has none to add.
    if not room or len(room) < len(free) or idle < 0:
        return instances
    found = []
    for one in instances:
        if set(gpu.SPANS) & set(gpu.arguments(one)) or not sizes[one.model]:
            found.append(one)
            continue
        width = _width(context, one, sizes[one.model], min(room), idle)
        idle -= width.gpus - 1
        said = {TENSOR: width.tensor, PIPELINE: width.pipeline}
        more = {flag: number for flag, number in said.items() if number > 1}
        found.append(one.model_copy(update={"extra_args": {**one.extra_args, **more}}))
    return found


def _width(context: Context, words: Instance, weights: int, memory: int, idle: int) -> Width:
    """The least width whose GPUs hold the instance; 1 where none does."""
    heads = context.models[words.model].attention_heads
    room = int(memory * gpu.part_of(context, words))
    fitting = [
        width
        for width in sorted(_split(count, heads) for count in range(1, idle + 2))
        if _needed(context, words, weights, width) <= room
    ]
    width = fitting[0] if fitting else Width(1, 1)
    each, alone = (_needed(context, words, weights, w) for w in (width, Width(1, 1)))
    if not fitting:
        why = f"it needs {alone} MiB, {room} are one GPU's, and {idle + 1} do not hold it either"
    elif width.gpus == 1:
        why = f"one GPU holds it: {each} MiB of {room} for weights, cache and computing"
    else:
        why = f"it needs {alone} MiB and one GPU gives {room}: {each} on each of {width.gpus}"
    context.because(f"{words.name}.{TENSOR}", width.tensor, why)
    if width.pipeline > 1:
        why = f"its {heads or 'unknown number of'} attention heads do not go by {width.gpus}"
        context.because(f"{words.name}.{PIPELINE}", width.pipeline, why)
    return width


def _split(count: int, heads: int | None) -> Width:
    """So many GPUs as vLLM can use them; of a number of heads that nobody said, powers of two."""
    heads = heads or 1 << 16
    tensor = next(part for part in range(count, 0, -1) if count % part == 0 == heads % part)
    return Width(count // tensor, tensor)


def _needed(context: Context, words: Instance, weights: int, width: Width) -> int:
    """MiB that an instance needs of each GPU."""
    cache = words.kv_cache_gib
    if cache is None:
        parts = {**words.extra_args, TENSOR: width.tensor, PIPELINE: width.pipeline}
        split = words.model_copy(update={"extra_args": parts})
        cache = length.needed_gib(split, context.models[words.model])
    return -(-weights // width.gpus) + cache * MIB_PER_GIB + gpu.COMPUTING_MIB
