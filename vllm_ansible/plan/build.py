"""What the build host does to make the engine's wheel: decided from its own facts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from packaging.version import Version

from vllm_ansible.plan.context import Context
from vllm_ansible.plan.engine import choose_miniconda, choose_packages
from vllm_ansible.plan.result import Miniconda, Packages, PlanError, WheelOrder, _Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_ansible.data import Data, TorchSource
    from vllm_ansible.plan.facts import HostFacts
    from vllm_ansible.plan.site import Site
    from vllm_ansible.schema import Words

# MiB that one compiler takes at its worst, and what the machine needs beside the compilers.
JOB_MIB = 2048
RESERVE_MIB = 1024
# MiB below /var: measured 2.9 GB for the tree, the rest is the environment's torch for CPU.
DISK_MIB = 6000


class BuildPlan(_Part):
    """Everything that the role `vllm_build` is told, and for whom it works."""

    host: str
    waiting: list[str]
    key: str
    version: str
    python: str
    source: dict[str, Any]
    requirements_file: str
    runtime_file: str
    packages: Packages
    miniconda: Miniconda
    jobs: int
    onednn: dict[str, Any]
    compiler: str
    compiler_floor: str


def plan_build(
    host: str,
    orders: dict[str, WheelOrder],
    words: Words,
    facts: HostFacts,
    data: Data,
    site: Site,
    *,
    onednn_sha256: str | None = None,
) -> BuildPlan:
    """Decides how one wheel is compiled.

    Args:
        host: The build host's name.
        orders: The servers that wait for the wheel, with what each needs; all of one key.
        words: One of these servers' words.
        facts: The build host's.
        data: The project's data.
        site: What is known of the site.
        onednn_sha256: Of the archive on the controller that the words name, if they name one.

    Raises:
        PlanError: The build host cannot do it; lists every shortage with its figures.
    """
    order = next(iter(orders.values()))
    # What the host has installed says nothing of where torch for this build can be had now.
    asked = facts.model_copy(update={"receipt": None})
    context = Context(words=words, facts=asked, data=data, site=site)
    build = data.versions.build_of(context.version)
    packages, torch_source, _ = choose_packages(context, "cpu", compiled=True)
    problems = [
        *_cannot_load(host, orders, facts, words.engine.compiler),
        *_too_small(facts, words.engine.jobs),
        *_no_torch(context, torch_source),
    ]
    if facts.architecture != order.architecture:
        problems.append(f"it is {facts.architecture}, the wheel is wanted for {order.architecture}")
    if problems:
        raise PlanError(host, [f"as the build host: {problem}" for problem in problems])
    room = max(1, (facts.memory_mib - RESERVE_MIB) // JOB_MIB)
    return BuildPlan(
        host=host,
        waiting=sorted(orders),
        key=order.key,
        version=context.version,
        python=order.python,
        source=_source(context),
        requirements_file=build.requirements,
        runtime_file=build.runtime,
        packages=_for_build(packages, data),
        miniconda=choose_miniconda(context),
        jobs=words.engine.jobs or min(facts.cores, room),
        onednn=_onednn(words, build.onednn, onednn_sha256),
        compiler=words.engine.compiler,
        compiler_floor=build.compiler,
    )


def _cannot_load(
    host: str, orders: dict[str, WheelOrder], facts: HostFacts, compiler: str
) -> list[str]:
    """Refuses a build on a newer system than those that shall load the result.

    conda-forge's compiler brings the C library of an old system along; the system's does not.
    """
    if compiler == "conda" or facts.glibc is None:
        return []
    older = {
        name: one.glibc
        for name, one in sorted(orders.items())
        if one.glibc is not None and Version(one.glibc) < Version(facts.glibc)
    }
    if not older:
        return []
    hosts = ", ".join(f"{name} ({glibc})" for name, glibc in older.items())
    problem = (
        f"it has glibc {facts.glibc}; what it compiles may not load on {hosts}. Name a host with "
        f"the oldest glibc in the group build instead of {host}, or say "
        f"vllm_engine.compiler: conda"
    )
    return [problem]


def _too_small(facts: HostFacts, jobs: int | None) -> list[str]:
    problems = []
    needed = RESERVE_MIB + (jobs or 1) * JOB_MIB
    if facts.memory_mib < needed:
        problems.append(
            f"memory is short: {jobs or 1} compiler(s) need {needed} MiB, it has "
            f"{facts.memory_mib}: a smaller vllm_engine.jobs, or another host in the group build"
        )
    free = facts.disk_free_mib.get("/var")
    if free is not None and free < DISK_MIB:
        problems.append(f"disk is short: a build needs {DISK_MIB} MiB in /var, {free} are free")
    return problems


def _no_torch(context: Context, torch_source: TorchSource) -> list[str]:
    """Refuses a build without torch's build for CPU.

    The default index has the one for CUDA, whose CMake files want NVIDIA's toolkit.
    """
    if torch_source == "cpu-index":
        return []
    places = context.upstream.packages
    by = "the mirror host" if context.site.mirror else "this host"
    said = {"torch_indexes": places.torch_indexes, "torch_find_links": places.torch_find_links}
    asked = "; ".join(f"{word}: {', '.join(urls) or 'none'}" for word, urls in said.items())
    problem = (
        f"a build needs torch's build for CPU, and no place of it that {by} was asked about "
        f"answers ({asked}): give in vllm_sources.packages one that does; torch_find_links may be "
        f"a directory of the host with torch's wheel, such as file:///srv/wheels"
    )
    return [problem]


def _source(context: Context) -> dict[str, Any]:
    if context.words.engine.source == "git":
        return {"kind": "git", "urls": context.upstream.git}
    return {"kind": "sdist", "sha256": context.known.sdist}


def _onednn(words: Words, tag: str | None, archive_sha256: str | None) -> dict[str, Any]:
    said = words.sources.onednn
    if tag is None or (said.archive is None and not said.urls):
        return {}
    found: dict[str, Any] = {"sha256": said.sha256 or archive_sha256, "tag": tag}
    return found | ({"archive": said.archive} if said.archive else {"urls": said.urls})


def _for_build(packages: Packages, data: Data) -> Packages:
    """The engine's pins that torch needs, and the tools of the build."""
    names = set(data.versions.build_needs)
    kept = [
        pin
        for pin in packages.requirements
        if pin.split("==")[0] in names or pin.startswith(("nvidia-", "cuda-"))
    ]
    there = {pin.split("==")[0] for pin in kept}
    tools = [pin for pin in data.versions.build_tools if pin.split("==")[0] not in there]
    pins: Sequence[str] = sorted([*kept, *tools])
    hashes = {name: packages.hashes[name] for name in there if name in packages.hashes}
    return packages.model_copy(update={"requirements": list(pins), "hashes": hashes})
