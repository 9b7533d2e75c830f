"""How vLLM gets onto the host: a wheel that somebody built, or one that the site compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from packaging.version import Version

from vllm_ansible.plan.result import WheelOrder, canonical

if TYPE_CHECKING:
    from vllm_ansible.data import Device
    from vllm_ansible.plan.context import Context

Method = Literal["wheel", "source"]


def choose_method(context: Context, device: Device) -> Method:
    """A wheel, or a build from source: as asked, else by what there is and the host can load."""
    asked, floor = context.words.engine.install, context.data.versions.cpu_wheels
    version, glibc = context.version, context.facts.glibc
    if device == "gpu":
        return "wheel"
    if asked == "source":
        context.because("install", "source", "the inventory asks for it")
        return "source"
    too_old = glibc is not None and Version(glibc) < Version(floor.glibc)
    if asked == "wheel":
        context.because("install", "wheel", "the inventory asks for it")
        if not context.data.versions.has_cpu_wheel(version):
            context.problems.append(
                f"vllm_engine.install is wheel, but vLLM {version} has no CPU wheel: there is one "
                f"from {floor.since} on; say install: source"
            )
        elif too_old:
            context.problems.append(
                f"the host has glibc {glibc}, vLLM's CPU wheel needs {floor.glibc} (Debian 12, "
                f"Ubuntu 22.04): say install: source, built on a host with glibc {glibc} or older"
            )
        return "wheel"
    if not context.data.versions.has_cpu_wheel(version):
        why = f"vLLM {version} has no CPU wheel; there is one from {floor.since} on"
    elif too_old:
        why = f"the host has glibc {glibc}, the CPU wheel needs {floor.glibc}"
    else:
        context.because("install", "wheel", "there is a CPU wheel of this version for this host")
        return "wheel"
    context.because("install", "source", why)
    context.notices.append(f"vLLM is compiled from source (half an hour to an hour): {why}")
    return "source"


def order_wheel(context: Context, method: Method) -> WheelOrder | None:
    """What the site has to compile for this host, if anything."""
    if method == "wheel":
        return None
    facts, engine = context.facts, context.words.engine
    made_from = {
        "version": context.version,
        "python": context.python,
        "architecture": facts.architecture,
        "source": engine.source,
        "torch": context.known.torch,
        "build": context.data.versions.build_of(context.version).model_dump(mode="json"),
    }
    key = f"{context.version}-cpu-py{context.python}-{canonical(made_from)[:12]}"
    return WheelOrder(
        key=key,
        version=f"{context.version}+cpu",
        python=context.python,
        architecture=facts.architecture,
        glibc=facts.glibc,
    )
