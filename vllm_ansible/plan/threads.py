"""In how many processes an engine computes on the CPU, and on which cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan import gpu, length

if TYPE_CHECKING:
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

# Up to so many cores one thread computes and the others serve, so there is nothing to bind.
FEW_CORES = 2


def environment(context: Context, words: Instance, bound: str) -> dict[str, str]:
    """The variables that place an engine's threads.

    vLLM starts a worker of its own to compute in, and binds that one's threads. It costs a start
    of the interpreter with all modules, its memory, and a queue that both sides look at without
    rest; where one thread computes there is nothing to bind.

    Args:
        context: Inputs and findings.
        words: The instance.
        bound: Its cores, as VLLM_CPU_OMP_THREADS_BIND has them.
    """
    if not _one_process(context, words):
        return {"VLLM_CPU_OMP_THREADS_BIND": bound}
    context.because(
        f"{words.name}.VLLM_ENABLE_V1_MULTIPROCESSING", "0",
        "one thread computes: scheduler and worker share a process, which saves a start and 0.5 GB",
    )  # fmt: skip
    return {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def _one_process(context: Context, words: Instance) -> bool:
    """Whether a worker of its own would be for nothing."""
    few = words.cores in (None, 1) and context.facts.cores <= FEW_CORES
    alone = len(context.words.instances) == 1
    said = gpu.arguments(words)
    whole = not {*length.SPLITS, "distributed-executor-backend"} & set(said)
    return few and alone and whole and context.data.versions.has_one_process(context.version)
