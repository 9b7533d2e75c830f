"""Which kernels an engine on the CPU computes with: vLLM's own, AMD's, or such as it compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_ansible.plan import length

if TYPE_CHECKING:
    from vllm_ansible.data import Device
    from vllm_ansible.plan.context import Context
    from vllm_ansible.schema import Instance

# AMD's processors, and those made after them, have this instruction and nobody else does.
AMD = "sse4a"
ZEN = {"avx512f", AMD}
# What our plugin looks at, and what FBGEMM multiplies weights in that format with.
WEIGHTS, HALF_FORMAT, HALF = "LINEAR_WEIGHTS", "float16", {"avx2", "f16c", "fma"}
FULL_FORMAT = "float32"
# Instruction sets that compiled kernels are of, each with all before it.
SETS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")
# Where our plugins of vLLM's lie: one has it load graphs that it has kept, one keeps weights small.
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


def narrow(context: Context) -> bool:
    """Whether the processor has no products of 16-bit numbers that vLLM's kernels could use.

    Args:
        context: Inputs and findings.
    """
    return context.facts.architecture == "x86_64" and "avx512f" not in context.facts.cpu_flags


def environment(context: Context, words: Instance) -> dict[str, str]:
    """The variables of an engine's kernels on the CPU, compiled or not, and of our plugins.

    Args:
        context: Inputs and findings.
        words: The instance.
    """
    # Whoever says one of these has plugins of their own, or wants none.
    ours = not {"PYTHONPATH", "VLLM_PLUGINS"} & set(words.env)
    small = ours and _small_weights(context, words)
    variables = _compilation(context, words, ours=ours, small=small)
    return variables | ({"PYTHONPATH": PLUGINS, WEIGHTS: HALF_FORMAT} if small else {})


def _small_weights(context: Context, words: Instance) -> bool:
    """Whether our plugin keeps 16-bit weights as such though the engine computes with 32 bits."""
    said = words.env.get(WEIGHTS)
    if said is not None:
        if said not in {HALF_FORMAT, FULL_FORMAT}:
            context.problems.append(
                f"{WEIGHTS} in env of {words.name} is '{said}': it is {HALF_FORMAT} or "
                f"{FULL_FORMAT}; leave it out to have it planned"
            )
        return said == HALF_FORMAT
    able = narrow(context) and set(context.facts.cpu_flags) >= HALF
    # Measured with models of texts and the engine that has one process.
    text = context.models[words.model].kind == "text"
    seen = text and context.data.versions.has_one_process(context.version)
    if not (able and seen and words.dtype in length.WIDE):
        return False
    context.because(
        f"{words.name}.{WEIGHTS}", HALF_FORMAT,
        "where the model's files have 16 bits FBGEMM multiplies these with 32-bit numbers, and "
        "reads half the bytes: 1.2 to 2.0 times the tokens/s",
    )  # fmt: skip
    return True


def _compilation(context: Context, words: Instance, *, ours: bool, small: bool) -> dict[str, str]:
    """With what an engine compiles its kernels and keeps them, or does not."""
    if not compiled(context, "cpu", words):
        # The sampler compiles under --enforce-eager too; without a compiler the engine dies.
        return {"TORCH_COMPILE_DISABLE": "1"}
    if not context.data.versions.has_one_process(context.version):
        return {}
    if not ours:
        # Without our plugin it cannot load again on the CPU what it has kept of the whole model
        # ("'function' object has no attribute 'finalize_loading'"), and would compile it each time.
        return {"VLLM_USE_AOT_COMPILE": "0"}
    name = "-".join(["vllm", *_made_for(context), *([HALF_FORMAT] if small else [])])
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
