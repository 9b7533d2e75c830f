"""In how many processes an engine computes on the CPU, and on which cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan import gpu, kernels, length

if TYPE_CHECKING:
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

# Up to so many cores nothing is left over that threads could be kept away from.
FEW_CORES = 2
# Fewer gained less for one stream; more lose more on a busy computer (docs/tuning.md).
LOOKS = 5000


def environment(context: Context, words: Instance, bound: str) -> dict[str, str]:
    """The variables that place an engine's threads.

    vLLM starts a worker of its own to compute in, and binds that one's threads. It costs a start
    of the interpreter with all modules, its memory, and a queue that both sides look at without
    rest; where all cores compute there is nothing to bind.

    Args:
        context: Inputs and findings.
        words: The instance.
        bound: Its cores, as VLLM_CPU_OMP_THREADS_BIND has them.
    """
    if not one_process(context, words):
        return {"VLLM_CPU_OMP_THREADS_BIND": bound}
    context.because(
        f"{words.name}.VLLM_ENABLE_V1_MULTIPROCESSING", "0",
        "few cores: scheduler and worker share a process, which saves a start, 0.5 GB, and a queue "
        "that takes a core",
    )  # fmt: skip
    threads = _threads(context, words)
    variables = {"OMP_NUM_THREADS": str(threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if threads > 1:
        variables |= _waiting(context, words)
    return variables


def _threads(context: Context, words: Instance) -> int:
    """How many compute in one process: more than one where that was measured to pay."""
    if words.cores is not None:
        return min(words.cores, context.facts.cores)
    if kernels.compiled(context, "cpu", words):
        count, why = context.facts.cores, "compiled kernels use all cores"
    else:
        count, why = 1, "kernels that are not compiled use one core"
    context.because(f"{words.name}.OMP_NUM_THREADS", count, why)
    return count


def _waiting(context: Context, words: Instance) -> dict[str, str]:
    """How threads wait for each other between two parts of a step: awake for a while, then asleep.

    GNU's OpenMP has them look without rest. With other work on the cores they then keep each other
    waiting: 0.03 to 0.3 of the defaults' tokens/s. But to be woken takes time, too: threads that
    sleep at once had 0.7 to 0.8 of the tokens/s at one stream, on AMD's processors half.
    """
    why = "looks for work before a thread sleeps: awake between two kernels, asleep otherwise"
    context.because(f"{words.name}.GOMP_SPINCOUNT", LOOKS, why)
    return {"GOMP_SPINCOUNT": str(LOOKS)}


def one_process(context: Context, words: Instance) -> bool:
    """Whether a worker of its own would be for nothing.

    Args:
        context: Inputs and findings.
        words: The instance.
    """
    few = context.facts.cores <= FEW_CORES
    alone = len(context.words.instances) == 1
    said = gpu.arguments(words)
    whole = not {*length.SPLITS, "distributed-executor-backend"} & set(said)
    return few and alone and whole and context.data.versions.has_one_process(context.version)
