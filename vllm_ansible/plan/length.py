"""How long a text may be: the model's context, or what the KV cache holds for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_ansible.plan import gpu
from vllm_ansible.plan.context import SAID

if TYPE_CHECKING:
    from vllm_ansible.data import Device, Model
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

GIB = 2**30
# Number formats of four bytes.
WIDE = {"float32", "float"}
# Tokens of one block of the cache on a CPU, the largest that is used; vLLM keeps one for itself.
BLOCK = 128
# The parts of a spanning engine that each hold a part of every token's cache.
SPLITS = ("tensor-parallel-size", "pipeline-parallel-size")


def bytes_per_token(words: Instance, model: Model) -> int | None:
    """Bytes of one engine part's KV cache that a token takes; None where the model tells nothing.

    Args:
        words: The instance's number format, that of its cache, and over how many parts it spans.
        model: The figures, for a format of 2 bytes.
    """
    if model.kv_bytes_per_token is None:
        return None
    said = gpu.arguments(words)
    size = model.kv_bytes_per_token
    if words.dtype in WIDE:
        size *= 2
    if str(said.get("kv-cache-dtype", "")).startswith("fp8"):
        size = model.kv_bytes_per_token // 2
    return -(-size // gpu.span_of(words, SPLITS))


def needed_gib(words: Instance, model: Model) -> int:
    """GiB of KV cache that the longest text needs which the inventory asks for; at least 1."""
    each = bytes_per_token(words, model)
    if not each or words.max_model_len is None:
        return 1
    blocks = -(-words.max_model_len // BLOCK) + 1
    return max(1, -(-blocks * BLOCK * each // GIB))


def held(cache_gib: int, each: int) -> int:
    """Tokens of one text that a KV cache holds.

    Args:
        cache_gib: The cache in GiB.
        each: Bytes per token, more than 0.
    """
    return max(0, cache_gib * GIB // (each * BLOCK) - 1) * BLOCK


def arguments(
    context: Context, device: Device, words: Instance, model: Model, cache_gib: int | None
) -> dict[str, Any]:
    """The argument `max-model-len`, where it can be said.

    Args:
        context: Inputs and findings.
        device: What the engine computes on.
        words: The instance.
        model: Its model.
        cache_gib: Its KV cache in GiB; None where the engine finds that out itself.
    """
    each = bytes_per_token(words, model)
    room = held(cache_gib, each) if each and cache_gib is not None else None
    if words.max_model_len is not None:
        _refuse_too_long(context, words, model, cache_gib, room)
        why = SAID + (f"; the cache holds {room}" if room is not None else "")
        context.because(f"{words.name}.max-model-len", words.max_model_len, why)
        return {"max-model-len": words.max_model_len}
    if model.context is not None and (room is not None or each == 0):
        return {"max-model-len": _chosen(context, words, model.context, cache_gib, each, room)}
    return _left_to_the_engine(context, device, words)


def _chosen(
    context: Context, words: Instance, longest: int, cache_gib: int | None, each: int | None,
    room: int | None,
) -> int:  # fmt: skip
    length = longest if room is None else min(longest, room)
    if room is None or longest <= room:
        why = "the model's own context" + (f"; the cache holds {room}" if room else "")
    else:
        why = (
            f"what {cache_gib} GiB of KV cache hold at {each} bytes per token; "
            f"the model's own context is {longest}"
        )
    if length < 1:
        context.problems.append(
            f"vllm_instances {words.name}: {cache_gib} GiB of KV cache hold no text of "
            f"{words.model} ({each} bytes per token): say a larger kv_cache_gib"
        )
    context.because(f"{words.name}.max-model-len", length, why)
    return length


def _refuse_too_long(
    context: Context, words: Instance, model: Model, cache_gib: int | None, room: int | None
) -> None:
    asked = words.max_model_len or 0
    if room is not None and asked > room:
        context.problems.append(
            f"vllm_instances {words.name}: max_model_len {asked} needs {needed_gib(words, model)} "
            f"GiB of KV cache ({bytes_per_token(words, model)} bytes per token), it has "
            f"{cache_gib} GiB, which hold {room}: a smaller max_model_len or a larger kv_cache_gib"
        )
    # Models can be stretched: whoever says how knows what he does.
    stretched = {"hf-overrides", "rope-scaling"} & set(gpu.arguments(words))
    stretched |= {"VLLM_ALLOW_LONG_MAX_MODEL_LEN"} & set(words.env)
    if model.context is not None and asked > model.context and not stretched:
        context.problems.append(
            f"vllm_instances {words.name}: max_model_len {asked} is more than the context of "
            f"{words.model}, {model.context}: say at most that, or how it is stretched "
            f"(extra_args.hf-overrides)"
        )


def _left_to_the_engine(context: Context, device: Device, words: Instance) -> dict[str, Any]:
    lack = (
        "memory for the cache is known when the engine runs"
        if device == "gpu" and words.kv_cache_gib is None
        else f"{words.model}'s context and kv_bytes_per_token are not known"
    )
    subject = f"{words.name}.max-model-len"
    if context.data.versions.has_auto_length(context.version):
        context.because(subject, "auto", f"what the engine finds to fit: {lack}")
        return {"max-model-len": "auto"}
    context.because(subject, "the model's own", lack)
    context.notices.append(
        f"{words.name}: the model's own context is taken, and vLLM {context.version} does not "
        f"start where it does not fit: {lack} (max_model_len says it)"
    )
    return {}
