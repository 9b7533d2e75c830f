"""In which number format an engine on the CPU computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan import gpu, kernels, share
from vllm_ansible.plan.context import SAID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance


def settled(context: Context, sizes: Mapping[str, int]) -> list[Instance]:
    """The instances, those that leave their number format open with the one that is computed in.

    Below AVX512 oneDNN has no products of 16-bit numbers ("could not create a primitive descriptor
    for the matmul primitive"), and vLLM falls back to torch's, which are slow: a third of the
    tokens/s at sixteen streams, a fifth of the speed of reading prompts (docs/tuning.md).

    Args:
        context: Inputs and findings; its reasons grow.
        sizes: Weights in MiB, as the models' files have them; 0 where they are not known.
    """
    given = context.words.instances
    wide = [_widened(context, one) for one in given]
    lack = _lack(context, wide, sizes)
    for one, other in zip(given, wide, strict=True):
        why = "the model's own" if one.dtype == "auto" else SAID
        if one.dtype != other.dtype:
            why = f"no AVX512, so 16-bit numbers have no fast products here{lack}"
        context.because(f"{one.name}.dtype", one.dtype if lack else other.dtype, why)
    return given if lack else wide


def _lack(context: Context, wide: list[Instance], sizes: Mapping[str, int]) -> str:
    """What forbids 32-bit weights, as the end of a sentence; empty where nothing does."""
    changed = [one for one in wide if one not in context.words.instances]
    unknown = sorted({one.model for one in changed if sizes[one.model] == 0})
    if unknown:
        return f", but the size of {', '.join(unknown)} is not known"
    return "" if share.fits(context, wide, sizes) else ", but the memory is too little for 32 bits"


def _widened(context: Context, one: Instance) -> Instance:
    # Measured with models of texts and the engine that has one process.
    text = context.models[one.model].kind == "text"
    seen = text and context.data.versions.has_one_process(context.version)
    free = one.dtype == "auto" and not {"dtype", "quantization"} & set(gpu.arguments(one))
    wide = kernels.narrow(context) and seen and free
    return one.model_copy(update={"dtype": "float32"}) if wide else one
