"""Which kernels an engine on the CPU computes with: vLLM's own, AMD's, or such as it compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_ansible.data import Device
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

# AMD's processors, and those made after them, have this instruction and nobody else does.
AMD = "sse4a"
ZEN = {"avx512f", AMD}
# Instruction sets that compiled kernels are of, each with all before it.
SETS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")
# Where the plugin lies that has vLLM load the graphs that it has kept.
PLUGINS = "/etc/vllm/python.d"


def of_amd(context: Context) -> list[str]:
    """The requirements with which vLLM computes on AMD's processors, where it takes them.

    Args:
        context: Inputs and findings.
    """
    pins = context.data.versions.amd_kernels.requirements.get(context.version, [])
    known = context.models
    # Seen to answer with models of texts alone.
    texts = all(known[one.model].kind == "text" for one in context.words.instances)
    return pins if texts and set(context.facts.cpu_flags) >= ZEN else []


def compiled(context: Context, device: Device, words: Instance) -> bool:
    """Whether an instance compiles its kernels at its first start.

    Unless the inventory says, it does where that was measured to be worth a compiler on the host
    and two minutes: models of texts, on vLLM's own kernels and on AMD's.

    Args:
        context: Inputs and findings.
        device: What it computes on.
        words: The instance.
    """
    if words.compile is not None or device == "gpu":
        return bool(words.compile)
    text = context.models[words.model].kind == "text"
    return text and context.data.versions.has_one_process(context.version)


def arguments(context: Context, words: Instance) -> dict[str, bool]:
    """The argument that keeps an engine on the CPU from compiling, where it shall not.

    Args:
        context: Inputs and findings.
        words: The instance.
    """
    if compiled(context, "cpu", words):
        context.because(
            f"{words.name}.compile", "true",
            "1.0 to 1.7 times the defaults' tokens/s; the first start takes two minutes more",
        )  # fmt: skip
        return {}
    context.because(
        f"{words.name}.enforce-eager", "true",
        "nothing is compiled: ready in a fifth of the time, 0.6 to 0.8 of the tokens/s, and "
        "no compiler on the host",
    )  # fmt: skip
    return {"enforce-eager": True}


def environment(context: Context, words: Instance) -> dict[str, str]:
    """The variables with which an engine on the CPU compiles, or does not.

    Args:
        context: Inputs and findings.
        words: The instance.
    """
    if not compiled(context, "cpu", words):
        # The sampler compiles under --enforce-eager too; without a compiler the engine dies.
        return {"TORCH_COMPILE_DISABLE": "1"}
    if not context.data.versions.has_one_process(context.version):
        return {}
    if {"PYTHONPATH", "VLLM_PLUGINS"} & set(words.env):
        # Without our plugin it cannot load again on the CPU what it has kept of the whole model
        # ("'function' object has no attribute 'finalize_loading'"), and would compile it each time.
        return {"VLLM_USE_AOT_COMPILE": "0"}
    name = "-".join(["vllm", *_made_for(context)])
    context.because(
        f"{words.name}.compiled graph", f"kept in /var/cache/vllm/{words.name}/{name}",
        "later starts neither trace nor compile the model; kept by what it was compiled for",
    )  # fmt: skip
    return {"PYTHONPATH": PLUGINS, "VLLM_CACHE_ROOT": f"/var/cache/vllm/{words.name}/{name}"}


def _made_for(context: Context) -> list[str]:
    """What a compiled graph is made for and vLLM does not look at before it loads one."""
    sets = [one for one in SETS if one in context.facts.cpu_flags]
    of_zen = [one.replace("==", "-") for one in of_amd(context) if one.startswith("zentorch")]
    return [*sets[-1:], *of_zen]
